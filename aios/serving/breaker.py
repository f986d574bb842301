"""A circuit breaker: stop paying the timeout for an arm that is dead."""

from dataclasses import dataclass


@dataclass
class Breaker:
    """Opens after `threshold` failures in a row, for `open_s`; then lets one probe through.

    Times are monotonic seconds, passed in. Only failures to answer (timeouts, lost
    processes) should be reported: a model that raises quickly costs nothing to ask again,
    and its errors are evidence.
    """

    threshold: int = 5
    open_s: float = 1.0
    _failures: int = 0
    _open_until_s: float = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether to try the arm now. While open, one probe passes every `open_s`."""
        if self._failures < self.threshold:
            return True
        if now_s < self._open_until_s:
            return False
        self._open_until_s = now_s + self.open_s
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, now_s: float) -> None:
        self._failures += 1
        if self._failures >= self.threshold:
            self._open_until_s = now_s + self.open_s
