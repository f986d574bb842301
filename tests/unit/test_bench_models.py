"""The benchmarks' models: what they are, and that requests and answers are read as sent."""

import contextlib
import dataclasses
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import onnx_graphs
import orjson
import psutil
import pytest
import torch
from hdrh.histogram import HdrHistogram

import aios
from aios.capacity.generator import new_histogram
from aios.capacity.load import Loop, Outcome, Stream, Target
from aios.contracts import Codec
from aios.errors import UsageError
from aios.models import Manifest
from aios.models.manifest import MatrixInput, OutputSource
from apps.loan_approval import data
from benchmarks import models, replicas, throughput, wire
from benchmarks.alone import Alone, Looped
from benchmarks.architectures import BERT_BASE, MINILM, Encoder, ResNet50, Size
from benchmarks.figures import Spread
from benchmarks.levels import ALONE, DEADLINE_S, SATURATED, Asked, Place, Round, measure


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return models.make("mlp", "onnxruntime", "fp32", 128, folder, folder)


def test_the_perceptron_has_learned_from_the_loans_and_takes_what_is_missing(mlp):
    from sklearn.metrics import roc_auc_score

    _, holdout = data.split(data.load())
    rows = torch.tensor(holdout[list(data.FEATURES)].to_numpy("float32"))
    assert torch.isnan(rows).any()
    with torch.no_grad():
        scores = mlp.source(rows)[:, 0].numpy()
    assert roc_auc_score(holdout[data.LABEL], scores) > 0.75


def test_a_records_body_is_read_by_the_contract_as_the_engine_gets_it(mlp):
    columns = mlp.columns(700, 5)
    batch = Codec(mlp.contract).decode_records(wire.records_body(mlp.contract, columns))
    assert batch.rows == 700
    np.testing.assert_array_equal(batch.matrix(), mlp.batch(700, 5).matrix())
    assert np.isnan(batch.matrix()).any()


def test_a_tensors_body_is_read_by_the_contract_and_its_answer_by_us():
    contract = aios.Contract(
        inputs={"image": aios.Tensor((2, 3)), "ids": aios.Tensor((4,), "INT64")},
        outputs={"classes": aios.Tensor((5,)), "score": aios.Number()},
    )
    random = np.random.default_rng(1)
    image = random.standard_normal((3, 2, 3), dtype=np.float32)
    columns = {"image": image, "ids": random.integers(0, 2**40, (3, 4))}
    body, length = wire.tensors_body(contract, columns)
    codec = Codec(contract)
    batch, request = codec.decode_v2(body, length)
    for name, column in columns.items():
        np.testing.assert_array_equal(batch.column(name), column)
    outputs = {"classes": image.reshape(3, 6)[:, :5], "score": np.array([0.5, 2.0, -1.0])}
    answer, header_length = codec.encode_v2(outputs, request, "m", "1", "id")
    found = wire.outputs_of(answer, str(header_length))
    for name, right in outputs.items():
        np.testing.assert_array_equal(found[name], right)


def test_bodies_of_one_shape_have_headers_of_one_length():
    model = models._encoder("minilm", None, 384, 16)
    lengths = {wire.tensors_body(model.contract, model.columns(4, at))[1] for at in range(20)}
    assert len(lengths) == 1
    first, second = (model.columns(4, at)["input_ids"] for at in (0, 4))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, model.columns(4, 0)["input_ids"])


def test_padding_changes_no_embedding():
    encoder = Encoder(Size(layers=2, width=24, heads=3, inner=48)).eval()
    ids = torch.arange(1000, 1012).reshape(2, 6)
    padded = torch.cat([ids, torch.full((2, 3), 77)], 1)
    seen = torch.ones_like(padded)
    seen[:, 6:] = 0
    with torch.no_grad():
        short = encoder(ids, torch.ones_like(ids), torch.zeros_like(ids))
        long = encoder(padded, seen, torch.zeros_like(padded))
        unmasked = encoder(padded, torch.ones_like(padded), torch.zeros_like(padded))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(short, unmasked, atol=1e-3)
    torch.testing.assert_close(short.norm(dim=1), torch.ones(2))


