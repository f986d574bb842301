"""Who may do what: every role on every command, through the real API and a real kernel."""

import re

import pytest
from api_fakes import Client, api_of, is_problem
from kernel_fakes import KEY, World, make_template, make_world

from aios.errors import Forbidden, UnknownName
from aios.kernel.access import DENIALS_PER_WINDOW, WINDOW_S
from aios.security import Caller, needed, permits
from aios.security.permissions import COMMANDS, ROLES

EVERYBODY = "viewer operator deployer approver auditor admin"
EXPLAINING = "admin approver auditor deployer operator"
PREDICTING = "viewer operator deployer approver admin"
DEPLOYING = "deployer admin"
STOPPING = "operator deployer admin"
ACTING = "operator deployer admin"
APPROVING = "approver admin"
CHECKING = "approver auditor admin"
ADMIN = "admin"
ACTING = "operator deployer admin"
ANSWERING = "viewer operator deployer approver admin"

# Written out, not derived: this is what the tables of `security.permissions` are held against.
EXPECTED = {
    "answer": ANSWERING,
    "cancel_flow": STOPPING,
    "define_flow": DEPLOYING,
    "end_schedule": ACTING,
    "flow": EVERYBODY,
    "flow_outcome": EVERYBODY,
    "flow_steps": EVERYBODY,
    "flow_versions": EVERYBODY,
    "flows": EVERYBODY,
    "fork_flow": ACTING,
    "inbox": EVERYBODY,
    "queues": EVERYBODY,
    "schedules": EVERYBODY,
    "set_queue": ACTING,
    "set_schedule": ACTING,
    "start_flow": ACTING,
    "add_key": ADMIN,
    "agent": EVERYBODY,
    "agent_counts": EVERYBODY,
    "agent_hosts": EVERYBODY,
    "agent_log": EVERYBODY,
    "agent_plans": EVERYBODY,
    "agent_reply": ACTING,
    "agent_versions": EVERYBODY,
    "agents": EVERYBODY,
    "ask_agent": ACTING,
    "dead_mail": EVERYBODY,
    "define_agent": DEPLOYING,
    "grant_agent": DEPLOYING,
    "kill_agent": STOPPING,
    "revive_agent": ACTING,
    "revive_mail": ACTING,
    "roll_back_agent": STOPPING,
    "roll_out_agent": DEPLOYING,
    "spawn_agent": ACTING,
    "tell_agents": ACTING,
    "approvals": EVERYBODY,
    "approve": APPROVING,
    "assess": DEPLOYING,
    "assessment": EVERYBODY,
    "audit": EVERYBODY,
    "audit_verify": CHECKING,
    "break_glass": ADMIN,
    "cancel_run": STOPPING,
    "card": EVERYBODY,
    "clearance": EVERYBODY,
    "costs": EVERYBODY,
    "command_rollout": DEPLOYING,
    "declare": DEPLOYING,
    "deploy": DEPLOYING,
    "endpoint": EVERYBODY,
    "endpoints": EVERYBODY,
    "evidence": EVERYBODY,
    "explain": EXPLAINING,
    "feedback": PREDICTING,
    "feedback_events": PREDICTING,
    "monitor": EVERYBODY,
    "unwatch": STOPPING,
    "watch": DEPLOYING,
    "watches": EVERYBODY,
    "dead_letters": EXPLAINING,
    "emit": DEPLOYING,
    "replay": DEPLOYING,
    "discard": DEPLOYING,
    "give_up": DEPLOYING,
    "subscribe": DEPLOYING,
    "subscriptions": EVERYBODY,
    "outbox": EVERYBODY,
    "take_webhook": PREDICTING,
    "unsubscribe": STOPPING,
    "history": EVERYBODY,
    "keys": ADMIN,
    "lineage": EVERYBODY,
    "log": EVERYBODY,
    "compact_log": DEPLOYING,
    "rotate_log_key": ADMIN,
    "retire_log_key": ADMIN,
    "measure": ACTING,
    "metrics": EVERYBODY,
    "model": EVERYBODY,
    "models": EVERYBODY,
    "plans": EVERYBODY,
    "policy": EVERYBODY,
    "profile": EVERYBODY,
    "ps": EVERYBODY,
    "register": DEPLOYING,
    "reject": APPROVING,
    "remove": DEPLOYING,
    "reproduce": DEPLOYING,
    "reproduction": EVERYBODY,
    "revoke_key": ADMIN,
    "roi": EVERYBODY,
    "rollback": STOPPING,
    "rollout": EVERYBODY,
    "rollouts": EVERYBODY,
    "run": EVERYBODY,
    "runs": EVERYBODY,
    "series": EVERYBODY,
    "set_policy": ADMIN,
    "start_rollout": DEPLOYING,
    "start_run": DEPLOYING,
    "status": EVERYBODY,
    "upload": DEPLOYING,
}
# Every route below /api/v1, with a body that reaches the kernel, and who may call it.
ROUTES = {
    "PUT /api/v1/flow-definitions/{name}": ({"source": {}}, DEPLOYING),
    "GET /api/v1/flow-definitions": (None, EVERYBODY),
    "POST /api/v1/flows": ({"flow": "x", "id": "x"}, ACTING),
    "GET /api/v1/flows": (None, EVERYBODY),
    "GET /api/v1/flows/{flow_id}": (None, EVERYBODY),
    "GET /api/v1/flows/{flow_id}/outcome": (None, EVERYBODY),
    "GET /api/v1/flows/{flow_id}/steps": (None, EVERYBODY),
    "POST /api/v1/flows/{flow_id}/cancel": ({}, STOPPING),
    "POST /api/v1/flows/{flow_id}/fork": ({"from_step": 1}, ACTING),
    "GET /api/v1/inbox": (None, EVERYBODY),
    "POST /api/v1/inbox": ({"id": "x/1", "answer": 1}, ANSWERING),
    "GET /api/v1/queues": (None, EVERYBODY),
    "PUT /api/v1/queues/{name}": ({}, ACTING),
    "GET /api/v1/schedules": (None, EVERYBODY),
    "PUT /api/v1/schedules/{name}": ({"flow": "x", "cron": "* * * * *"}, ACTING),
    "DELETE /api/v1/schedules/{name}": (None, ACTING),
    "PUT /api/v1/artifacts/{digest}": ({}, DEPLOYING),
    "POST /api/v1/models/{name}/versions": ({"artifact": {}, "contract": {}}, DEPLOYING),
    "GET /api/v1/models": (None, EVERYBODY),
    "GET /api/v1/models/{ref}": (None, EVERYBODY),
    "PUT /api/v1/endpoints/{name}": ({"version": "x:1"}, DEPLOYING),
    "GET /api/v1/endpoints": (None, EVERYBODY),
    "GET /api/v1/endpoints/{name}": (None, EVERYBODY),
    "DELETE /api/v1/endpoints/{name}": (None, DEPLOYING),
    "POST /api/v1/endpoints/{name}/measure": (None, ACTING),
    "GET /api/v1/endpoints/{name}/series": (None, EVERYBODY),
    "GET /api/v1/endpoints/{name}/plans": (None, EVERYBODY),
    "POST /api/v1/endpoints/{name}/feedback": ({"answers": []}, PREDICTING),
    "POST /api/v1/endpoints/{name}/feedback/events": ({}, PREDICTING),
    "GET /api/v1/endpoints/{name}/monitor": (None, EVERYBODY),
    "GET /api/v1/endpoints/{name}/roi": (None, EVERYBODY),
    "GET /api/v1/costs": (None, EVERYBODY),
    "POST /api/v1/watches": ({"spec": {}}, DEPLOYING),
    "GET /api/v1/log": (None, EVERYBODY),
    "POST /api/v1/log/keys": (None, ADMIN),
    "DELETE /api/v1/log/keys/{key_id}": (None, ADMIN),
    "POST /api/v1/endpoints/{name}/log/compact": (None, DEPLOYING),
    "GET /api/v1/watches": (None, EVERYBODY),
    "DELETE /api/v1/watches/{watch_id}": (None, STOPPING),
    "POST /api/v1/endpoints/{name}/rollback": ({}, STOPPING),
    "POST /api/v1/endpoints/{name}/rollouts": ({"version": "x:2", "plan": {}}, DEPLOYING),
    "GET /api/v1/rollouts": (None, EVERYBODY),
    "GET /api/v1/rollouts/{rollout_id}": (None, EVERYBODY),
    "GET /api/v1/rollouts/{rollout_id}/evidence": (None, EVERYBODY),
    "POST /api/v1/rollouts/{rollout_id}/promote": ({}, DEPLOYING),
    "POST /api/v1/rollouts/{rollout_id}/abort": ({}, STOPPING),
    "POST /api/v1/keys": ({"identity": "bob", "role": "x"}, ADMIN),
    "GET /api/v1/keys": (None, ADMIN),
    "DELETE /api/v1/keys/{key_id}": (None, ADMIN),
    "GET /api/v1/whoami": (None, EVERYBODY),
    "PUT /api/v1/models/{name}/profile": ({"use": "x"}, DEPLOYING),
    "GET /api/v1/models/{name}/profile": (None, EVERYBODY),
    "GET /api/v1/models/{ref}/assessment": (None, EVERYBODY),
    "GET /api/v1/models/{ref}/clearance": (None, EVERYBODY),
    "GET /api/v1/models/{ref}/lineage": (None, EVERYBODY),
    "POST /api/v1/models/{ref}/reproduce": ({}, DEPLOYING),
    "POST /api/v1/models/{name}/break-glass": ({"reason": "x"}, ADMIN),
    "GET /api/v1/policy": (None, EVERYBODY),
    "PUT /api/v1/policy": ({"text": "x"}, ADMIN),
    "GET /api/v1/approvals": (None, EVERYBODY),
    "POST /api/v1/approvals/{subject}/approve": ({"reason": "x"}, APPROVING),
    "POST /api/v1/approvals/{subject}/reject": ({"reason": "x"}, APPROVING),
    "PUT /api/v1/data/{digest}": ({}, DEPLOYING),
    "POST /api/v1/runs": ({"spec": {}}, DEPLOYING),
    "GET /api/v1/runs": (None, EVERYBODY),
    "GET /api/v1/runs/{run_id}": (None, EVERYBODY),
    "POST /api/v1/runs/{run_id}/cancel": ({}, STOPPING),
    "GET /api/v1/runs/{run_id}/reproduction": (None, EVERYBODY),
    "GET /api/v1/endpoints/{name}/history": (None, EVERYBODY),
    "GET /api/v1/explanation": (None, EXPLAINING),
    "GET /api/v1/status": (None, EVERYBODY),
    "GET /api/v1/ps": (None, EVERYBODY),
    "GET /api/v1/audit": (None, EVERYBODY),
    "GET /api/v1/audit/verdict": (None, CHECKING),
    "POST /api/v1/subscriptions": ({"spec": {}}, DEPLOYING),
    "GET /api/v1/subscriptions": (None, EVERYBODY),
    "GET /api/v1/outbox": (None, EVERYBODY),
    "DELETE /api/v1/subscriptions/{subscription}": (None, STOPPING),
    "GET /api/v1/dead-letters": (None, EXPLAINING),
    "POST /api/v1/dead-letters/replay": ({"ids": [1]}, DEPLOYING),
    "POST /api/v1/dead-letters/discard": ({"ids": [1]}, DEPLOYING),
    "POST /api/v1/outbox/give-up": ({"sink": {"kind": "files", "url": "/tmp/x"}}, DEPLOYING),
    "POST /api/v1/events": ({"sink": {}, "event": {}}, DEPLOYING),
    "GET /metrics": (None, EVERYBODY),
    "GET /api/v1/agents": (None, EVERYBODY),
    "GET /api/v1/agent-counts": (None, EVERYBODY),
    "GET /api/v1/agent-hosts": (None, EVERYBODY),
    "POST /api/v1/agents/{name}": ({"id": "x"}, ACTING),
    "GET /api/v1/agents/{name}/{agent_id}": (None, EVERYBODY),
    "GET /api/v1/agents/{name}/{agent_id}/log": (None, EVERYBODY),
    "POST /api/v1/agents/{name}/{agent_id}/messages": ({"message": 1}, ACTING),
    "POST /api/v1/agents/{name}/{agent_id}/ask": ({"message": 1}, ACTING),
    "POST /api/v1/agents/{name}/{agent_id}/kill": ({}, STOPPING),
    "POST /api/v1/agents/{name}/{agent_id}/revive": ({}, ACTING),
    "POST /api/v1/agents/{name}/{agent_id}/grant": ({"budget": {}}, DEPLOYING),
    "POST /api/v1/agent-messages": ({"messages": []}, ACTING),
    "GET /api/v1/dead-messages": (None, EVERYBODY),
    "POST /api/v1/dead-messages/{seq}/revive": (None, ACTING),
    "POST /api/v1/agent-versions/{name}": ({"source": {}, "facts": {}}, DEPLOYING),
    "GET /api/v1/agent-plans": (None, EVERYBODY),
    "GET /api/v1/agent-versions": (None, EVERYBODY),
    "PUT /api/v1/agent-plans/{name}": ({"version": 1, "share": 1}, DEPLOYING),
    "DELETE /api/v1/agent-plans/{name}": (None, STOPPING),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(template, tmp_path):
    return make_world(template, tmp_path)


def denied(world: World):
    entries = world.do("audit", limit=1000, subject=None)
    return [entry for entry in reversed(entries) if entry["action"] == "denied"]


# -- the tables -----------------------------------------------------------------------


def test_every_role_may_do_exactly_what_is_expected_of_it():
    assert set(ROLES) == set(EVERYBODY.split())
    assert set(COMMANDS) == set(EXPECTED)
    for command, roles in EXPECTED.items():
        permission = needed(command, {})
        assert permission is not None
        assert {role for role in ROLES if permits(role, permission)} == set(roles.split()), command


def test_every_command_of_the_kernel_has_a_permission(world: World):
    assert set(world.kernel.known) <= set(COMMANDS)


@pytest.mark.parametrize("role", ["", "root", "Admin", "admin ", "*"])
def test_an_unknown_role_may_do_nothing(world: World, role):
    for command in world.kernel.known:
        with pytest.raises(Forbidden):
            world.kernel.execute(command, {}, Caller("eve", role), None)


def test_an_unknown_command_is_permitted_to_nobody():
    assert needed("drop_tables", {}) is None
    assert not any(permits(role, "drop") for role in ROLES)


@pytest.mark.parametrize("command", ["ABORT", ["abort"], None, {"abort": 1}])
def test_only_to_abort_a_rollout_is_easier_than_to_command_it(command):
    assert needed("command_rollout", {"command": command}) == "rollout"
    assert needed("command_rollout", {"command": "abort"}) == "stop"


def test_an_agent_with_its_text_needs_the_right_to_run_code():
    assert needed("spawn_agent", {"source": {"text": "x"}}) == "train"
    assert needed("spawn_agent", {"source": None}) == "act"


def test_every_role_on_every_route(world: World):
    keys = {
        role: world.do("add_key", identity=f"one {role}", role=role)["key"]
        for role in EVERYBODY.split()
    }
    world.reconcile()
    world.bench.gives["find_answer"] = UnknownName("no such request")
    app = api_of(world)
    known = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        if path.startswith(("/api/v1", "/metrics"))
        for method in methods
    }
    assert known == set(ROUTES), "a route without a line in this table"
    wrong = []
    for role, key in keys.items():
        client = Client(app, key)
        for route, (body, roles) in ROUTES.items():
            method, path = route.split(" ")
            path = re.sub(r"\{\w+\}", "x", path)
            path += "?request_id=x" if path.endswith("explanation") else ""
            answer = client(method, path, **({} if body is None else {"json": body}))
            assert answer.status_code < 500, (route, answer.text)
            if (answer.status_code == 403) == (role in roles.split()):
                wrong.append((role, route, answer.status_code))
    assert wrong == []


