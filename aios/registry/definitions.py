"""Definitions: flows and agents by name and version, changed only inside an audited change."""

from typing import Any

from sqlalchemy import insert, select

from aios.errors import UnknownName
from aios.records.acting import Definition, DefinitionKind
from aios.records.governed import CodeSource
from aios.registry.base import Reading, Writing, from_row, listed, shown
from aios.store import tables as t


class DefinitionReads(Reading):
    """Questions about definitions."""

    def definition(self, kind: DefinitionKind, name: str, version: int | None = None) -> Definition:
        """One version, by default the newest.

        Raises:
            UnknownName: there is none; the message lists what there is.
        """
        found = self.definitions(kind, name)
        for one in reversed(found):
            if version in (None, one.version):
                return one
        if found:
            known = listed(str(one.version) for one in found)
            raise UnknownName(f"{kind} {shown(name)} has no version {version}; it has {known}")
        known = listed(sorted({one.name for one in self.definitions(kind)}))
        raise UnknownName(f"no {kind} {shown(name)}; known: {known}")

    def definitions(self, kind: DefinitionKind, name: str | None = None) -> list[Definition]:
        """All versions, of one name or of all, in the order of names and versions."""
        table = t.definitions.c
        wanted = select(t.definitions).where(table.kind == kind)
        if name is not None:
            wanted = wanted.where(table.name == name)
        with self._reading() as connection:
            rows = connection.execute(wanted.order_by(table.name, table.version)).all()
        return [from_row(Definition, row) for row in rows]


class DefinitionWrites(Writing, DefinitionReads):
    """Changes of definitions."""

    def define(
        self, kind: DefinitionKind, name: str, source: CodeSource, facts: dict[str, Any], by: str
    ) -> Definition:
        """The version that this text is: the newest one where it is the same, else a new one."""
        known = self.definitions(kind, name)
        same = (source.sha256, source.path, facts)
        if known and (known[-1].source.sha256, known[-1].source.path, known[-1].facts) == same:
            return known[-1]
        made = Definition(
            kind=kind,
            name=name,
            version=known[-1].version + 1 if known else 1,
            source=source,
            facts=facts,
            created_s=self.now_s(),
            created_by=by,
        )
        self._open().execute(insert(t.definitions).values(**made.model_dump(mode="json")))
        return made
