"""How many processes wait on each node, everything imported, for the next replica to be theirs.

A replica's start is mostly the start of a process and the imports of Ray Serve; with a process that
waits it is what the replica itself does. Serve builds each new application in a process of its own
first, so that a deployment takes two.
"""

from collections.abc import Collection, Mapping

from aios.kernel.serve_client import AppStatus

KEEP_S = 600.0
"""For how long Ray keeps one that nobody needs; then as many are started anew."""


class Spares:
    """Decides how many to start where.

    Ray does not tell which of its idle processes were never used. So they are counted: a replica
    that is new has taken one from its node, the first of an application two. It counts once it
    runs, so that it has the cores for itself until then. Whatever else took one is made up for
    after `keep_s`; until then there may be too few, and just after it up to twice as many.

    Args:
        wanted: on each node.
        keep_s: for how long one waits.
    """

    def __init__(self, wanted: int, keep_s: float = KEEP_S) -> None:
        self._wanted = wanted
        self._keep_s = keep_s
        self._known: set[str] = set()
        self._left: dict[str, int] = {}
        self._since_s: dict[str, float] = {}

    def missing(
        self, apps: Mapping[str, AppStatus], nodes: Collection[str], now_s: float
    ) -> dict[str, int]:
        """How many to start on which node, by its address; they count as there from now on."""
        for app in apps.values():
            for replica in app.replicas:
                if replica.node is not None and replica.state == "RUNNING":
                    self._take(app.name, replica.replica, replica.node)
        self._known &= {*apps, *(one.replica for app in apps.values() for one in app.replicas)}
        found = {}
        for node in nodes:
            if now_s - self._since_s.get(node, -self._keep_s) >= self._keep_s:
                self._left[node], self._since_s[node] = 0, now_s
            if self._left[node] < self._wanted:
                found[node] = self._wanted - self._left[node]
                self._left[node] = self._wanted
        for gone in self._left.keys() - set(nodes):
            del self._left[gone], self._since_s[gone]
        return found

    def _take(self, app: str, replica: str, node: str) -> None:
        new = {app, replica} - self._known
        self._known |= new
        self._left[node] = max(0, self._left.get(node, 0) - len(new))
