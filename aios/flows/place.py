"""Where users' flows are kept: their database, and how DBOS is told about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.flows.outcomes import Outcomes
from aios.store.database import Database
from aios.store.files import begin_file

APPLICATION = "aios-flows"
VERSION = "1"
"""DBOS recovers only flows of its own application version. Ours carry the version of their text
with them, so that any worker may go on with any flow."""
SCHEMA = "aios_flows"
"""In PostgreSQL; the kernel's own flows are in `dbos`."""
FLOW = "aios-flow"
SCHEDULED = "aios-scheduled-flow"
QUEUE = "aios"
"""Where flows go that name no queue."""
POLL_S = 0.25
"""How often a worker looks for new flows. A look is two short queries, 5 ms of CPU on a slow node:
ten a second cost an idle worker 5 % of a core, and a flow begins 75 ms sooner on average."""


@dataclass(frozen=True)
class Place:
    """Where flows and their large values are. Picklable.

    Attributes:
        url: SQLAlchemy URL of the database, a SQLite file or PostgreSQL.
        values_url: folder of large values.
    """

    url: str
    values_url: str

    @property
    def on_one_machine(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(self.values_url)

    @property
    def dbos_url(self) -> str:
        """As DBOS wants it: it knows no driver names."""
        url = Database(self.url).url
        kind = "sqlite" if self.on_one_machine else "postgresql"
        return url.set(drivername=kind).render_as_string(hide_password=False)

    def prepare(self) -> None:
        """Make the tables. Only the kernel does.

        Raises:
            StoreUnavailable: the database cannot be reached or written now.
        """
        from dbos import DBOS

        if self.on_one_machine:
            path = Path(self.dbos_url.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
            begin_file(path)
        DBOS.migrate(self.dbos_url, schema=SCHEMA)

    def client(self, serializer: Any) -> Any:
        """A DBOSClient, for enqueuing and asking."""
        from dbos import DBOSClient

        return DBOSClient(
            system_database_url=self.dbos_url,
            dbos_system_schema=SCHEMA,
            serializer=serializer,
            application_name=APPLICATION,
        )
