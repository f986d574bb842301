"""Users' flows when workers die or freeze, and on a real runtime.

The first part runs workers as plain processes, so that a test can kill or freeze one at a chosen
instant. Classes named after an issue of DBOS keep out what that was about.
"""

import asyncio
import base64
import importlib.util
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import sample_flows as sample
from flow_worlds import FlowWorld

import aios
from aios.cli import app
from aios.errors import FlowDiverged, IllegalTransition, StoreUnavailable, from_problem
from aios.flows.leases import LEASE_S, Lease
from aios.flows.on_ray import GOING_S
from aios.kernel.head import read_head
from aios.kernel.processes import command_of, processes_of
from aios.runtime.mcp_server import mcp_server
from aios.security.webhooks import webhook_headers
from aios.store.database import Database
from tests.chaos import flow_kills
from tests.integration.patient_flow import patient, wait_for_line
from tests.postgres_server import running_postgres


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FlowWorld]:
    world = FlowWorld(tmp_path)
    yield world
    world.close()


SECRET = b"0123456789abcdef0123456789abcdef"
TEXT = """
import aios

@aios.step
def answer() -> str:
    return "ANSWER"

@aios.flow
async def versioned() -> str:
    await aios.sleep(3)
    return await answer()
"""


async def awaited(handle: aios.FlowHandle) -> object:
    return await handle


def kill(world: FlowWorld, number: int = 0) -> None:
    world.children[number].kill()
    world.children[number].wait()


def put_pickle(world: FlowWorld, flow_id: str) -> None:
    """Instead of a flow's arguments, in the database."""
    connection = sqlite3.connect(world.folder / "user-flows.db")
    bad = "UPDATE workflow_input SET inputs = 'gASVJAAAAAAAAACMBXBvc2l4' WHERE workflow_uuid = ?"
    assert connection.execute(bad, (flow_id,)).rowcount == 1
    connection.commit()
    connection.close()


