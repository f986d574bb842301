"""What the runtime says about who may serve: policy, inbox, cards, history, audit."""

from collections.abc import Iterator
from typing import Any

from aios.presentation import Shown, moment
from aios.records import ApprovalRequest, Serving
from aios.runtime.tables import Look, Table
from aios.runtime.transport import Transport
from aios.store.verdict import Verdict


class Inbox(Shown):
    """The approval requests that wait for somebody, oldest first."""

    def __init__(self, requests: list[ApprovalRequest]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[ApprovalRequest]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> ApprovalRequest:
        return self.requests[index]

    def _shown(self) -> Look:
        rows = [
            [
                request.subject,
                f"{request.name}:{request.version}",
                f"{len(request.approvers)} of {request.needed}",
                request.author,
                moment(request.requested_s),
                moment(request.expires_s),
            ]
            for request in self.requests
        ]
        headings = ["subject", "version", "approvals", "author", "asked", "expires"]
        return f"approvals{'' if rows else ': nothing waits'}", headings, rows


class History(Shown):
    """What an endpoint served, and what let it, oldest first."""

    def __init__(self, endpoint: str, servings: list[Serving]) -> None:
        self.endpoint = endpoint
        self.servings = servings

    def __iter__(self) -> Iterator[Serving]:
        return iter(self.servings)

    def __len__(self) -> int:
        return len(self.servings)

    def __getitem__(self, index: int) -> Serving:
        return self.servings[index]

    def _shown(self) -> Look:
        rows = [
            [
                f"{one.model}:{one.version}",
                moment(one.from_s),
                moment(one.until_s),
                one.cause,
                one.by,
                ", ".join(f"{name} {str(value)[:24]}" for name, value in one.cleared_by.items()),
                "taken back" if one.bad else "",
            ]
            for one in self.servings
        ]
        headings = ["version", "from", "until", "cause", "by", "cleared by", ""]
        return f"what {self.endpoint} served{'' if rows else ': nothing'}", headings, rows


class Card:
    """A model card: Markdown, shown as such in a notebook."""

    def __init__(self, ref: str, text: str) -> None:
        self.ref = ref
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def __rich__(self) -> Any:
        from rich.markdown import Markdown

        return Markdown(self.text.partition("\n---\n")[2] or self.text)

    def _repr_markdown_(self) -> str:
        return self.text.partition("\n---\n")[2] or self.text


class PolicyText(Shown):
    """The policy in force."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.name: str = fields["name"]
        self.digest: str = fields["digest"]
        self.text: str = fields["text"]

    def _shown(self) -> Look:
        import yaml

        found = yaml.safe_load(self.text)
        rows = [
            [
                name,
                "prohibited" if tier["prohibited"] else ", ".join(tier["gates"]) or "nothing",
                tier["approvals"],
                ", ".join(use for use, rule in found["uses"].items() if rule["tier"] == name),
            ]
            for name, tier in found["tiers"].items()
        ]
        title = f"policy {self.name}, {self.digest[:12]}; undeclared models: {found['undeclared']}"
        return title, ["tier", "gates", "approvals", "uses"], rows


class Audit:
    """`rt.audit(limit=...)` lists the newest entries, `rt.audit.verify()` proves them all."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __call__(self, limit: int = 100, subject: str | None = None) -> Table:
        """The newest audit entries, newest first, of one subject or of all."""
        found = self._transport.get("/api/v1/audit", limit=limit, subject=subject)
        return Table("audit", found, ["seq", "at_s", "actor", "action", "subject"])

    def verify(self) -> Verdict:
        """Check every entry and every signed checkpoint, in the database and outside of it.

        Whoever does not trust this runtime does so on a copy: `aios audit verify`.
        """
        return Verdict.model_validate(self._transport.get("/api/v1/audit/verdict"))
