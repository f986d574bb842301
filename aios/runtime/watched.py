"""The part of the runtime that watches: `rt.watch`, `rt.monitor`, `rt.feedback`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aios.monitoring.conditions import Family
from aios.runtime.feedback_file import FeedbackReport, Progress, send_file
from aios.runtime.monitor import Monitor
from aios.runtime.transport import Transport
from aios.runtime.watching import Retrain, Watch, Watches, add_watch, find_watch, send_feedback


class Watched:
    """What is seen of endpoints, and what follows from it."""

    _transport: Transport

    def watch(
        self,
        endpoint: str,
        *,
        drift: str | Sequence[str] = (),
        quality: str | Sequence[str] = (),
        concept: str | Sequence[str] = (),
        fairness: str | Sequence[str] = (),
        schedule: str | None = None,
        then: Retrain | None = None,
        **settings: Any,
    ) -> Watch:
        """Look at an endpoint from now on; raise alarms, and retrain when one rings.

        Args:
            drift: such as `psi > 0.2 on any for 3 windows`; also chi2, js, ks, wasserstein, on
                `inputs`, `outputs` or one field; `domain_auc > 0.65 for 2 windows`: a classifier
                tells recorded rows from those of the training, by all inputs together.
            quality: `nulls > 0.1 on income`, `outside > 0.05 on any` (of what it was trained on).
            concept: on feedback, `accuracy < 0.8 for 2 windows` (classes and texts are right where
                they are equal, chances from 0.5 on), brier, log_loss, mae, rmse, `error drift`
                (errors are larger more often than they were in the newest 5,000 requests; that a
                few are much larger, mae and rmse tell); before it comes, `estimated_accuracy <
                0.8` of `output`. accuracy, brier, log_loss and the estimate want an output that is
                `Number(min=0, max=1)`; accuracy may also be of classes.
            fairness: `demographic_parity_difference > 0.2 on sex for 2 windows` of `min_labels`
                answers; on feedback with labels also `equal_opportunity_difference`,
                `equalized_odds_difference`, `accuracy_difference`. Whom an answer was about comes
                with its feedback, `rt.feedback(id, {"sex": "f", "repays": 1})`, in one call, as the
                last feedback counts; or it is an input. The answer is for 1 from 0.5 on.
            schedule: a cron line in UTC, by which `then` is started too.
            then: `aios.Retrain(recipe)`; without it, alarms only.
            settings: `cooldown_s` between two retrains (3600), `budget`
                (`aios.RetrainBudget(retrains=5, cpu_hours=24, per_s=86400)`), `min_rows` (200) and
                `min_labels` (100) of a window, `error_probability` (0.05) of any false alarm over
                the watch's life for independent requests (approximate only by the error of
                sketches, see `aios.records.watching.WatchSpec`), `output` and `label`: which
                feedback is the truth of which output, `alerts`: who is told when an alarm rings and
                when it is over, such as `[aios.SlackAlert(url="env:ALERT_SLACK_URL")]`, also
                `aios.WebhookAlert` and `aios.EmailAlert`; the kernel's log has every alarm anyway.

        Raises:
            UsageError: a condition does not read like one, names a field that does not exist or a
                measure that the output has not, is there twice, the run could not be started, or an
                alert's secret is not on the kernel's machine.
            UnknownEndpoint: it is not deployed.
        """
        families: dict[Family, str | Sequence[str]] = {
            "drift": drift,
            "quality": quality,
            "concept": concept,
            "fairness": fairness,
        }
        return add_watch(
            self._transport, endpoint, families, schedule=schedule, then=then, **settings
        )

    def get_watch(self, watch_id: str) -> Watch:
        """A watch that somebody began, by the id that `watches` lists; `.end()` takes it off.

        Raises:
            UsageError: none of this id is active; says which are.
        """
        return find_watch(self._transport, watch_id)

    def watches(self, endpoint: str | None = None) -> Watches:
        """What is watched, and how each watch stands."""
        return Watches(self._transport.get("/api/v1/watches", endpoint=endpoint))

    def monitor(self, endpoint: str) -> Monitor:
        """What an endpoint saw and answered lately, beside what is normal for it.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        self._transport.get(f"/api/v1/endpoints/{endpoint}")
        return Monitor(self._transport, endpoint)

    def feedback(
        self,
        request_id: str | Mapping[str, Mapping[str, Any]],
        values: Mapping[str, Any] | None = None,
        *,
        endpoint: str | None = None,
    ) -> int:
        """Tell what turned out about an answer, hours or days later too.

        Kept with its history, the last one counts; the same again changes nothing. It is joined
        with the answer by the request's id, for `rt.watch(concept=...)` and for
        `aios.DataSource(kind="predictions", ...)`.

        Args:
            request_id: that of the answer; or many at once, `{request id: values}`.
            values: such as `{"approve": 1}`: labels by the names of outputs, corrections, business
                values; numbers, texts, true, false or null.
            endpoint: which answered; not needed where only one is deployed.

        Returns:
            How many said something new.

        Raises:
            UsageError: a value does not fit the contract, or no endpoint is named and there are
                several.
        """
        return send_feedback(self._transport, request_id, values, endpoint)

    def feedback_file(
        self, path: str | Path, *, endpoint: str, on_progress: Progress | None = None
    ) -> FeedbackReport:
        """Tell what turned out about many answers, from a file; a file that is sent again changes
        nothing.

        Args:
            path: `.csv`, `.jsonl` (or `.ndjson`) or `.parquet`, a row for each answer: its
                `request_id`, and values by name as for `rt.feedback`. In CSV what is spelled as a
                number is one; an empty cell says nothing.
            on_progress: called now and then with (share of the file, 0 to 1; rows; refused rows).

        Returns:
            How many rows were taken and refused; a row that cannot be kept is told by its line
            and does not hold up the others.

        Raises:
            UsageError: the file cannot be read, or has no column `request_id`.
            UnknownEndpoint: it is not deployed.
        """
        return send_file(self._transport, path, endpoint, on_progress)
