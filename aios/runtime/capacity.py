"""`rt.measure`: how much an endpoint bears, found by putting load on it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from aios.capacity import machine
from aios.capacity.load import MOST_CONNECTIONS, Loop, Outcome, Stream, Target, run_load
from aios.capacity.measurement import Measurement
from aios.capacity.planning import LONGEST_S
from aios.capacity.searching import search
from aios.contracts import Contract
from aios.errors import IllegalTransition, UsageError
from aios.models.synthetic import synthetic_records
from aios.runtime.objects import Endpoint
from aios.runtime.transport import Transport

MADE_UP = "made up from the contract"
RECORDS = 200
QUIET_S = 2.0
"""How long users' traffic is looked for; replicas report every second."""
QUIET_REQUESTS = 2
LOOKS = 3
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Measured:
    """How much traffic endpoints bear."""

    _transport: Transport
    key: str | None

    def measure(
        self,
        endpoint: str,
        *,
        p99_s: float,
        records: Sequence[Mapping[str, Any]] | None = None,
        requests: str | None = None,
        seconds: float = 5.0,
        steps: int = 5,
        connections: int = 64,
        seed: int = 0,
        force: bool = False,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> Measurement:
        """Find the largest rate at which 99 of 100 answers come within `p99_s`; takes about a
        minute, and as much load as the endpoint bears.

        Do it on a runtime that nobody needs just now. What is asked is recorded, counted and paid
        like any request.

        Args:
            records: what is asked, one record per request, in turn; by default valid ones are made
                up from the contract.
            requests: where `records` come from, in words.
            seconds: for each rate; with few requests a second up to four times that.
            steps: how many rates are tried; each halves what is not known.
            connections: requests that may be open at a time.
            seed: of the random arrivals and of made-up records.
            force: also on an endpoint that users ask just now, that is watched or rolled out.

        Raises:
            UnknownEndpoint: it is not deployed.
            Forbidden: the key's role may only ask; that of an operator may put load on it. Who
                did is in the audit log.
            IllegalTransition: users would notice, or a watch or rollout would be misled.
            UsageError: a number that is none, or the number of replicas or the version changed
                meanwhile.
            ModelFailed: nothing is answered well.
        """
        _check(p99_s, seconds, steps, connections)
        status = Endpoint(self._transport, endpoint).status()
        if not status["ready"]:
            raise IllegalTransition(
                f"endpoint {endpoint!r} is not ready: {status['problem'] or status['status']}"
            )
        if not force:
            self._refuse_disturbing(endpoint, status)
        self._transport.change("POST", f"/api/v1/endpoints/{endpoint}/measure")
        if records is None:
            contract = self._transport.get(f"/api/v1/models/{_ref(status)}")["contract"]
            records = synthetic_records(Contract.from_json(contract), RECORDS, seed=seed)
            requests = MADE_UP
        if not records:
            raise UsageError("there is no record to ask with")
        found = machine.describe()
        run = self._driver(endpoint, records)
        seen = search(
            run,
            p99_s=p99_s,
            seconds=seconds,
            steps=steps,
            seed=seed,
            connections=connections,
            on_progress=on_progress,
        )
        self._refuse_changed(endpoint, status)
        return Measurement(
            endpoint=endpoint,
            version=_ref(status),
            replicas=status["replicas"],
            p99_s=p99_s,
            at_s=time.time(),
            seconds=seconds,
            seed=seed,
            connections=connections,
            requests=requests or f"{len(records)} records given",
            machine=found,
            same_machine=urlsplit(self._transport.address).hostname in LOOPBACK,
            full_per_s=seen.full_per_s,
            light=seen.light,
            points=seen.points,
        )

    def _driver(
        self, endpoint: str, records: Sequence[Mapping[str, Any]]
    ) -> Callable[[Stream | Loop], Outcome]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        target = Target(f"{self._transport.address}/v2/models/{endpoint}/predict", headers)
        bodies = [_body(record) for record in records]
        return lambda load: run_load(target, bodies, load)

    def _refuse_disturbing(self, endpoint: str, status: Mapping[str, Any]) -> None:
        why = None
        watches = self._transport.get("/api/v1/watches", endpoint=endpoint)
        if status["challenger"] is not None:
            why = "a rollout runs on it, which would be decided by made-up requests"
        elif watches:
            why = f"it is watched ({watches[0]['id']}), and made-up requests are drift"
        else:
            of = Endpoint(self._transport, endpoint)
            asked = asked_now(lambda: of.status()["requests"], lambda: time.sleep(QUIET_S))
            if asked:
                why = f"it is asked now ({asked / QUIET_S:.0f} requests/s) and would have to wait"
        if why is not None:
            raise IllegalTransition(
                f"endpoint {endpoint!r} is not measured: {why}. Measure the same version on a "
                "runtime of its own, or do it all the same with force=True (--force)"
            )

    def _refuse_changed(self, endpoint: str, before: Mapping[str, Any]) -> None:
        now = Endpoint(self._transport, endpoint).status()
        if now["replicas"] != before["replicas"]:
            raise UsageError(
                f"the number of replicas went from {before['replicas']} to {now['replicas']} "
                "while it was measured; deploy it with a fixed number, such as replicas=1"
            )
        if _ref(now) != _ref(before):
            raise UsageError(
                f"{_ref(now)} was promoted while {_ref(before)} was measured; measure again"
            )


def asked_now(requests: Callable[[], int], pause: Callable[[], None]) -> int:
    """How many requests came during a pause, if some came during every one of a few; else 0.

    Replicas report every second, so that what was asked just before shows up late: the end of the
    last measurement is not somebody's traffic.
    """
    before, came = requests(), 0
    for _ in range(LOOKS):
        pause()
        now = requests()
        before, came = now, now - before
        if came <= QUIET_REQUESTS:
            return 0
    return came


def _check(p99_s: float, seconds: float, steps: int, connections: int) -> None:
    if not 0 < p99_s <= LONGEST_S:
        raise UsageError(f"the p99 is a time above 0 and at most an hour, not {p99_s:g} s")
    if not 0.2 <= seconds <= 3600 or not 1 <= steps <= 20:
        raise UsageError(
            f"a rate is tried for 0.2 to 3,600 s and 1 to 20 are tried, not {seconds:g} s and "
            f"{steps}"
        )
    if not 1 <= connections <= MOST_CONNECTIONS:
        raise UsageError(f"1 to {MOST_CONNECTIONS} requests may be open, not {connections}")


def _ref(status: Mapping[str, Any]) -> str:
    return f"{status['model']}:{status['version']}"


def _body(record: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps({"records": [record]}, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise UsageError(f"a record cannot be sent as JSON: {error}") from None
