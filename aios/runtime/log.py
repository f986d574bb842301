"""The part of the runtime that keeps the prediction log: its keys, its age, its files."""

import time
from collections.abc import Sequence
from typing import Any

from aios.errors import DeadlineExceeded, StoreUnavailable
from aios.presentation import Rows, Shown, moment
from aios.runtime.transport import Transport

_LOOK_S = 0.5


class LogState(Shown):
    """The prediction log as housekeeping left it.

    Attributes:
        encrypted: whether new rows are encrypted.
        keys: ids of the keys, oldest first; the last one encrypts. Never the keys themselves.
        keep_days: days after which rows leave; None for never.
        endpoints: of each log that was tidied since the runtime began: `endpoint`, `at_s`,
            `rows_removed`, `rows_resealed`, `rows_closed`, `files_before`, `files_after`,
            `set_aside`, `keys`, `problem`, and `counts` since then.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.encrypted: bool = found["encrypted"]
        self.keys: list[str] = found["keys"]
        self.keep_days: float | None = found["keep_days"]
        self.endpoints: list[dict[str, Any]] = found["endpoints"]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        kept = "for ever" if self.keep_days is None else f"{self.keep_days:g} days"
        how = f"encrypted with key {self.keys[-1]}" if self.encrypted else "in the clear"
        if self.keys[: len(self.keys) - self.encrypted]:
            how += f" (older keys: {', '.join(self.keys[: len(self.keys) - self.encrypted])})"
        columns = ("endpoint", "tidied", "removed", "resealed", "files", "problem")
        rows = [
            [
                one["endpoint"],
                moment(one["at_s"]),
                one.get("rows_removed", 0),
                one.get("rows_resealed", 0),
                f"{one.get('files_before', 0)} -> {one.get('files_after', 0)}",
                one["problem"] or "",
            ]
            for one in self.endpoints
        ]
        return f"prediction log, {how}, kept {kept}", columns, rows


class PredictionLog:
    """How the prediction log is kept."""

    _transport: Transport

    def log(self) -> LogState:
        """Whether the prediction log is encrypted, how long rows are kept, and what housekeeping
        did last."""
        return LogState(self._transport.get("/api/v1/log"))

    def compact_log(self, endpoint: str, *, wait_s: float = 600.0) -> dict[str, Any]:
        """Tidy an endpoint's log and feedback now, as it is done every hour: rows that are too old
        leave, small files become large ones, rows older than 10 minutes come under the newest key.

        Returns:
            What was done; see `LogState.endpoints`.

        Raises:
            UnknownEndpoint: it was never deployed.
            StoreUnavailable: it could not be done; says why.
            DeadlineExceeded: it goes on after `wait_s`.
        """
        asked = self._transport.change("POST", f"/api/v1/endpoints/{endpoint}/log/compact")
        give_up_s = time.monotonic() + wait_s
        while time.monotonic() < give_up_s:
            for one in self.log().endpoints:
                if one["endpoint"] == endpoint and one["at_s"] >= asked["asked_s"]:
                    if "files_after" not in one:
                        raise StoreUnavailable(str(one["problem"]))
                    return one
            time.sleep(_LOOK_S)
        raise DeadlineExceeded(
            f"the log of {endpoint!r} is not tidied after {wait_s:g} s; it goes on: see rt.log()"
        )

    def rotate_log_key(self) -> str:
        """Encrypt new rows of the prediction log with a new key, everywhere within seconds; its id.

        Rows so far stay readable, and come under the new key when housekeeping writes them anew.

        Raises:
            UsageError: the log is not encrypted; says what to set.
        """
        return str(self._transport.change("POST", "/api/v1/log/keys")["id"])

    def retire_log_key(self, key_id: str) -> None:
        """Forget a key that no row is under any more. Versions of the tables that have gone by can
        then no longer be read.

        Raises:
            UsageError: there is none of this id, or it is the newest.
            IllegalTransition: rows are still under it; says of which endpoints.
        """
        self._transport.change("DELETE", f"/api/v1/log/keys/{key_id}")
