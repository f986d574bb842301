"""`rt.keys`: who may call this runtime, and what."""

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from aios.errors import TemporaryError, Unauthenticated
from aios.presentation import Rows, Shown, moment
from aios.runtime.tables import Table
from aios.runtime.transport import Transport
from aios.security import Role, key_id

EFFECTIVE_S = 5.0
"""A key that was added or revoked is known as such everywhere within this time."""
_LOOK_S = 0.1


class NewKey(Shown):
    """A key that was made just now; `key` holds it, and nothing else ever will.

    Printing it shows no secret: what a notebook prints is saved with the notebook.
    """

    def __init__(self, made: dict[str, Any]) -> None:
        self.key: str = made["key"]
        self.id: str = made["id"]
        self.identity: str = made["identity"]
        self.role: str = made["role"]
        self.expires_s: float | None = made["expires_s"]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = f"new key of {self.identity}; `.key` holds it, and it is shown nowhere again"
        expires = moment(self.expires_s) or "never"
        return title, ("id", "role", "expires"), [[self.id, self.role, expires]]


class Keys:
    """The API keys of one runtime. Only an admin may use this.

    | role | may |
    | --- | --- |
    | viewer | read, predict |
    | operator | also roll back, abort, cancel |
    | deployer | also register, train, declare, deploy, roll out |
    | approver | read, predict, approve and reject, verify the audit log |
    | auditor | read and verify the audit log; no predictions |
    | admin | everything |
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(self, identity: str, *, role: Role, expires_s: float | None = None) -> NewKey:
        """Make a key for a person or service. Returns when the runtime takes it, which is
        within `EFFECTIVE_S`.

        Args:
            identity: whom it is for, as it stands in versions, approvals and the audit log.
                Two keys of one identity are one person: to rotate a key add another one,
                hand it over, and revoke the old one.
            expires_s: Unix seconds after which it does not work, such as
                `time.time() + 90 * 86_400`; None for never.

        Raises:
            UsageError: no such role, no usable identity, or a time in the past.
            IllegalTransition: this very call came through once and its answer was lost; says
                which key to revoke.
        """
        body = {"identity": identity, "role": role, "expires_s": expires_s}
        made = NewKey(self._transport.change("POST", "/api/v1/keys", body))
        self._wait(made.key)
        return made

    def list(self) -> Table:
        """The keys that work now, without the keys themselves."""
        rows = [
            {
                **row,
                "created": moment(row["created_s"]),
                "expires": moment(row["expires_s"]) or "never",
            }
            for row in self._transport.get("/api/v1/keys")
        ]
        return Table("keys", rows, ["id", "identity", "role", "created", "expires"])

    def revoke(self, key: str | NewKey) -> None:
        """Let a key never call again; everywhere within `EFFECTIVE_S`.

        Args:
            key: its id, as `list` shows it; or the key.

        Raises:
            UnknownName: there is none; says which there are.
            IllegalTransition: it is the last admin key that does not expire.
        """
        which = key.key if isinstance(key, NewKey) else key
        # A plain key has no business in an address, which is logged on its way.
        which = key_id(which) if which.startswith("aios_") else which
        self._transport.change("DELETE", f"/api/v1/keys/{which}")

    def _wait(self, key: str) -> None:
        """Until the API knows the key. If that takes too long the key is still worth having."""
        give_up_s = time.monotonic() + EFFECTIVE_S
        with closing(Transport(self._transport.address, key, patience_s=0.0)) as own:
            while time.monotonic() < give_up_s:
                try:
                    own.get("/api/v1/whoami")
                    return
                except (Unauthenticated, TemporaryError):
                    time.sleep(_LOOK_S)