def test_sizes_are_the_published_ones():
    def parameters(make):
        with torch.device("meta"):
            return sum(one.numel() for one in make().parameters())

    # transformers counts 22,713,216 and 109,482,240 with its pooler; torchvision 25,557,032.
    assert parameters(lambda: Encoder(MINILM)) == 22_713_216 - 384 * 385
    assert parameters(lambda: Encoder(BERT_BASE)) == 109_482_240 - 768 * 769
    assert parameters(ResNet50) == 25_557_032


def test_a_model_of_half_precision_takes_and_gives_what_the_whole_one_does():
    encoder = Encoder(Size(layers=1, width=24, heads=3, inner=48)).eval()
    ids = torch.arange(1000, 1012).reshape(2, 6)
    given = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.no_grad():
        whole, half = encoder(*given), encoder.to(torch.bfloat16)(*given)
    assert half.dtype == torch.float32
    torch.testing.assert_close(whole, half, atol=3e-2, rtol=3e-2)


def wanted(*words):
    return throughput._arguments(words)


def test_what_does_not_exist_is_left_out_and_said():
    found, left_out = throughput.variants(
        wanted(
            "--model", "gbt", "minilm", "--engine", "onnxruntime", "torch", "--sequence", "8", "16"
        )
    )
    assert [str(one) for one in found] == [
        "gbt, onnxruntime fp32",
        "minilm, onnxruntime fp32, 8 tokens",
        "minilm, onnxruntime fp32, 16 tokens",
        "minilm, torch fp32, 8 tokens",
        "minilm, torch fp32, 16 tokens",
    ]
    assert left_out == {"gbt, torch fp32 on cpu": "torch has no trees"}
    with pytest.raises(UsageError, match=r"nothing is left.*torch has no trees"):
        throughput.variants(wanted("--model", "gbt", "--engine", "torch"))


def test_short_is_only_another_default():
    assert (wanted("--short").model, wanted("--short").rates) == (["mlp"], [])
    assert wanted("--short", "--model", "gbt").model == ["gbt"]


@pytest.mark.parametrize(
    "words",
    [["--rates", "0"], ["--rates", "1"], ["--batch", "0"], ["--seconds", "nan"], ["--model", "x"]],
)
def test_mistakes_are_told_at_once(words, capsys):
    with pytest.raises(SystemExit) as ended:
        wanted(*words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ((False, False, ["CPUExecutionProvider"]), "no NVIDIA device"),
        ((True, False, ["CUDAExecutionProvider"]), "this torch"),
        ((True, True, ["CPUExecutionProvider"]), "onnxruntime-gpu"),
        ((True, True, ["CUDAExecutionProvider"]), None),
    ],
)
def test_an_absent_gpu_is_told_apart_from_absent_libraries(facts, told):
    devices, torch_sees, providers = facts
    found = throughput.gpu_problem(
        ["onnxruntime", "torch"], devices=devices, torch_sees=torch_sees, providers=providers
    )
    assert found is None if told is None else told in found


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_an_engine_alone_answers_by_the_contract_and_counts_its_runs(engine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_graphs.score_model().SerializeToString())
    weights = torch.from_numpy(onnx_graphs.WEIGHTS)
    module = torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False), torch.nn.Sigmoid())
    module[0].weight.data = weights.T
    manifest = Manifest(
        engine=engine,
        inputs=MatrixInput(name="x", features=onnx_graphs.FEATURES),
        outputs={"score": OutputSource(name="score" if engine == "onnx" else "output_0")},
    )
    alone = Alone(tmp_path, manifest, module, device="cpu", threads=1)
    codec = Codec(onnx_graphs.score_contract())
    rows = codec.validate_records(onnx_graphs.sample_rows(6))
    loop = alone.asked([rows.slice(0, 3), rows.slice(3, 6)])
    right = torch.sigmoid(torch.from_numpy(rows.matrix()) @ weights)[:, 0]
    np.testing.assert_allclose(np.concatenate([one["score"] for one in loop.answers]), right, 1e-6)
    found = loop.loop(0.02)
    assert found.window_s >= 0.02
    assert HdrHistogram.decode(found.took).get_total_count() == found.runs > 1


@contextlib.contextmanager
def server_that_says(score):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = orjson.dumps({"outputs": [{"approve": score}]})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Place(Target(f"http://127.0.0.1:{server.server_port}/", {}), list)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_wrong_answer_of_what_is_served_ends_the_run():
    class Right:
        answers: ClassVar = [{"approve": np.array([0.5])}]

    with server_that_says(0.502) as place:
        asked = Asked(1, [b"{}"], {"ingress": place}, Right())
        asked.check(1e-2)
        with pytest.raises(RuntimeError, match=r"the served approve is off by up to 0\.002"):
            asked.check(1e-3)