class TestWorkers:
    """Workers as plain processes, which stay when their lease is over."""

    def test_a_flow_goes_on_elsewhere_and_repeats_no_step_that_was_done(
        self, world: FlowWorld
    ) -> None:
        world.worker("one")
        world.begin(sample.order, "kill-1", world.ledger, "k1", 2.0)
        world.wait_step("kill-1", 2)
        begun_s = world.client.view("kill-1")["begun_s"]
        kill(world)
        world.worker("two")
        assert world.take_over("one", "two") == 1
        assert world.wait("kill-1")["value"][0] == "receipt-k1"
        assert world.client.view("kill-1")["begun_s"] == begun_s
        assert world.client.view("kill-1")["attributes"] == {}
        assert len(world.lines("charge-k1")) == 1
        assert world.client.view("kill-1")["lives"] == 2

    def test_a_frozen_worker_that_wakes_does_no_harm(self, world: FlowWorld) -> None:
        """It is stopped in a step, its flow is given to another, and it wakes: it finishes the
        function it was in, writes nothing down and begins nothing."""
        frozen = world.worker("one")
        world.begin(sample.counted, "frozen-1", world.ledger, "f1", 1, 3.0)
        world.wait_step("frozen-1", 1)
        world.freeze(frozen)
        time.sleep(LEASE_S + 0.5)
        world.worker("two")
        assert world.take_over("one", "two") == 1
        found = world.wait("frozen-1")["value"]
        steps = world.client.steps("frozen-1")
        world.begin(sample.order, "after-1", world.ledger, "a1")
        world.wait("after-1")
        world.begin(sample.order, "after-2", world.ledger, "a2", 2.0)
        os.kill(frozen.pid, signal.SIGCONT)
        # It may still claim what is queued, which the kernel's next looks find; in production
        # its process ends itself here.
        while world.client.outcome("after-2")["status"] != "finished":
            world.client.take_over({"two"})
            time.sleep(0.2)
        time.sleep(2.0)
        assert "lost" in (world.folder / "one.out").read_text()
        assert world.client.steps("frozen-1") == steps
        assert world.wait("frozen-1")["value"] == found
        by = {line.split()[2] for line in world.lines() if "a1" in line or "a2" in line}
        assert by == {str(world.children[1].pid)}
        # The step it was frozen in may end there, as often as at all once in each process.
        operations = [tuple(line.split()[1:]) for line in world.lines("ship-f1")]
        assert len(operations) == len(set(operations)) <= 2

    def test_a_worker_whose_lease_is_taken_stops_at_its_next_step(self, world: FlowWorld) -> None:
        world.worker("one")
        world.begin(sample.order, "fenced-1", world.ledger, "g1", 3.0)
        world.wait_step("fenced-1", 1)
        world.client.leases.take("one")
        time.sleep(4.5)
        assert world.lines("ship-g1") == []
        assert world.client.view("fenced-1")["status"] == "running"  # for others to go on with

    def test_code_that_does_other_things_the_second_time_is_found_out(
        self, world: FlowWorld
    ) -> None:
        """Also when the flow swallows the error."""
        marker = world.folder / "marker"
        world.worker("one")
        world.begin(sample.swallowing, "diverged-1", world.ledger, str(marker))
        world.wait_step("diverged-1", 1)
        kill(world)
        marker.touch()
        world.worker("two")
        world.take_over("one", "two")
        error = from_problem(world.wait("diverged-1")["problem"])
        assert isinstance(error, FlowDiverged)
        assert (error.details["step"], error.details["expected"], error.details["found"]) == (
            1,
            "charge",
            "number_of",
        )
        assert world.lines("number") == []

    def test_undoing_goes_on_after_a_kill(self, world: FlowWorld) -> None:
        """However often: each step is taken back once."""
        world.worker("one")
        for number in range(5):
            world.begin(sample.broken, f"saga-{number}", world.ledger, f"u{number}")
        world.wait_for("give-back")
        kill(world)
        world.worker("two")
        world.take_over("one", "two")
        for number in range(5):
            problem = world.wait(f"saga-{number}")["problem"]
            assert problem["details"]["undone"] == ["charge (3)", "charge (1)"]
        for number in range(5):
            lines = world.lines(f"give-back-receipt-u{number}")
            assert len({line.split()[1] for line in lines}) == 2  # by operation


class TestIssue546:
    """Of flows that were claimed together one could not be begun, and the others were left as
    running by a worker that was there and had never begun them."""

    def test_one_that_cannot_be_begun_takes_nobody_with_it(self, world: FlowWorld) -> None:
        ids = [f"batch-{number}" for number in range(5)]
        for flow_id in ids:
            world.begin(sample.order, flow_id, world.ledger, flow_id)
        put_pickle(world, "batch-1")
        world.worker("one")  # the first look of its queue claims all five
        ends = {flow_id: world.wait(flow_id)["status"] for flow_id in ids}
        assert ends.pop("batch-1") == "failed"
        assert set(ends.values()) == {"finished"}
        begun = {world.client.view(flow_id)["begun_s"] for flow_id in ids}
        assert len(begun) == 1  # together, or this shows nothing
        world.begin(sample.order, "next-1", world.ledger, "n1")
        assert world.wait("next-1")["status"] == "finished"


