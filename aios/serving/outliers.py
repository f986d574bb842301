"""How unusual records are, told to who asks: beside the prediction, and never instead of it.

A version's detector is loaded when somebody first asks, off the event loop and once for all that
wait; whoever does not ask pays nothing. Whatever goes wrong is a reason in the answer.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aios.contracts import Batch, Contract
from aios.errors import AiosError, Overloaded
from aios.models import OutlierDetector, OutlierScores, scored_fields
from aios.records import ServedVersion
from aios.serving.runner import INLINE_LIMIT_S

KEPT = 4
"""Detectors kept loaded: stable, a challenger, and two to roll back to; about 1 MB each."""
MOST_WAITING = 64
"""Batches that wait for the thread; whoever comes after is told so at once."""
RETRY_S = 10.0
"""A detector that could not be loaded is not tried again before."""
_LATE = (
    "the deadline came first; a detector is loaded at the first ask, and a later one may be in time"
)
logger = logging.getLogger("aios.serving")
LoadOutliers = Callable[[ServedVersion], OutlierDetector | None]


@dataclass(frozen=True, slots=True)
class Unusual:
    """What an asker is told: scores, or the reason why there are none."""

    told: OutlierScores | None = None
    reason: str | None = None


class Outliers:
    """The detectors of one replica.

    Args:
        load: opens a version's detector, None if it has none; called off the event loop.
    """

    def __init__(self, load: LoadOutliers) -> None:
        self._load = load
        self._loaded: dict[str, asyncio.Future[OutlierDetector | str]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self.missed = 0
        """Askers that got no scores although the version has a detector."""

    async def score(self, served: ServedVersion, batch: Batch, deadline_s: float) -> Unusual:
        """How unusual the rows are beside those that the version was made of.

        Args:
            deadline_s: monotonic seconds by when the answer must leave.
        """
        left_s = deadline_s - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            async with asyncio.timeout(left_s):
                detector = await self._detector(served)
                if isinstance(detector, str):
                    return Unusual(reason=detector)
                return Unusual(await self._scored(detector, batch))
        except TimeoutError:
            reason = _LATE
        except AiosError as error:
            reason = error.message
        except Exception as error:
            logger.exception("outliers of version %d cannot be told", served.version)
            reason = f"the detector raised {type(error).__name__}"
        self.missed += 1
        return Unusual(reason=reason)

    async def _detector(self, served: ServedVersion) -> OutlierDetector | str:
        digest = served.artifact.digest
        loading = self._loaded.pop(digest, None)
        if loading is None:
            loop = asyncio.get_running_loop()
            loading = loop.run_in_executor(None, self._opened, served)
            loading.add_done_callback(lambda done: self._forget_failed(digest, done))
        self._loaded[digest] = loading  # newest last
        while len(self._loaded) > KEPT:
            self._loaded.pop(next(iter(self._loaded)))
        if loading.done():
            return loading.result()
        return await asyncio.shield(loading)

    def _opened(self, served: ServedVersion) -> OutlierDetector | str:
        """In a thread: the detector, or why the version has none."""
        found = self._load(served)
        if found is not None:
            return found
        if not scored_fields(Contract.from_json(served.contract)):
            return f"version {served.version} has no number, boolean or category to judge by"
        return (
            f"version {served.version} was made without rows that say what is ordinary; register "
            "it with a sample of at least 100 that it was trained on"
        )

    def _forget_failed(self, digest: str, done: "asyncio.Future[OutlierDetector | str]") -> None:
        if done.cancelled() or done.exception() is None:
            return
        logger.warning("a detector of outliers cannot be loaded", exc_info=done.exception())

        def forget() -> None:
            if self._loaded.get(digest) is done:
                del self._loaded[digest]

        done.get_loop().call_later(RETRY_S, forget)

    async def _scored(self, detector: OutlierDetector, batch: Batch) -> OutlierScores:
        if detector.seconds(batch.rows) < INLINE_LIMIT_S:
            return detector.score(batch)
        if self._waiting >= MOST_WAITING:
            raise Overloaded("too many ask for outliers at the same time")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aios-outliers")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        scoring = loop.run_in_executor(self._thread, detector.score, batch)
        scoring.add_done_callback(self._one_less)
        return await scoring

    def _one_less(self, _done: "asyncio.Future[OutlierScores]") -> None:
        self._waiting -= 1
