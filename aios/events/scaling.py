"""How many processes read for a subscription. Pure.

The lag at the broker says it, and not that of the inbox: where events wait here, more readers would
only fill the disk.
"""

from dataclasses import dataclass

PER_CONSUMER = 5_000
"""Messages that one reader has behind itself within a second or two."""
UP_AFTER_S = 5.0
DOWN_AFTER_S = 60.0


@dataclass(frozen=True)
class Scale:
    """How many read, and since when another number would be right."""

    consumers: int
    wanted: int
    since_s: float


def scaled(scale: Scale, lag: int | None, held: bool, low: int, high: int, now_s: float) -> Scale:
    """The number from now on. Up after 5 s of lag, one step at a time as a rebalance costs seconds;
    down after a minute of calm.

    Args:
        lag: messages at the broker that were not read; None if that is not known.
        held: whether readers wait because the inbox is full.
        low, high: the bounds.
    """
    wanted = scale.consumers if lag is None or held else -(-lag // PER_CONSUMER)
    wanted = min(max(wanted, low), high)
    current = min(max(scale.consumers, low), high)
    if wanted == current:
        return Scale(current, wanted, now_s)
    way = wanted > current
    if (scale.wanted > scale.consumers) != way or scale.wanted == scale.consumers:
        return Scale(current, wanted, now_s)
    if now_s - scale.since_s < (UP_AFTER_S if way else DOWN_AFTER_S):
        return Scale(current, wanted, scale.since_s)
    return Scale(current + (1 if way else -1), wanted, now_s)
