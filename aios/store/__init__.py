"""Durable state: the database with its audit chain, and the artifact folders.

The registry reads and writes through `store.database`, which is not re-exported because the
SDK packs artifacts and must not pay for SQLAlchemy; models, kernel and replicas put and fetch
artifacts through `ArtifactStore`. Invariants: a transaction is whole or absent, also after
SIGKILL or a full disk; writers are serialised, so "read, decide, write" in one transaction
is free of races; audit rows are never changed or removed, and each seals those before it;
an artifact becomes visible only when it is complete and is what its digest says. The store
must not know what a rollout or a model means.
"""

from aios.store.artifacts import ArtifactStore

__all__ = ["ArtifactStore"]
