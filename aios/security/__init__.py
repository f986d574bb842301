"""Who may call: API keys as secrets that only their holder keeps.

The runtime makes keys, the registry stores their digests, the traffic plan carries the
digests to replicas, and replicas ask `allowed` once per request. Invariants: a plain key
exists only where it was made and where its holder put it; nothing here logs, stores or
formats one. It must not know about HTTP, databases or endpoints.
"""

from aios.security.keys import allowed, digest, key_id, new_key

__all__ = ["allowed", "digest", "key_id", "new_key"]
