"""How a replica's process has its memory looked through for garbage."""

import gc

GROWN_BY = 10_000
"""Objects more than were let go before the young are looked through; Python's own is 700."""


def settle_heap() -> None:
    """Call it once what stays is loaded, before traffic.

    What is here then (modules, Ray, engine) is never looked through again: a few 100,000 objects,
    which cost tens of ms each time. What requests leave until it is recorded is looked through
    less often. Memory that is no part of a cycle is freed at once, as ever.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GROWN_BY, 10, 10)
