"""Who may call, and what: API keys as secrets that only their holder keeps, and roles.

The runtime makes keys, the registry stores their digests, the traffic plan carries the
digests to replicas, and replicas ask `allowed` once per request; the kernel asks `permits`
once per command. Invariants: a plain key exists only where it was made and where its holder
put it; nothing here logs, stores or formats one; what no table names is denied. It must not
know about HTTP, databases or endpoints.
"""

from aios.security.keys import allowed, digest, key_id, new_key
from aios.security.permissions import Caller, Role, holders, needed, permits

__all__ = [
    "Caller",
    "Role",
    "allowed",
    "digest",
    "holders",
    "key_id",
    "needed",
    "new_key",
    "permits",
]