# -- what a denied attempt leaves behind ----------------------------------------------


def test_a_denied_attempt_is_audited_and_says_which_role_it_takes(world: World):
    key = world.do("add_key", identity="Vera", role="viewer")["key"]
    world.reconcile()
    body = {"version": "loan:2", "plan": {}}
    answer = Client(api_of(world), key)("POST", "/api/v1/endpoints/loan/rollouts", json=body)
    told = is_problem(answer, 403, "Forbidden")
    assert "viewer" in told["detail"]
    assert "admin or deployer" in told["detail"]
    (entry,) = denied(world)
    assert (entry["actor"], entry["subject"]) == ("Vera", "loan")
    assert entry["details"] == {"command": "start_rollout", "role": "viewer", "needs": "rollout"}
    assert world.kernel.registry.rollouts() == []


def test_a_flood_of_denied_attempts_is_counted_and_fills_no_disk(world: World):
    eve, mallory = Caller("eve", "viewer"), Caller("mallory", "auditor")

    def attempt(caller, times):
        for _ in range(times):
            with pytest.raises(Forbidden):
                world.kernel.execute("remove", {"name": "loan"}, caller, None)

    attempt(eve, 500)
    attempt(mallory, 3)
    assert len(denied(world)) == DENIALS_PER_WINDOW + 3
    world.clock.advance(WINDOW_S)
    counts = [entry for entry in denied(world) if "further_attempts" in entry["details"]]
    assert [(entry["actor"], entry["details"]) for entry in counts] == [
        ("eve", {"further_attempts": 500 - DENIALS_PER_WINDOW})
    ]
    attempt(eve, 1)
    assert denied(world)[-1]["details"]["command"] == "remove"


