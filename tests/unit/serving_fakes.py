"""What the serving tests share: a toy contract, engines that misbehave on request, plans."""

import threading
import time

import numpy as np

from aios.clock import ManualClock
from aios.contracts import Codec, Contract, Number
from aios.errors import ModelFailed
from aios.records import Artifact, Challenger, EndpointSpec, ServedVersion, TrafficPlan
from aios.security.keys import digest, new_key
from aios.serving.endpoint import Endpoint
from aios.serving.features import FeatureWindows
from aios.serving.http import EndpointApp
from aios.serving.outliers import Outliers
from aios.serving.recorder import Recorder
from aios.serving.runner import Runner
from aios.telemetry.traces import Tracer

CONTRACT = Contract(
    inputs={"a": Number(min=-100, max=100)}, outputs={"p": Number(min=0, max=1)}, key="id"
)
CODEC = Codec(CONTRACT)
PLAIN_KEY = new_key("tests")[0]


class FakeEngine:
    """Answers `p = value`; `act(batch)` runs first and may raise or wait."""

    device = "cpu"

    def __init__(self, value=0.5, *, slow=False, act=lambda batch: None):
        self.value = value
        self.act = act
        self.service_time_s = 0.1 if slow else 0.0
        self.sizes = []
        self.closed = False

    def run(self, batch):
        assert not self.closed, "run after close"
        self.sizes.append(batch.rows)
        self.act(batch)
        return {"p": np.full(batch.rows, self.value)}

    def warm(self, rows=1):
        pass

    def close(self):
        self.closed = True


class Valve:
    """Holds an engine's thread until opened, and says when it is there."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.opened.wait(10)


def rows(*values, keys=None):
    records = [{"a": value} for value in values]
    for record, key in zip(records, keys or [], strict=False):
        record["id"] = key
    return CODEC.validate_records(records)


def fail(batch):
    raise ModelFailed("boom")


def served(version, contract=CONTRACT):
    digest_ = f"{version:064x}"
    artifact = Artifact(digest=digest_, engine="onnx", size_bytes=1)
    return ServedVersion(version=version, artifact=artifact, contract=contract.to_json())


def plan(revision=1, *, stable=1, arm=None, version=2, weight=1.0, era="e1", salt="s", **spec):
    spec = {"deadline_s": 5.0, **spec}
    challenger = None
    if arm is not None:
        challenger = Challenger(
            served=served(version),
            app=f"toy--v{version}",
            arm=arm,
            weight_fraction=weight if arm == "canary" else 0.0,
        )
    return TrafficPlan(
        revision=revision,
        spec=EndpointSpec(name="toy", model="toy", **spec),
        stable=served(stable),
        challenger=challenger,
        era=era,
        salt=salt,
        keys=(digest(PLAIN_KEY),),
    )


class World:
    """An endpoint with fake engines and detectors by version (or what makes one), and one fake
    challenger client."""

    def __init__(self, engines=None, ask=None, tracer=None, detectors=None):
        self.engines = engines or {}
        self.ask = ask
        self.loads = []
        self.detectors = detectors or {}
        self.detector_loads = []
        self.connects = []
        self.recorder = Recorder("nowhere", 1.0)
        self.features = FeatureWindows("toy", "r1", 60.0)
        self.endpoint = Endpoint(
            load=self._load,
            connect=self._connect,
            recorder=self.recorder,
            features=self.features,
            outliers=Outliers(self._load_outliers),
            tracer=tracer or Tracer(None, "test"),
            clock=ManualClock(7.0),
            replica="r1",
        )
        self.app = EndpointApp(self.endpoint, "toy")

    def _load(self, served_version, spec):
        self.loads.append(served_version.version)
        engine = self.engines.get(served_version.version, FakeEngine())
        if isinstance(engine, Exception):
            raise engine
        codec = Codec(Contract.from_json(served_version.contract), spec.max_rows)
        return Runner(engine, codec), codec

    def _load_outliers(self, served_version):
        self.detector_loads.append(served_version.version)
        found = self.detectors.get(served_version.version)
        return found() if callable(found) else found

    def _connect(self, challenger, replicas):
        self.connects.append(challenger.app)
        return self.ask

    async def predict(self, batch=None, key="k", **more):
        live = self.endpoint.admit()
        more = {"request_id": "r", "started_s": time.monotonic(), **more}
        try:
            return await self.endpoint.predict(live, batch or rows(1.0), key, **more)
        finally:
            self.endpoint.release(live, 0.001, failed=False)

    def arm(self, name):
        return self.endpoint.report().arms[name]


def answering(value=0.7, service_s=0.001):
    async def ask(batch, timeout_s, traceparent):
        return {"p": np.full(batch.rows, value)}, service_s

    return ask


def raising(error):
    async def ask(batch, timeout_s, traceparent):
        raise error

    return ask
