"""What is loaded before traffic is never looked through for garbage again; what comes later is."""

import subprocess
import sys

LOOK = """
import gc, weakref
from aios.serving.heap import settle_heap

class Node: pass
loaded = [Node() for _ in range(50_000)]
settle_heap()
assert gc.get_freeze_count() > 50_000, gc.get_freeze_count()
assert not any(one is loaded[0] for one in gc.get_objects())

lost = Node()
lost.itself = lost
seen = weakref.ref(lost)
del lost
kept = [[] for _ in range(9_000)]
assert seen() is not None
kept += [[] for _ in range(11_000)]
assert seen() is None, "a cycle of a request is never freed"
"""


def test_what_is_loaded_is_looked_through_no_more_and_cycles_of_requests_still_are():
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