def test_a_denied_attempt_is_logged_whatever_it_was_called(world: World):
    with pytest.raises(Forbidden):
        world.kernel.execute("revoke_key", {"id": "x\n\x00"}, Caller("eve", "viewer"), None)
    assert denied(world)[-1]["subject"] == "x??"


def test_what_was_only_counted_is_written_when_the_kernel_closes(world: World):
    for _ in range(DENIALS_PER_WINDOW + 5):
        with pytest.raises(Forbidden):
            world.kernel.execute("deploy", {"version": "x" * 10_000}, Caller("eve", "viewer"), None)
    world.kernel.close()
    world.restart()
    entries = denied(world)
    assert entries[-1]["details"] == {"further_attempts": 5}
    assert len(entries[0]["subject"]) <= 100


def test_a_request_without_a_valid_key_is_only_counted(world: World):
    stranger = Client(api_of(world), "aios_eve_" + "x" * 43)
    before = world.do("audit", limit=1000, subject=None)
    for _ in range(3):
        is_problem(stranger("DELETE", "/api/v1/endpoints/loan"), 401, "Unauthenticated")
    assert world.do("audit", limit=1000, subject=None) == before
    key = world.do("add_key", identity="prom", role="viewer")["key"]
    world.reconcile()
    app = api_of(world)
    Client(app, None)("GET", "/api/v1/status")
    text = Client(app, key)("GET", "/metrics").text
    assert "aios_api_unauthenticated_total 1.0" in text
    assert "aios_requests_total" in text


def test_health_and_the_protocols_routes_need_no_role(world: World):
    client = Client(api_of(world), None)
    assert client("GET", "/v2/health/ready").json() == {"ready": True}
    assert "deployed: loan" in client("GET", "/v2/models/frod").json()["detail"]
    assert denied(world) == []


def test_the_key_of_aios_up_is_an_admin(world: World):
    (deployment,) = world.serve.apps["aios--api"]["deployments"]
    assert deployment["user_config"]["keys"][KEY[1]] == [KEY[0], "admin"]
