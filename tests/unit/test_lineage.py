"""A version's lineage: the chain of causes, its looks, and what data catalogues get of it."""

import re
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from governed_world import DATA, RUN, WHO, again, governed, refused
from kernel_fakes import CONTRACT, World
from rich.console import Console

from aios.errors import UnknownModel, UsageError
from aios.runtime.lineage import Lineage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return governed(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def lineage(world: World) -> Lineage:
    return Lineage(world.do("lineage", ref="loan:2"))


def test_it_leads_from_the_data_to_the_endpoint(lineage: Lineage) -> None:
    kinds = ["snapshot", "run", "version", "assessment", "approval", "rollout", "endpoint"]
    assert [node.kind for node in lineage.nodes] == kinds
    ids = [node.id for node in lineage.nodes]
    assert lineage.edges == list(pairwise(ids)), "each from the one before"
    assert [node.good for node in lineage.nodes] == [None, None, *[True] * 5]
    facts = {node.kind: node.facts for node in lineage.nodes}
    assert facts["snapshot"]["digest"] == DATA
    assert facts["run"]["recipe_text"].startswith("class LoanRecipe")
    assert facts["approval"]["approvers"] == ["bea"]
    assert facts["endpoint"]["cleared_by"]["request"] == lineage.nodes[4].name


def test_a_version_that_may_not_serve_says_so_and_which_gate_it_failed(
    world: World, tmp_path: Path
) -> None:
    world = again(world, tmp_path)
    found = Lineage(world.do("lineage", ref=refused(world).ref))
    *_, version, assessment = found.nodes
    assert (version.good, assessment.good) == (False, False)
    assert "fairness" in assessment.label
    assert any("fairness" in reason for reason in version.facts["missing"])
    assert "✘ gates" in repr(found)


def test_of_a_version_made_by_hand_only_what_is_known_is_told(world: World) -> None:
    found = Lineage(world.do("lineage", ref="loan:1"))
    assert [node.kind for node in found.nodes] == ["version", "endpoint"]
    assert found.nodes[1].facts["until_s"] is not None
    assert [event["job"]["name"] for event in found.openlineage()] == []


@pytest.mark.parametrize("said", [{"run": "none", "snapshot": "x"}, {"run": 3, "snapshot": [1]}])
def test_a_lineage_that_somebody_made_up_is_left_out(
    world: World, tmp_path: Path, said: dict[str, Any]
) -> None:
    world = again(world, tmp_path)
    artifact = {"digest": "c" * 64, "engine": "onnx", "size_bytes": 1}
    contract = CONTRACT.to_json()
    world.do("register", name="x", artifact=artifact, contract=contract, lineage=said)
    assert [node["kind"] for node in world.do("lineage", ref="x:1")["nodes"]] == ["version"]


def test_an_unknown_version_is_named(world: World) -> None:
    with pytest.raises(UnknownModel, match="no version 9"):
        world.do("lineage", ref="loan:9")


def test_a_version_that_came_back_is_at_its_endpoint_twice(world: World, tmp_path: Path) -> None:
    world = again(world, tmp_path)
    world.do("rollback", endpoint="loan", reason="worse")
    nodes = world.do("lineage", ref="loan:1")["nodes"]
    assert [node["id"] for node in nodes][-2:] == ["endpoint loan", "endpoint loan (2)"]
    taken = Lineage(world.do("lineage", ref="loan:2")).nodes[-1]
    assert taken.good is False
    assert "taken back" in taken.label


# -- looks ----------------------------------------------------------------------------


class Tags(HTMLParser):
    """Fails where a tag is none of ours or is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("div", "ul", "li", "b", "span", "html", "head", "meta", "title", "body"), tag
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_a_nested_list_in_which_nothing_is_markup(lineage: Lineage, tmp_path: Path) -> None:
    lineage.save(tmp_path / "page.html")
    for text in (lineage._repr_html_(), (tmp_path / "page.html").read_text("utf-8")):
        read = Tags()
        read.feed(text)
        assert read.open == []
        assert "s3://lake/<loans>/" in read.text
        assert "I <looked>" in read.text


def test_a_page_that_cannot_be_written_is_named(lineage: Lineage, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        lineage.save(tmp_path / "nowhere" / "page.html")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_tree_in_a_terminal_fits_and_shows_every_node(lineage: Lineage, width: int) -> None:
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as shown:
        console.print(lineage)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.get())
    assert max(map(len, text.splitlines())) <= width
    for name in (DATA[:12], RUN, "loan:2", "10 of 10 gates", "promoted"):
        assert name in text


def test_its_text_is_one_line_per_node(lineage: Lineage) -> None:
    lines = repr(lineage).splitlines()
    assert lines[0] == "lineage of loan:2"
    assert len(lines) == 1 + len(lineage.nodes)
    assert lines[-1].lstrip(" └─").startswith("✔ endpoint loan: stable of loan until now")


# -- OpenLineage ----------------------------------------------------------------------


def is_facet(facet: dict[str, Any]) -> None:
    """`BaseFacet` of the specification."""
    assert urlsplit(facet["_producer"]).scheme
    assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")


def is_run_event(event: dict[str, Any]) -> None:
    """`RunEvent` of openlineage.io/spec/2-0-2/OpenLineage.json, with the facets we send."""
    assert set(event) <= {
        *("eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"),
    }
    assert event["eventType"] in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER")
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert urlsplit(event["producer"]).scheme
    assert event["schemaURL"].endswith("2-0-2/OpenLineage.json#/$defs/RunEvent")
    assert UUID(event["run"]["runId"])
    for facets in (event["run"].get("facets", {}), event["job"].get("facets", {})):
        for facet in facets.values():
            is_facet(facet)
    assert event["job"]["namespace"]
    assert event["job"]["name"]
    for side, own in (("inputs", "inputFacets"), ("outputs", "outputFacets")):
        for dataset in event[side]:
            assert set(dataset) <= {"namespace", "name", "facets", own}
            assert dataset["namespace"]
            assert dataset["name"]
            for facet in [*dataset.get("facets", {}).values(), *dataset.get(own, {}).values()]:
                is_facet(facet)


def test_openlineage_tells_of_the_run_and_of_the_rollout(lineage: Lineage) -> None:
    events = lineage.openlineage("bank")
    for event in events:
        is_run_event(event)
    told = [(event["job"]["name"], event["eventType"]) for event in events]
    assert told == [
        ("train loan", "START"),
        ("train loan", "COMPLETE"),
        ("roll out on loan", "START"),
        ("roll out on loan", "COMPLETE"),
    ]
    assert {event["job"]["namespace"] for event in events} == {"bank"}
    _, trained, _, rolled = events
    (data,), (model,) = trained["inputs"], trained["outputs"]
    assert (data["namespace"], data["name"]) == ("s3://lake", "<loans>/")
    assert data["facets"]["dataSource"]["uri"] == "s3://lake/%3Cloans%3E/"
    assert data["facets"]["version"]["datasetVersion"] == DATA
    assert data["facets"]["schema"]["fields"] == [{"name": "a", "type": "double"}]
    assert data["inputFacets"]["inputStatistics"]["rowCount"] == 12_345
    assert trained["job"]["facets"]["sourceCode"]["sourceCode"] == "class LoanRecipe: ...\n"
    assert (model["name"], model["facets"]["version"]["datasetVersion"]) == ("model loan", "2")
    assert model["facets"]["aios_model"]["approvers"] == ["bea"]
    assert rolled["inputs"] == trained["outputs"], "the same data set, so that they join"
    assert [one["name"] for one in rolled["outputs"]] == ["endpoint loan"]
    assert lineage.openlineage("bank") == events, "the same run has the same UUID again"


def test_a_failed_rollout_fails_and_one_that_runs_has_not_ended(
    world: World, tmp_path: Path
) -> None:
    world = again(world, tmp_path)
    with world.kernel.registry.change(subject="loan", **WHO) as change:
        row = change.rollout("loan-2-ab")
        change.create_rollout(
            row.model_copy(
                update={
                    "id": "again",
                    "status": "running",
                    "finished_s": None,
                    "created_s": change.at_s,
                }
            )
        )
    running = Lineage(world.do("lineage", ref="loan:2")).openlineage()
    assert [event["eventType"] for event in running[-2:]] == ["COMPLETE", "START"]
    with world.kernel.registry.change(subject="loan", **WHO) as change:
        change.save_rollout("again", "failed", {}, "a replica died")
    ended = Lineage(world.do("lineage", ref="loan:2")).openlineage()[-1]
    is_run_event(ended)
    assert ended["eventType"] == "FAIL"
    assert ended["run"]["facets"]["errorMessage"]["message"] == "a replica died"
