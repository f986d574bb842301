"""Peers beside aios: bodies, scores, standings, and that no server outlives its benchmark."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import orjson
import psutil
import pytest

from aios.capacity.answers import scores_as
from aios.capacity.load import Target
from aios.errors import UsageError
from aios.kernel.processes import is_alive, processes_of
from benchmarks import servers, standings
from benchmarks.commands import INSTALLED, environment, is_made, last_words
from benchmarks.figures import Round
from benchmarks.peer_servers import launch
from benchmarks.peer_servers.catalogue import INVOCATIONS, OPEN_INFERENCE, PEERS, RECORD, Peer
from benchmarks.peer_servers.launch import DoesNotServe, serving
from benchmarks.peers import AIOS_CANARY, FASTAPI, HAND_MADE, Contestant, numbered
from benchmarks.results import ResultFile
from benchmarks.scorer import Graph
from benchmarks.standings import LeftOut, Light, Visit
from benchmarks.workload import Workload

GRAPH = Graph("model.onnx", "input", ("income", "debt"), "probabilities", 1)
RECORDS = (b'{"id":"a","debt":2,"income":10.5}', b'{"id":"b","debt":3,"income":7}')


def a_workload(bodies=RECORDS) -> Workload:
    return Workload("two loans", None, None, None, GRAPH, bodies, (0.25, 0.75))


def a_visit(name=AIOS_CANARY, requests=1000, workers=1, number=0, **more) -> Visit:
    group = more.pop("group", standings.told_workers(workers))
    full = Round(name, 16, group, requests, 0, 2.0, 1.0, 2.0, 3.0, {"process": 0.5}, 0.0, 0.1)
    return Visit(workers, number, full, Light(1.5, 2.5, 9.0, 0), 120.0, 90.0, **more)


# -- what is asked and answered -------------------------------------------------------


def test_a_record_goes_out_as_it_is_where_the_protocol_takes_records() -> None:
    assert RECORD.bodies(RECORDS, GRAPH) is RECORDS


def test_a_tensor_has_the_features_in_the_order_of_the_graph() -> None:
    first, _ = OPEN_INFERENCE.bodies(RECORDS, GRAPH)
    (tensor,) = orjson.loads(first)["inputs"]
    assert tensor["data"] == [10.5, 2.0]
    assert (tensor["shape"], tensor["datatype"]) == ([1, 2], "FP32")
    assert orjson.loads(INVOCATIONS.bodies(RECORDS, GRAPH)[1]) == {"inputs": [[7.0, 3.0]]}


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        (RECORD, b'{"outputs":[{"approve":%s}]}'),
        (OPEN_INFERENCE, b'{"model_name":"loan","outputs":[{"name":"approve","data":[%s]}]}'),
        (INVOCATIONS, b'{"predictions":[%s]}'),
    ],
)
def test_each_protocols_answers_are_checked(protocol, answer) -> None:
    judge = scores_as([0.25, 0.75], protocol.score_at)
    assert judge(1, b"200", answer % b"0.75001") is None
    assert "0.25" in judge(1, b"200", answer % b"0.25")
    assert "503" in judge(1, b"503", answer % b"0.75")
    assert "null" in judge(1, b"200", answer % b"null")
    for other in (b'{"detail":"hello"}', b'{"outputs":[]}', b"[]", b"hello", b""):
        assert judge(1, b"200", other) is not None


def test_records_with_gaps_are_asked_of_nobody() -> None:
    bodies = (b'{"income":null}', RECORDS[1])
    kept = servers.complete(a_workload(bodies))
    assert (kept.bodies, kept.expected) == ((RECORDS[1],), (0.75,))


# -- standings ------------------------------------------------------------------------


def test_ratios_are_of_neighbours_with_as_many_workers() -> None:
    visits = [
        a_visit(requests=300),
        a_visit(FASTAPI, requests=100),
        a_visit(FASTAPI, requests=50, number=1),
        a_visit(requests=100, number=1),
        a_visit(requests=900, workers=2),
        a_visit(FASTAPI, requests=1000, workers=2),
    ]
    found = {goal.text: goal for goal in standings.goals(visits, AIOS_CANARY, {FASTAPI: 1.0})}
    one = found[f"{AIOS_CANARY} vs. FastAPI, req/s"]
    two = found[f"{AIOS_CANARY} vs. FastAPI, 2 workers, req/s"]
    assert (one.ratio.least, one.ratio.most, one.met) == (2.0, 3.0, True)
    assert (two.ratio.middle, two.met) == (0.9, False)
    assert len(found) == 2


def test_the_hand_made_canary_is_compared_with_what_ran_beside_it() -> None:
    beside = "1 worker, beside default Serve"
    visits = [
        a_visit(requests=1000),
        a_visit(requests=400, group=beside),
        a_visit(HAND_MADE, requests=40, group=beside),
    ]
    (goal,) = standings.goals(visits, AIOS_CANARY, {HAND_MADE: 20.0})
    assert (goal.ratio.middle, goal.met) == (10.0, False)
    rows = standings.table(visits, [], AIOS_CANARY, {HAND_MADE: 20.0}).splitlines()[2:]
    assert rows[0].startswith(f"| {AIOS_CANARY} | 1 | 500 |")
    assert rows[1].endswith("| 10.0x | >= 20x: MISSED |")
    assert len(rows) == 2


def test_who_failed_half_way_has_no_figures_but_a_row_with_the_reason() -> None:
    visits = [a_visit(), a_visit("BentoML"), a_visit(number=1), a_visit("BentoML", workers=2)]
    left_out = [LeftOut(1, "BentoML", "it ended: out of memory")]
    kept = standings.counted(visits, left_out)
    assert [visit.who for visit in kept] == [(1, AIOS_CANARY), (1, AIOS_CANARY), (2, "BentoML")]
    text = standings.table(kept, left_out, AIOS_CANARY, {})
    assert "| BentoML | 1 | left out: it ended: out of memory |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_an_endless_latency_is_no_figure() -> None:
    visit = a_visit()
    names = {figure["name"].partition(": ")[2] for figure in standings.figures(visit)}
    assert names >= {"requests/s", "p50, ms", "p99, ms", "memory (RSS), MiB"}
    slow = replace(visit, light=Light(1.0, 2.0, float("inf"), 9))
    left = {figure["name"].partition(": ")[2] for figure in standings.figures(slow)}
    assert names - left == {"p99, ms"}


# -- who is asked ---------------------------------------------------------------------


def test_the_short_version_installs_nothing_and_says_what_it_left_out(monkeypatch) -> None:
    monkeypatch.setattr(launch, "CACHE", Path("/nowhere"))
    chosen, why = servers.wanted_peers(servers.NAMES, short=True)
    assert [peer.name for peer in chosen] == [FASTAPI]
    assert set(why) == {peer.name for peer in PEERS[1:]} | {HAND_MADE}
    assert "--install" in why["MLServer"]
    assert servers.wanted_peers(["KServe"], short=False)[0][0].name == "KServe"


def test_the_short_version_asks_the_first_few_that_are_there_or_those_that_are_named(
    monkeypatch,
) -> None:
    monkeypatch.setattr(servers, "is_installed", lambda peer: True)
    chosen, why = servers.wanted_peers(servers.NAMES, short=True)
    assert chosen == list(PEERS[: servers.MOST_SHORT])
    assert "--only" in why[PEERS[servers.MOST_SHORT].name]
    named = [peer.name for peer in PEERS[-2:]]
    assert [peer.name for peer in servers.wanted_peers(named, short=True)[0]] == named


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--workers", "0"], ["--rate", "0"], ["--seconds", "-1"], ["--only", "X"]],
)
def test_what_cannot_be_run_is_a_usage_error(arguments, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["servers", *arguments])
    with pytest.raises(SystemExit) as ended:
        servers.main()
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_peer_that_fails_stops_nobody_and_aios_stops_all(tmp_path) -> None:
    contest = servers.Contest(a_workload(), ResultFile(tmp_path, "peers"), 1, 1.0, 50.0)
    nobody = Target("http://127.0.0.1:1/predict", {})
    peer, ours = (Contestant(name, nobody, {}) for name in ("KServe", AIOS_CANARY))
    running = [peer]
    with contest._failing(2, "KServe", running):
        raise RuntimeError("KServe failed | twice")
    assert running == []
    assert contest.left_out == [LeftOut(2, "KServe", "KServe failed / twice")]
    assert b"KServe failed / twice" in contest.file.path.read_bytes()
    with pytest.raises(RuntimeError, match="ours"), contest._failing(2, AIOS_CANARY, [ours]):
        raise RuntimeError("ours")


# -- starting and ending --------------------------------------------------------------

SERVER = """
import http.server, os, subprocess, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = os.environ["ANSWER"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def a_peer(tmp_path, monkeypatch, code, answer="") -> Peer:
    (tmp_path / "a_server.py").write_text(code)
    monkeypatch.setenv("ANSWER", answer)
    monkeypatch.setattr(launch, "PATHS", (*launch.PATHS, str(tmp_path)))
    return Peer("a peer", "a_server", RECORD)


def test_a_peer_and_what_it_started_ends_with_its_block(tmp_path, monkeypatch) -> None:
    peer = a_peer(tmp_path, monkeypatch, SERVER, '{"outputs":[{"approve":0.25}]}')
    with serving(peer, a_workload(), 1) as contestant:
        alive = list(contestant.processes.values())
        assert len(alive) == 2, "the server, and what left its session"
        resident, shared_once = contestant.memory_mib()
        assert 5 < shared_once < resident
        assert list(contestant.cpu_s()) == ["process", "process 2"]
    assert [process for process in alive if is_alive(process)] == []


def test_a_wrong_answer_is_told_at_once(tmp_path, monkeypatch) -> None:
    peer = a_peer(tmp_path, monkeypatch, SERVER, '{"outputs":[{"approve":0.9}]}')
    with (
        pytest.raises(DoesNotServe, match=r"its answer is wrong: 200 .*0\.9"),
        serving(peer, a_workload(), 1),
    ):
        pass


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path, monkeypatch) -> None:
    peer = a_peer(tmp_path, monkeypatch, "raise SystemExit('no model here')")
    with (
        pytest.raises(DoesNotServe, match="it ended: no model here"),
        serving(peer, a_workload(), 1),
    ):
        pass


