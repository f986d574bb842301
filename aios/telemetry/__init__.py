"""Telemetry: how aios measures itself, in constant memory.

Called by serving (fills sketches and counters), monitoring and rollout (read them) and the
kernel (exposes them). Knows nothing of endpoints, arms or rollouts, and never blocks or
fails the request that it measures.
"""

from aios.telemetry.sketches import FrequentTexts, Sketch

__all__ = ["FrequentTexts", "Sketch"]
