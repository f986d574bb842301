"""All gates by name, and running those that a policy asks for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aios.errors import AiosError, NotEnoughEvidence, UsageError
from aios.governance.candidate import Candidate, Context
from aios.governance.gates import params
from aios.governance.gates.artifact import judge_artifact, judge_contract
from aios.governance.gates.calibration import judge_calibration
from aios.governance.gates.data_quality import judge_data_quality
from aios.governance.gates.documents import judge_card, judge_explanation
from aios.governance.gates.fairness import judge_fairness
from aios.governance.gates.latency import judge_latency
from aios.governance.gates.own import is_own, judge_own
from aios.governance.gates.quality import judge_quality
from aios.governance.gates.robustness import judge_robustness
from aios.governance.gates.verdicts import verdict
from aios.records import GateResult, Given

Judge = Callable[[Candidate, Context], GateResult]


@dataclass(frozen=True)
class GateKind:
    """A gate: what it may be given, and the function that judges.

    `judge` takes candidate, context and an instance of `params`. It may raise
    NotEnoughEvidence where it cannot judge, and another AiosError where the candidate is at
    fault; `run_gates` makes results of both.
    """

    params: type[Given]
    judge: Callable[[Candidate, Context, Any], GateResult]


GATES: dict[str, GateKind] = {
    "artifact": GateKind(params.ArtifactParams, judge_artifact),
    "calibration": GateKind(params.CalibrationParams, judge_calibration),
    "card": GateKind(params.CardParams, judge_card),
    "contract": GateKind(params.ContractParams, judge_contract),
    "data_quality": GateKind(params.DataQualityParams, judge_data_quality),
    "explanation": GateKind(params.ExplanationParams, judge_explanation),
    "fairness": GateKind(params.FairnessParams, judge_fairness),
    "latency": GateKind(params.LatencyParams, judge_latency),
    "quality": GateKind(params.QualityParams, judge_quality),
    "robustness": GateKind(params.RobustnessParams, judge_robustness),
}


def run_gates(
    candidate: Candidate, context: Context, wanted: Mapping[str, Mapping[str, Any]]
) -> tuple[GateResult, ...]:
    """The result of each wanted gate, in their order. A gate that raises has failed, with its
    reason, and the others go on.

    Args:
        candidate: what is judged.
        context: what it is measured against.
        wanted: the gates' names, each with its parameters; `module:function` for one's own.

    Raises:
        UsageError: a gate does not exist or takes no such parameter; nothing was run.
    """
    judges = [_judge(name, values) for name, values in wanted.items()]
    return tuple(
        _run(name, judge, candidate, context) for name, judge in zip(wanted, judges, strict=True)
    )


def _judge(name: str, values: Mapping[str, Any]) -> Judge:
    if is_own(name):
        return lambda candidate, context: judge_own(name, candidate, context, values)
    if name not in GATES:
        raise UsageError(
            f"no gate {name}; there are {', '.join(GATES)}, or your own module:function"
        )
    kind = GATES[name]
    given = kind.params(**values)
    return lambda candidate, context: kind.judge(candidate, context, given)


def _run(name: str, judge: Judge, candidate: Candidate, context: Context) -> GateResult:
    try:
        return judge(candidate, context)
    except NotEnoughEvidence as error:
        return verdict(name, "not_enough_data", error.message)
    except AiosError as error:
        return verdict(name, "failed", error.message, error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - one broken gate must not hide what the others find
        # The text of a foreign error may hold data; only its type is kept.
        reason = f"the gate {name} raised {type(error).__name__}, so that nothing was judged"
        return verdict(name, "failed", reason, error=type(error).__name__)
