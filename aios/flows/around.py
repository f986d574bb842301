"""What a running flow needs of its worker."""

from collections import Counter
from typing import Any, Protocol

from aios.flows.leases import Lease
from aios.flows.outcomes import Outcome, Outcomes
from aios.flows.writing import Flow, Step
from aios.records import CodeSource


class Elsewhere(Protocol):
    """Runs a step in another process; a Ray task in production."""

    async def __call__(
        self, ref: str, source: CodeSource, step: Step, call: dict[str, Any], outcomes: Outcomes
    ) -> Outcome: ...


class Parent(Protocol):
    """The flow that begins a child."""

    flow_id: str
    ref: str
    by: str
    version: int
    module_name: str


class Around(Protocol):
    """What a running flow needs of its worker."""

    lease: Lease
    outcomes: Outcomes
    elsewhere: Elsewhere | None
    steps: Counter[str]
    """How many were carried out here, by `name:version` of the flow."""

    def start_child(self, flow_id: str, parent: "Parent", flow: Flow, call: Any) -> None: ...

    async def ended(self, flow_id: str) -> Outcome: ...

    async def put_question(self, question: dict[str, Any]) -> dict[str, Any]: ...

    async def answered(self, question_id: str) -> dict[str, Any]: ...

    async def refuse_answer(self, question_id: str, problem: str) -> None: ...

    async def steps_stored(self, flow_id: str) -> int: ...

    async def tell_late(self, flow_id: str, number: int, name: str, did: Outcome) -> None:
        """What a step did that ended after its flow was cancelled, which stores no more steps."""
        ...
