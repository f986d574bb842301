"""`rt.lineage`: what a version came from and what became of it, as people and tools read it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from aios.errors import UsageError
from aios.presentation import moment
from aios.runtime.openlineage import run_events

_RICH = {True: "green", False: "red", None: "default"}
# Readable on white and on black: notebooks have both.
_HTML = {True: "#2e8b57", False: "#d1443c", None: "#8889"}
_MARKS = {True: "✔ ", False: "✘ ", None: ""}
_NAMES = {"assessment": "gates", "snapshot": "data"}
"""What a kind is called where people read it."""


@dataclass(frozen=True)
class Node:
    """One link of the chain: a watch, snapshot, run, version, assessment, approval, rollout or
    endpoint.

    Attributes:
        good: whether it stands well; None where that has no meaning.
        facts: what is known of it, as plain values.
    """

    id: str
    kind: str
    label: str
    at_s: float | None
    good: bool | None
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """What it is called, without its kind."""
        return self.id.partition(" ")[2]

    @property
    def line(self) -> str:
        """All of it in one line."""
        kind = _NAMES.get(self.kind, self.kind)
        at = f", {moment(self.at_s)}" if self.at_s is not None else ""
        return f"{kind} {self.name}: {self.label}{at}"


class Lineage:
    """The graph around one version: data -> run -> version -> gates -> approvals -> rollouts ->
    endpoints. Each node has one cause at most, so it prints as a tree.

    Attributes:
        ref: the version.
        because: why a watch had it made, in a sentence; None if a person wanted it.
        nodes: in the order of cause and effect.
        edges: (cause, effect), by the nodes' ids.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.ref: str = fields["ref"]
        self.because: str | None = fields["because"]
        self.nodes = [Node(**node) for node in fields["nodes"]]
        self.edges: list[tuple[str, str]] = [(before, after) for before, after in fields["edges"]]

    @property
    def _title(self) -> str:
        return f"lineage of {self.ref}{f': {self.because}' if self.because else ''}"

    def openlineage(self, namespace: str = "aios") -> list[dict[str, Any]]:
        """The same as OpenLineage run events (JSON, specification 2-0-2), in the order of time.

        The training run is one run, with the snapshot as input and the version as output, and
        each rollout is one of another job. A version that was registered by hand has no run.

        Args:
            namespace: under which jobs and versions are found in the tool that takes them.
        """
        return run_events(self.nodes, self.ref, namespace)

    def save(self, path: str | Path) -> None:
        """Write it as a page of HTML.

        Raises:
            UsageError: the file cannot be written.
        """
        page = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>lineage of {escape(self.ref)}</title></head>"
            f'<body style="font-family:sans-serif;margin:2em">{self._repr_html_()}</body></html>\n'
        )
        try:
            Path(path).write_text(page, "utf-8")
        except OSError as error:
            raise UsageError(f"the lineage cannot be written to {path}: {error}") from None

    def __repr__(self) -> str:
        lines = [self._title]

        def draw(node: Node, before: str, last: bool) -> None:
            lines.append(f"{before}{'└── ' if last else '├── '}{_MARKS[node.good]}{node.line}")
            inside = before + ("    " if last else "│   ")
            self._each_below(node.id, lambda child, ends: draw(child, inside, ends))

        self._each_below(None, lambda root, ends: draw(root, "", ends))
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(Text(self._title, style="bold"))

        def grow(branch: Tree, node: Node) -> None:
            kind = _NAMES.get(node.kind, node.kind)
            text = Text(f"{_MARKS[node.good]}{kind} {node.name}", style=f"bold {_RICH[node.good]}")
            text.append(f"\n{node.label}", style="not bold default")
            if node.at_s is not None:
                text.append(f"\n{moment(node.at_s)}", style="not bold dim default")
            below = branch.add(text)
            self._each_below(node.id, lambda child, _: grow(below, child))

        self._each_below(None, lambda root, _: grow(tree, root))
        return tree

    def _repr_html_(self) -> str:
        title = f'<div style="font-weight:600;padding:2px 0 4px">{escape(self._title)}</div>'
        return title + self._html_below(None)

    def _html_below(self, cause: str | None) -> str:
        items = []
        for node in self._below(cause):
            kind = escape(_NAMES.get(node.kind, node.kind))
            when = escape(moment(node.at_s) or "")
            items.append(
                '<li style="margin:2px 0;padding-left:8px;list-style:none;'
                f'border-left:3px solid {_HTML[node.good]}">'
                f"<b>{_MARKS[node.good]}{kind}</b> {escape(node.name)}"
                f'<div>{escape(node.label)} <span style="opacity:.6">{when}</span></div>'
                f"{self._html_below(node.id)}</li>"
            )
        return f'<ul style="margin:0;padding-left:16px">{"".join(items)}</ul>' if items else ""

    def _below(self, cause: str | None) -> Iterator[Node]:
        causes = {after: before for before, after in self.edges}
        return (node for node in self.nodes if causes.get(node.id) == cause)

    def _each_below(self, cause: str | None, draw: Callable[[Node, bool], None]) -> None:
        """`draw` each effect of a node, or each root, and say which is the last."""
        nodes = list(self._below(cause))
        for node in nodes:
            draw(node, node is nodes[-1])