class Noted(Asked):
    """Notes what is asked for instead of asking; 10 requests a second at each level."""

    def load(self, level, load):
        self.places.setdefault("noted", []).append((level, load))
        took = new_histogram()
        took.record_value(1000)
        encoded = took.encode().decode()
        return Outcome(encoded, encoded, 20, 0, [], 0, 2.0, 0.1, 20), 0.4


class Engine:
    def loop(self, seconds):
        return Looped("", 100, seconds, 0.5)


def test_each_second_round_asks_in_reverse_and_open_streams_are_shares_of_the_most():
    options = wanted("--seconds", "2", "--connections", "3", "--rates", "0.5")
    orders, noted = [], {}
    for number in (0, 1):
        asked = Noted(4, [], noted, Engine())
        found = list(measure(asked, "m", number, options))
        orders.append([(one.level, one.load) for one in found])
    replica = [("endpoint", ALONE), ("endpoint", SATURATED)]
    ingress = [("ingress", ALONE), ("ingress", SATURATED), ("ingress", "50%")]
    engine = [("engine", ALONE)]
    assert orders == [engine + replica + ingress, ingress + replica + engine]
    loads = noted["noted"][:5]
    assert [load for _, load in loads[:2]] == [Loop(1, 2.0), Loop(3, 2.0)]
    assert loads[4] == ("ingress", Stream("poisson", 5.0, 2.0, seed=0, give_up_s=DEADLINE_S))
    by_level = {one.level: one for one in found if one.load in (ALONE, "50%")}
    assert by_level["ingress"].records_per_s == 40
    assert by_level["ingress"].cpu_ms == pytest.approx(1000 * 0.4 / 80)
    assert by_level["engine"].records_per_s == 4 * 100 / 2
    assert by_level["ingress"].ms(0.99) == pytest.approx(1.0)


def test_a_round_becomes_figures_and_a_histogram_that_can_be_compared():
    took = new_histogram()
    for value in (1000, 2000, 50_000):
        took.record_value(value)
    one = Round("m", 2, "ingress", "80%", 3, 7.0, took.encode().decode(), 3, 0.6, 3.5)
    lines = list(throughput.kept(one))
    values = {fields["name"]: fields["value"] for kind, fields in lines if kind == "figure"}
    assert values == {
        "m, batch 2, ingress, 80%: records/s": 7.0,
        "m, batch 2, ingress, 80%: CPU ms per record": 100.0,
        "m, batch 2, ingress, 80%: p50 ms": pytest.approx(2.0, rel=1e-3),
        "m, batch 2, ingress, 80%: p99 ms": pytest.approx(50.0, rel=1e-3),
    }
    (histogram,) = (fields for kind, fields in lines if kind == "histogram")
    assert (histogram["rate_per_s"], histogram["hdr"]) == (3.5, one.took)
    assert "| m | 2 | ingress | 80% |" in throughput.table([one])
    replaced = dataclasses.replace(one, cpu_s=None)
    assert "CPU" not in str(list(throughput.kept(replaced)))
    assert "| not known |" in throughput.table([replaced])


def test_the_cpu_of_a_process_that_was_replaced_is_not_known():
    here = psutil.Process()
    assert replicas.cpu_s([here]) > 0
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = psutil.Process(gone.pid)
    gone.kill()
    gone.wait()
    assert replicas.cpu_s([here, ended]) is None


def a_round(level, load, number, records_per_s):
    return Round("m", 8, level, load, number, records_per_s, "", 1, 0.1)


def test_shares_are_of_the_engine_in_the_same_round_and_judged_on_a_gpu_only():
    rounds = [
        a_round("engine", ALONE, 0, 100.0),
        a_round("endpoint", ALONE, 0, 50.0),
        a_round("endpoint", SATURATED, 0, 96.0),
        a_round("endpoint", SATURATED, 1, 180.0),
        a_round("engine", ALONE, 1, 200.0),
    ]
    found = throughput.shares(rounds)
    assert found == {("m", 8, "endpoint"): Spread(pytest.approx(0.93), 0.9, 0.96)}
    assert throughput.goals(found, "cpu", 4) == []
    (goal,) = throughput.goals(found, "cuda", 4)
    assert not goal.met
