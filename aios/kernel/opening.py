"""What a kernel stands on, opened from the settings."""

from pathlib import Path

from aios.config import Settings
from aios.flows import FlowEngine
from aios.flows.place import Place
from aios.store.database import Database


def open_flows(settings: Settings) -> FlowEngine:
    """The kernel's durable flows. DBOS's tables stand beside ours in PostgreSQL; in SQLite they
    get a file of their own, since each file has one writer at a time."""
    url = Database(settings.store_url).url
    if url.drivername == "sqlite":
        Path(settings.home).mkdir(parents=True, exist_ok=True)
        return FlowEngine(f"sqlite:///{settings.home}/flows.db", executor="kernel")
    return FlowEngine(url.render_as_string(hide_password=False), executor="kernel")


def place_of(settings: Settings) -> Place:
    """Where users' flows are kept."""
    return Place(settings.flows_url, f"{settings.runs_url.rstrip('/')}/flows")
