"""Telemetry: how aios measures itself, in constant memory.

Called by serving (fills sketches, summaries and counters), training (summaries of what a version
was trained on), monitoring and rollout (read them) and the kernel (exposes them). Knows nothing
of endpoints, arms or rollouts, and never blocks or fails the request that it measures.
"""

from aios.telemetry.histogram import Histogram
from aios.telemetry.sketches import FrequentTexts, Sketch
from aios.telemetry.summaries import Summary, merged

__all__ = ["FrequentTexts", "Histogram", "Sketch", "Summary", "merged"]
