"""What acts: the flows and agents that users wrote, by name and version."""

from typing import Any, Literal

from pydantic import Field

from aios.records.base import Name, Record
from aios.records.governed import CodeSource

DefinitionKind = Literal["flow", "agent"]


class Definition(Record):
    """One version of a flow or an agent: its text, and what was read off it when it was sent.

    Versions of a name count from 1. What was begun with one goes on with it, whatever came
    after: its text stays.
    """

    kind: DefinitionKind
    name: Name
    version: int = Field(ge=1)
    source: CodeSource
    facts: dict[str, Any] = {}
    created_s: float
    created_by: str

    @property
    def ref(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"
