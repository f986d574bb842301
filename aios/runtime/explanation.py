"""`rt.explain` and `rt.reproduce`: why an answer was given, and whether its version can be made
again."""

import time
from html import escape
from typing import Any

from aios.errors import DeadlineExceeded, PermanentError
from aios.governance import Contributions
from aios.presentation import Rows, as_html, as_table, as_text, duration, moment
from aios.records import ApprovalRequest, Assessment, Serving, Snapshot
from aios.runtime.objects import spinner
from aios.runtime.training import Run
from aios.runtime.transport import Transport
from aios.training.reproduce import Reproduction

LOOK_S = 0.5
SHOWN_FEATURES = 25
_BAR = 20
"""Characters of the longest bar in a terminal."""
_BAR_HTML_PX = 160
_UP, _DOWN = "#2e6f9e", "#c2703d"
"""Told apart by people who cannot tell red from green, and neither is good or bad."""


class Explanation:
    """One answer, and everything that led to it.

    Attributes:
        request_id, row, rows: which record of which request, and how many that one has.
        inputs, outputs: what was asked and answered.
        ref, arm, endpoint, at_s, latency_s, degraded: which version answered, where and when.
        snapshot: the data on which the version was trained; None if it was made elsewhere.
        run: the training run, as plain values; None if it was made elsewhere.
        assessment: its gates, as they stood when they let it serve; None if nothing was asked.
        approval: who let it serve, with their reasons; None if nobody had to.
        served: since when it was stable, and what let it; None for a canary or a shadow.
        rollout: the rollout that tried it, as plain values; None if it was stable.
        output: which output `contributions` explain.
        contributions: what each feature added to it; None if that cannot be told, and
            `no_contributions` says why.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.request_id: str = fields["request_id"]
        self.row: int = fields["row"]
        self.rows: int = fields["rows"]
        self.inputs: dict[str, Any] = fields["inputs"]
        self.outputs: dict[str, Any] = fields["outputs"]
        self.ref: str = fields["ref"]
        self.arm: str = fields["arm"]
        self.endpoint: str = fields["endpoint"]
        self.at_s: float = fields["at_s"]
        self.latency_s: float = fields["latency_s"]
        self.degraded: str | None = fields["degraded"]
        self.snapshot = _maybe(Snapshot, fields["snapshot"])
        self.run: dict[str, Any] | None = fields["run"]
        self.assessment = _maybe(Assessment, fields["assessment"])
        self.approval = _maybe(ApprovalRequest, fields["approval"])
        self.served = _maybe(Serving, fields["served"])
        self.rollout: dict[str, Any] | None = fields["rollout"]
        self.output: str | None = fields["reasons"]["output"]
        self.contributions = _maybe(Contributions, fields["reasons"]["contributions"])
        self.no_contributions: str | None = fields["reasons"]["why"]
        self.fields = fields

    def __repr__(self) -> str:
        return "\n\n".join(as_text(*part) for part in self._parts("#"))

    def __rich__(self) -> Any:
        from rich.console import Group

        shown = [as_table(*part) for part in self._parts("█")]
        return Group(*(part for one in shown for part in (one, "")))

    def _repr_html_(self) -> str:
        *parts, (title, _, _) = self._parts("")
        return "".join(as_html(*part) for part in parts) + as_html(title, (), ()) + self._bars()

    def _parts(self, block: str) -> "list[tuple[str, tuple[str, ...], Rows]]":
        """Tables, as `as_table` takes them: the answer, who let it, its gates, its reasons."""
        parts = [
            (self._title(), ("what", "name", "value"), self._asked()),
            (f"how {self.ref} came to answer", ("what", "is"), self._origin()),
        ]
        if self.assessment is not None:
            title, headings, rows = self.assessment._shown()
            parts.append((f"gates of {title}", tuple(headings), rows))
        if self.approval is not None:
            title, headings, rows = self.approval._shown()
            parts.append((f"approval of {title}", tuple(headings), rows))
        parts.append((self._reason(), ("feature", "value", "adds", "±", ""), self._added(block)))
        return parts

    def _title(self) -> str:
        row = f", row {self.row} of {self.rows}" if self.rows > 1 else ""
        degraded = f", degraded: {self.degraded}" if self.degraded else ""
        return (
            f"request {self.request_id}{row}: answered by {self.ref} ({self.arm}{degraded}) on "
            f"{self.endpoint} at {moment(self.at_s)} in {duration(self.latency_s)}"
        )

    def _asked(self) -> Rows:
        asked = [["asked", name, _short(value)] for name, value in self.inputs.items()]
        return asked + [["answered", name, _short(value)] for name, value in self.outputs.items()]

    def _origin(self) -> Rows:
        rows = [["data", _data(self.snapshot)], ["run", self._made()]]
        if self.assessment is None:
            rows.append(["gates", "none: its tier asked for nothing, or it was never assessed"])
        if self.served is not None:
            until = moment(self.served.until_s) or "now"
            rows += [
                ["stable", f"from {moment(self.served.from_s)} until {until}"],
                ["made so", f"by {self.served.cause} of {self.served.by}"],
                ["cleared by", _cleared(self.served)],
            ]
        if self.rollout is not None:
            rows.append(["rollout", f"{self.rollout['id']} of {self.rollout['by']}"])
        return rows

    def _made(self) -> str:
        if self.run is None:
            return "none: it was made elsewhere and registered by hand"
        config = ", ".join(f"{name} {_short(value)}" for name, value in self.run["config"].items())
        told = f"{self.run['id']}: {self.run['recipe']}, seed {self.run['seed']}"
        return f"{told}, by {self.run['by']}{f'; {config}' if config else ''}"

    def _reason(self) -> str:
        found = self.contributions
        if found is None:
            return f"no contributions: {self.no_contributions}"
        return (
            f"why {self.output} is {found.score:.4g}: {found.base:.4g} is usual, and to that its "
            "features add"
        )

    def _ordered(self) -> list[tuple[str, float, float]]:
        """Features with what they add and its standard error, the greatest first."""
        found = self.contributions
        if found is None:
            return []
        ordered = sorted(found.values.items(), key=lambda item: -abs(item[1]))
        return [(name, value, found.errors[name]) for name, value in ordered[:SHOWN_FEATURES]]

    def _added(self, block: str) -> Rows:
        ordered = self._ordered()
        longest = max((abs(value) for _, value, _ in ordered), default=0.0) or 1.0
        return [
            [
                name,
                _short(self.inputs.get(name)),
                f"{value:+.4f}",
                f"{error:.4f}",
                ("+" if value > 0 else "-") + block * max(1, round(_BAR * abs(value) / longest))
                if value
                else "",
            ]
            for name, value, error in ordered
        ]

    def _bars(self) -> str:
        """Contributions as horizontal bars around a middle line."""
        ordered = self._ordered()
        longest = max((abs(value) for _, value, _ in ordered), default=0.0) or 1.0
        rows = []
        for name, value, error in ordered:
            width = round(_BAR_HTML_PX * abs(value) / longest)
            left = _BAR_HTML_PX - (width if value < 0 else 0)
            bar = (
                f'<div style="width:{2 * _BAR_HTML_PX}px;background:linear-gradient(#8888,#8888) '
                'center/1px 100% no-repeat">'
                f'<div style="margin-left:{left}px;width:{width}px;height:12px;'
                f'background:{_UP if value > 0 else _DOWN}"></div></div>'
            )
            cells = (f"{name} = {_short(self.inputs.get(name))}", f"{value:+.4f}", f"± {error:.4f}")
            text = "".join(
                f'<td style="padding:2px 12px 2px 0;text-align:left">{escape(cell)}</td>'
                for cell in cells
            )
            rows.append(f'<tr>{text}<td style="text-align:left">{bar}</td></tr>')
        if not rows:
            return ""
        return f'<table style="border-collapse:collapse"><tbody>{"".join(rows)}</tbody></table>'


def reproduce(transport: Transport, ref: str, wait_s: float) -> Reproduction:
    """Make a version again and compare; see `Runtime.reproduce`."""
    started = transport.change("POST", f"/api/v1/models/{ref}/reproduce", {})
    run, give_up_s = Run(transport, started["id"]), time.monotonic() + wait_s
    with spinner(f"reproducing {ref}") as show:
        while True:
            status = run.status()
            if status.finished:
                break
            show(f"reproducing {ref}: {status.summary}")
            if time.monotonic() > give_up_s:
                raise DeadlineExceeded(
                    f"run {run.id}, which makes {ref} again, goes on after {wait_s:g} s: "
                    f"{status.summary}",
                    run=run.id,
                )
            time.sleep(LOOK_S)
    if status.outcome != "finished":
        raise PermanentError(
            f"{ref} could not be made again: run {run.id} {status.outcome}: {status.error}",
            run=run.id,
        )
    return Reproduction.model_validate(transport.get(f"/api/v1/runs/{run.id}/reproduction"))


def _maybe(kind: Any, fields: dict[str, Any] | None) -> Any:
    return None if fields is None else kind.model_validate(fields)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _data(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "not known"
    return f"{snapshot.source}, {snapshot.rows:,} rows, sha256 {snapshot.digest[:12]}"


def _cleared(served: Serving) -> str:
    found = served.cleared_by
    if "break_glass" in found:
        return f"broken glass {found['break_glass']}, around the gates"
    parts = [f"tier {found['tier']}"] if "tier" in found else []
    if "assessment" in found:
        parts.append(f"assessment {found['assessment'][:12]}")
    if found.get("approvers"):
        parts.append(f"approved by {', '.join(found['approvers'])}")
    return ", ".join(parts) or ", ".join(f"{k} {v}" for k, v in found.items()) or "nothing asked"
