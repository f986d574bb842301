"""Private fields in windows and in training references: the same hashes, and nothing else."""

import json

import numpy as np
import pandas as pd
import pytest

from aios.contracts import Boolean, Category, Codec, Contract, Integer, Number, Text
from aios.records import Artifact, EndpointSpec, ServedVersion, TrafficPlan
from aios.security.keyring import load_keyring
from aios.serving.features import FeatureWindows
from aios.serving.privacy import Privacy
from aios.training.reference import training_reference

FIELDS = {
    "income": Number(nullable=True, private="hash"),
    "age": Integer(private="hash"),
    "children": Integer(nullable=True, private="hash"),
    "kind": Category(["Ann", "Bob"], private="hash"),
    "grade": Category([1, 2], private="hash"),
    "new": Boolean(nullable=True, private="hash"),
    "name": Text(private="hash"),
    "secret": Number(private="omit"),
    "open": Number(),
}
CONTRACT = Contract(inputs=FIELDS, outputs={"p": Number(private="hash"), "q": Number()})
RECORDS = [
    {
        "income": income,
        "age": 40 + place,
        "children": place if place else None,
        "kind": "Ann",
        "grade": 2,
        "new": place == 1,
        "name": "Zacharias",
        "secret": 4.25,
        "open": 1.5,
    }
    for place, income in enumerate([2.0, 2.5, None])
]
SCORES = np.array([0.0, 1.0, 0.25])


class Rows:
    """Training data that is at hand."""

    def batches(self):
        yield pd.DataFrame(RECORDS[:2])
        yield pd.DataFrame(RECORDS[2:])


@pytest.fixture
def ring(tmp_path):
    return load_keyring(tmp_path / "log.json", encrypts=False)


def window(ring, output="p"):
    privacy = Privacy(ring)
    artifact = Artifact(digest="1" * 64, engine="onnx", size_bytes=1)
    served = ServedVersion(version=1, artifact=artifact, contract=CONTRACT.to_json())
    spec = EndpointSpec(name="loan", model="toy")
    privacy.learn(TrafficPlan(revision=1, spec=spec, stable=served))
    windows = FeatureWindows("loan", "r1", 60.0, privacy)
    for record, score in zip(RECORDS, SCORES, strict=True):
        batch = Codec(CONTRACT).validate_records([record])
        windows.add("stable", 1, batch, {output: np.array([score])})
    (part,) = windows.finish(0.0)
    return part


def test_a_replica_and_a_training_run_hash_every_kind_of_value_alike(ring):
    seen = window(ring)
    trained = training_reference(Rows(), CONTRACT, "p", SCORES, ring)
    for name in FIELDS.keys() - {"secret", "open"}:
        assert seen.inputs[name]["kind"] == "text", name
        assert seen.inputs[name]["texts"] == trained["inputs"][name]["texts"], name
        assert all(text.startswith("hmac:") for text in seen.inputs[name]["texts"]), name
        assert seen.inputs[name]["nulls"] == trained["inputs"][name]["nulls"], name
    assert seen.outputs["p"]["texts"] == trained["outputs"]["p"]["texts"]
    assert seen.inputs["open"]["kind"] == trained["inputs"]["open"]["kind"] == "number"


def test_nothing_of_an_omitted_field_is_kept_and_no_text_by_name(ring):
    for kept in (
        json.dumps(window(ring).model_dump()),
        json.dumps(training_reference(Rows(), CONTRACT, "p", SCORES, ring)),
    ):
        assert "secret" not in kept
        assert "Zacharias" not in kept
        assert "Ann" not in kept


def test_without_keys_private_fields_are_left_out(ring):
    assert set(window(None).inputs) == {"open"}
    reference = training_reference(Rows(), CONTRACT, "p", SCORES)
    assert (set(reference["inputs"]), reference["outputs"]) == ({"open"}, {})