def test_a_server_ends_when_the_benchmark_is_killed() -> None:
    mark = f"bench-test-{os.getpid()}"
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    guard = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peer_servers.guard", mark, *sleeps],
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: processes_of(mark))
        assert guard.stdin is not None
        guard.stdin.close()  # as the kernel does it for a process that was killed
        guard.wait(20)
        assert processes_of(mark) == []
    finally:
        guard.kill()
        for process in processes_of(mark):
            process.kill()


def until(holds) -> None:
    give_up_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def test_an_environment_is_made_again_for_other_packages(tmp_path) -> None:
    (tmp_path / INSTALLED).write_text("server==1.0\nonnxruntime==1.32.0")
    assert is_made(tmp_path, ("server==1.0", "onnxruntime==1.32.0"))
    assert not is_made(tmp_path, ("server==1.1", "onnxruntime==1.32.0"))
    assert not is_made(tmp_path / "other", ("server==1.0",))


def test_an_environment_that_cannot_be_made_says_why(tmp_path) -> None:
    with pytest.raises(UsageError, match="no environment can be made"):
        environment(tmp_path / "made", "a peer", ("server==1.0",), "/bin/false")
    (peer,) = (peer for peer in PEERS if peer.name == "Triton")
    with pytest.raises(DoesNotServe, match="it needs /no/python, which is not there"):
        launch.interpreter(replace(peer, python="/no/python"))


def test_last_words_are_the_last_error_or_else_the_last_line(tmp_path) -> None:
    log = tmp_path / "log"
    log.write_text("Traceback\nValueError: port taken\n\nshut down\n;\n")
    assert last_words(log) == "ValueError: port taken"
    log.write_text("starting\nno model here\n;\n")
    assert last_words(log) == "no model here"
    log.write_text("")
    assert last_words(log) == "it says nothing"


def test_processes_of_one_role_are_numbered() -> None:
    me = psutil.Process()
    assert list(numbered("replica", [me, me, me])) == ["replica", "replica 2", "replica 3"]
    assert numbered("canary", []) == {}