class TestIssue716:
    """A database that went away while flows were taken over lost them for good."""

    def test_what_could_not_be_moved_is_moved_by_the_next_look(
        self, world: FlowWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.worker("one")
        for number in range(3):
            world.begin(sample.order, f"i-{number}", world.ledger, f"i{number}", 2.0)
            world.wait_step(f"i-{number}", 1)
        kill(world)
        client = world.client.open()
        move, calls = client._sys_db.reenqueue_for_recovery, []

        def away(*arguments: object) -> bool:
            calls.append(arguments)
            if len(calls) == 2:
                raise StoreUnavailable("the database is away")
            return bool(move(*arguments))

        monkeypatch.setattr(client._sys_db, "reenqueue_for_recovery", away)
        with pytest.raises(StoreUnavailable):
            world.client.take_over({"two"})
        world.worker("two")
        assert world.client.take_over({"two"}) == 2
        for number in range(3):
            assert world.wait(f"i-{number}")["status"] == "finished"


class TestIssue742:
    """Who had an old list of what was pending ran a flow that somebody else had taken."""

    def test_an_old_list_moves_nothing_that_was_claimed_since(self, world: FlowWorld) -> None:
        world.worker("one")
        world.begin(sample.order, "stale-1", world.ledger, "s1", 2.0)
        world.wait_step("stale-1", 1)
        kill(world)
        world.worker("two")
        assert world.take_over("one", "two") == 1
        while world.client.view("stale-1")["worker"] != "two":
            time.sleep(0.02)
        database = world.client.open()._sys_db
        assert not database.reenqueue_for_recovery("stale-1", ["one"], "aios")
        world.wait("stale-1")
        assert world.client.view("stale-1")["lives"] == 2
        assert len(world.lines("ship-s1-a")) == 1


class TestIssue759:
    """A flow with an empty id was begun again and again."""

    @pytest.mark.parametrize("flow_id", ["", " ", "\t"])
    def test_no_such_flow_is_begun(self, world: FlowWorld, flow_id: str) -> None:
        with pytest.raises(aios.UsageError, match="is no id of a flow"):
            world.begin(sample.sized, flow_id, 1)
        assert world.client.flows() == []


class TestIssue804:
    """A process that was leaving claimed what its successor, of the same name, had just taken
    over, and nobody looked again."""

    def test_a_name_is_used_once(self, world: FlowWorld) -> None:
        world.worker("one")
        with pytest.raises(IllegalTransition, match="was there before"):
            Lease(Database(world.place.url), "one").take()

    def test_what_a_fenced_worker_claims_is_found_by_the_next_look(self, world: FlowWorld) -> None:
        world.worker("one")
        assert world.take_over("one") == 0  # its process is still there, and still claims
        world.begin(sample.order, "claimed-1", world.ledger, "c1")
        while world.client.view("claimed-1")["worker"] != "one":
            time.sleep(0.02)
        kill(world)
        world.worker("two")
        assert world.client.take_over({"two"}) == 1
        assert world.wait("claimed-1")["status"] == "finished"


class TestIssue805:
    """A flow that was taken over stood still between two steps and blocked a queue of one."""

    def test_the_queue_goes_on_behind_it(self, world: FlowWorld) -> None:
        world.client.register_queue("one-by-one", global_concurrency=1)
        world.worker("one")
        for number in range(3):
            more = {"queue": "one-by-one"}
            world.begin(sample.order, f"q-{number}", world.ledger, f"q{number}", 1.0, **more)
        world.wait_step("q-0", 1)
        kill(world)
        world.worker("two")
        world.take_over("one", "two")
        for number in range(3):
            assert world.wait(f"q-{number}")["status"] == "finished"
        assert len(world.lines("charge-q0")) == 1


class TestPostgres:
    def test_the_same_on_a_server(self, tmp_path: Path) -> None:
        """Beside the kernel's own tables in one database, each in its schema."""
        with running_postgres() as server:
            world = FlowWorld(tmp_path, url=f"{server}/postgres")
            try:
                world.worker("one")
                world.begin(sample.order, "pg-1", world.ledger, "p1", 1.0, attributes={"a": 1})
                world.begin(sample.broken, "pg-2", world.ledger, "p2")
                assert len(world.wait("pg-2")["problem"]["details"]["undone"]) == 2
                world.wait_step("pg-1", 2)
                kill(world)
                world.worker("two")
                world.take_over("one", "two")
                assert world.wait("pg-1")["value"][0] == "receipt-p1"
                assert len(world.lines("charge-p1")) == 1
                assert [one["id"] for one in world.client.flows(attributes={"a": 1})] == ["pg-1"]
            finally:
                world.close()


class TestDatabase:
    def test_no_row_can_run_code(self, world: FlowWorld) -> None:
        """What is in the database is JSON or nothing: a pickle that was put there is an error."""
        world.begin(sample.order, "row-1", world.ledger, "r1")
        put_pickle(world, "row-1")
        world.worker("one")
        assert world.wait("row-1")["status"] == "failed"
        assert world.lines() == []


class TestRuntime:
    """On a real runtime, with the kernel's own workers."""

    def workers(self, rt: aios.Runtime) -> dict[str, int]:
        rows = (row for row in rt.ps() if row["role"] == "flow worker")
        return {row["name"]: row["pid"] for row in rows if row["state"] == "RUNNING"}

    def wait_workers(self, rt: aios.Runtime, gone: str | None = None) -> dict[str, int]:
        give_up_s = time.monotonic() + 120
        while len(found := self.workers(rt)) < 2 or gone in found:
            assert time.monotonic() < give_up_s, rt.ps()
            time.sleep(0.2)
        return found

    def running_in(self, rt: aios.Runtime, handle: aios.FlowHandle, step: int) -> str:
        """The worker of a flow, once a step is written down."""
        give_up_s = time.monotonic() + 60
        while len(handle.steps()) < step:
            assert time.monotonic() < give_up_s, handle.status()
            time.sleep(0.05)
        return str(handle.status().fields["worker"])

    def test_a_flow_from_start_to_result(self, rt: aios.Runtime, tmp_path: Path) -> None:
        ledger = str(tmp_path / "ledger")
        told = {"attributes": {"region": "eu"}, "id": "story 1 of 50%20?#ü"}
        handle = rt.start(sample.order, ledger, "r1", **told)
        assert handle.result(timeout_s=120)[0] == "receipt-r1"
        assert rt.start(sample.order, ledger, "r1", **told).result() == handle.result()
        with pytest.raises(aios.UsageError, match="used already"):
            rt.start(sample.order, ledger, "r2", id=told["id"])
        assert [row["id"] for row in rt.flows(attributes={"region": "eu"})] == [told["id"]]
        assert "charge" in repr(handle.steps())
        assert asyncio.run(awaited(rt.flow(told["id"]))) == handle.result()
        with pytest.raises(aios.PermanentError, match="Declined") as caught:
            rt.start(sample.broken, ledger, "r3").result(timeout_s=60)
        assert caught.value.details["undone"] == ["charge (3)", "charge (1)"]

    def test_a_step_whose_process_is_told_to_end_is_not_told_failed_at_once(
        self, rt: aios.Runtime, tmp_path: Path
    ) -> None:
        """As when the whole runtime ends: then its worker is gone before it tells."""
        ledger = tmp_path / "ledger"
        handle = rt.start(patient, str(ledger))
        wait_for_line(ledger, "begun")
        head = read_head(rt.home)  # type: ignore[attr-defined]
        assert head is not None
        processes = processes_of(head.id, str(head.temp_dir))
        [process] = [one for one in processes if command_of(one)[:1] == ["ray::_step_here"]]
        process.terminate()
        told_s = time.monotonic()
        with pytest.raises(aios.PermanentError, match="the process of step work died"):
            handle.result(timeout_s=60)
        assert time.monotonic() - told_s >= GOING_S
        assert ledger.read_text().split() == ["reserved", "begun", "undone"]

    def test_an_event_begins_a_flow_and_its_repeat_none(
        self, rt: aios.Runtime, tmp_path: Path
    ) -> None:
        secrets = rt.home / "secrets"  # type: ignore[attr-defined]
        secrets.mkdir(exist_ok=True)
        (secrets / "orders").write_text(f"whsec_{base64.b64encode(SECRET).decode()}")
        hook = rt.on(aios.Webhook(secret="file:orders"), sample.ordered, key="name")
        ledger = tmp_path / "ledger"
        body = orjson.dumps({"ledger": str(ledger), "name": "o-1"})
        headers = webhook_headers("m-1", time.time(), body, SECRET)
        headers["content-type"] = "application/json"
        posted = [
            httpx.post(f"{rt.address}{hook.path}", content=body, headers=headers).json()
            for _ in range(2)
        ]
        assert [one["repeated"] for one in posted] == [False, True]
        give_up_s = time.monotonic() + 60
        while not (begun := list(rt.flows(name="ordered", status="finished"))):
            assert time.monotonic() < give_up_s, list(rt.flows(name="ordered"))
            time.sleep(0.2)
        assert len(begun) == len(list(rt.flows(name="ordered"))) == 1
        assert len(ledger.read_text().splitlines()) == 1
        rt.off(hook)

    def test_a_killed_worker(self, rt: aios.Runtime, tmp_path: Path) -> None:
        ledger = str(tmp_path / "ledger")
        workers = self.wait_workers(rt)
        handle = rt.start(sample.order, ledger, "k1", 3.0)
        worker = self.running_in(rt, handle, 2)
        os.kill(workers[worker], signal.SIGKILL)
        killed_s = time.monotonic()
        while handle.status().fields["worker"] == worker:
            assert time.monotonic() - killed_s < 10, "flows go on within 10 s"
            time.sleep(0.1)
        assert handle.result(timeout_s=60)[0] == "receipt-k1"
        assert Path(ledger).read_text().count("charge-k1") == 1
        assert handle.status().lives == 2
        self.wait_workers(rt, gone=worker)

    def test_a_frozen_worker(self, rt: aios.Runtime, tmp_path: Path) -> None:
        """Whatever it holds: it is ended, and its flows go on."""
        ledger = str(tmp_path / "ledger")
        workers = self.wait_workers(rt)
        handle = rt.start(sample.order, ledger, "z1", 3.0)
        worker = self.running_in(rt, handle, 2)
        os.kill(workers[worker], signal.SIGSTOP)
        frozen_s = time.monotonic()
        while handle.status().fields["worker"] == worker:
            assert time.monotonic() - frozen_s < 15
            time.sleep(0.1)
        assert handle.result(timeout_s=60)[0] == "receipt-z1"
        assert Path(ledger).read_text().count("charge-z1") == 1
        self.wait_workers(rt, gone=worker)

    def test_a_flow_in_flight_keeps_its_text(self, rt: aios.Runtime, tmp_path: Path) -> None:
        """A newer text is for newer flows, also when the older one's worker dies in between."""
        told = {"one": TEXT.replace("ANSWER", "old"), "two": TEXT.replace("ANSWER", "new")}
        flows = {}
        for name, text in told.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "versioned.py").write_text(text)
            spec = importlib.util.spec_from_file_location(
                "versioned", tmp_path / name / "versioned.py"
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules["versioned"] = module
            spec.loader.exec_module(module)
            flows[name] = rt.start(module.versioned, id=f"versioned-{name}")
            if name == "one":
                worker = self.running_in(rt, flows[name], 1)
        os.kill(self.workers(rt)[worker], signal.SIGKILL)
        assert flows["one"].result(timeout_s=60) == "old"
        assert flows["two"].result(timeout_s=60) == "new"
        assert [flow.status().flow for flow in flows.values()] == ["versioned:1", "versioned:2"]
        self.wait_workers(rt, gone=worker)

    def test_kills_at_random_instants(self, rt: aios.Runtime, tmp_path: Path) -> None:
        """The short form of `make chaos`."""
        found = flow_kills.run(rt, tmp_path, kills=8, seed=int(time.time()), pause_s=2.0)
        assert found["killed"] + found["frozen"] == 8
        assert flow_kills.holds(found), found
        assert found["lives"] > 1

    def test_a_killed_kernel(self, rt: aios.Runtime, tmp_path: Path) -> None:
        """The workers go on without it, and the next one finds them."""
        ledger = str(tmp_path / "ledger")
        workers = self.wait_workers(rt)
        handle = rt.start(sample.order, ledger, "n1", 1.0)
        self.running_in(rt, handle, 1)
        [kernel] = [row["pid"] for row in rt.ps() if row["role"] == "kernel"]
        os.kill(kernel, signal.SIGKILL)
        assert handle.result(timeout_s=60)[0] == "receipt-n1"
        assert self.wait_workers(rt) == workers
        assert handle.status().lives == 1

    def test_a_step_with_resources_and_one_that_hangs(self, rt: aios.Runtime) -> None:
        found = rt.start(sample.elsewhere).result(timeout_s=120)
        pid, operation, late = found
        assert pid not in self.workers(rt).values()
        assert operation.endswith("/1")
        assert late == "step hangs_in_c took longer than 0.5 s"
        give_up_s = time.monotonic() + 60
        while (costs := rt.cost(by="version")) and not {"flow order:1", "flow elsewhere:1"} <= {
            part["what"] for part in costs.parts
        }:
            assert time.monotonic() < give_up_s, costs
            time.sleep(1)
        assert costs.adds_up

    def test_the_commands(
        self, rt: aios.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIOS_ADDRESS", rt.address)
        monkeypatch.setenv("AIOS_KEY", str(rt.key))

        def told(*words: str) -> str:
            done = CliRunner().invoke(app, list(words))
            assert done.exit_code == 0, done.output or done.exception
            return done.output

        handle = rt.start(sample.asking, id="told-1", attributes={"region": "us"})
        assert "told-1" in told("flows", "asking", "--attribute", "region=us")
        assert "told-1" not in told("flows", "--attribute", "region=eu")
        give_up_s = time.monotonic() + 60
        while "told-1/1" not in told("inbox"):
            assert time.monotonic() < give_up_s
        bea = rt.keys.add("bob", role="approver")
        monkeypatch.setenv("AIOS_KEY", bea.key)
        told("answer", "told-1/1", "approve=true", "note=fine")
        assert handle.result(timeout_s=60) == ["Decision", True]
        assert "asking:1, finished" in told("flow", "told-1")
        monkeypatch.setenv("AIOS_KEY", str(rt.key))
        rt.start(sample.asking, id="told-2")
        assert "told-2 is cancelled" in told("cancel", "told-2")
        assert "cancelled" in told("flow", "told-2")

    def test_a_person_answers(self, rt: aios.Runtime) -> None:
        handle = rt.start(sample.asking, id="asked-1")
        give_up_s = time.monotonic() + 60
        while not (waiting := [one for one in rt.inbox() if one.flow == "asked-1"]):
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        with pytest.raises(aios.UsageError, match="approve"):
            rt.answer(waiting[0], {"note": "?"})
        with pytest.raises(aios.Forbidden, match="somebody else must approve"):
            rt.answer(waiting[0], {"approve": True})
        key = rt.keys.add("bea", role="approver")
        with aios.connect(rt.address, key=key.key) as bea:
            bea.answer(waiting[0], sample.Decision(approve=True))
        assert handle.result(timeout_s=60) == ["Decision", True]
        assert not [one for one in rt.inbox() if one.flow == "asked-1"]

    def test_an_mcp_client_runs_a_flow_once_per_id_as_who_it_is(self, rt: aios.Runtime) -> None:
        mcp = pytest.importorskip("mcp")
        text = rt.start(sample.sized, 3, id="sized-1").result(timeout_s=60)
        viewer = rt.keys.add("vic", role="viewer")

        async def called(at: aios.Runtime, size: object) -> tuple[bool, str]:
            async with mcp.Client(mcp_server(at)) as client:
                asked = {"id": "mcp-1", "arguments": {"size": size}}
                answer = await client.call_tool("run_sized", asked)
                return answer.is_error, answer.content[0].text

        with aios.connect(rt.address, key=viewer.key) as vic:
            refused, told = asyncio.run(called(vic, 3))
        assert (refused, "vic has the role viewer, which may not rt.start" in told) == (True, True)
        assert "'x' is not of type 'integer'" in asyncio.run(called(rt, "x"))[1]
        for _ in range(2):
            refused, told = asyncio.run(called(rt, 3))
            assert not refused
            assert orjson.loads(told) == {"id": "mcp-1", "status": "finished", "result": text}
        refused, told = asyncio.run(called(rt, 4))
        assert (refused, "used already" in told) == (True, True)
