"""An intervention, from the reservation of a technician to the machine that runs again.

One for each machine and episode, by its id. Where nobody approves the stop, in time and in so many
words, the flow fails and with that takes the reservation back.
"""

from pydantic import BaseModel

import aios
from apps.predictive_maintenance import roster

OPERATIONS = "operations"
"""Who may approve a stop."""
COMMANDS = "commands"
READINGS = "readings"


class Site(BaseModel):
    """Where the machines are: their broker and its topics, the technicians' roster, how long a
    person may think and how long a repair takes, in seconds."""

    servers: str
    readings: str = READINGS
    commands: str = COMMANDS
    roster: str
    answer_s: float
    repair_s: float


class Case(BaseModel):
    """What an intervention is about."""

    machine: str
    id: str
    why: str
    site: Site


class Decision(BaseModel):
    """A person's answer: whether the machine is to be stopped, and why."""

    stop: bool
    reason: str


def intervention_id(machine: str, episode: int) -> str:
    """The id of the flow: the same for one machine and episode, whoever asks for it."""
    return f"{machine}-{episode}"


def release(reservation: dict, case: dict) -> None:
    """Take the reservation back."""
    roster.release(case["site"]["roster"], reservation["key"])


@aios.step(retries=10, backoff=0.5, undo=release)
def reserve(case: dict) -> dict:
    """Reserve a technician, once for this intervention; tried again while nobody is free."""
    key = aios.operation_id()
    technician = roster.reserve(case["site"]["roster"], key, case["id"], case["machine"])
    return {"technician": technician, "key": key}


def start_again(stopped: str, case: dict) -> None:
    """Let the machine run, unrepaired."""
    _command(case, "go_on", repaired=False)


@aios.step(retries=3, undo=start_again)
def stop(case: dict) -> str:
    """Tell the machine to stop; what the command is known by."""
    return _command(case, "stop")


@aios.step(retries=3)
def repair(case: dict, reservation: dict) -> None:
    """The technician was there, and the reservation is used."""
    roster.use(case["site"]["roster"], reservation["key"])


@aios.step(retries=3)
def go_on(case: dict) -> str:
    """Tell the machine to run again."""
    return _command(case, "go_on", repaired=True)


@aios.step(retries=3)
def tell(case: dict, repaired: bool, why: str) -> None:
    """Tell the machine's agent how it ended, behind the readings that came before."""
    data = {"machine": case["machine"], "intervention": case["id"]}
    to = aios.Kafka(case["site"]["servers"], topic=case["site"]["readings"])
    aios.emit(
        "intervention.ended",
        {**data, "repaired": repaired, "why": why},
        to=to,
        id=aios.operation_id(),
        key=case["machine"],
    )


@aios.flow
async def intervene(case: dict) -> dict:
    """Stop a machine for repair, if a person says so."""
    site = case["site"]
    reservation = await reserve(case)
    answer = await aios.ask(
        f"{case['machine']}: {case['why']}; stop it for repair by {reservation['technician']}?",
        form=Decision,
        to=OPERATIONS,
        timeout_s=site["answer_s"],
        otherwise=None,
    )
    if answer is None or not answer.stop:
        why = "nobody answered in time, which is no yes" if answer is None else answer.reason
        await tell(case, False, why)
        raise aios.NotApproved(f"{case['machine']} is not stopped: {why}")
    await stop(case)
    await aios.sleep(site["repair_s"])
    await repair(case, reservation)
    await go_on(case)
    await tell(case, True, f"repaired by {reservation['technician']}")
    return {"technician": reservation["technician"], "reason": answer.reason}


@aios.flow
def rehearse() -> str:
    """Does nothing: the first flow starts the workers, and machines do not wait for that."""
    return "ready"


def _command(case: dict, do: str, **more: object) -> str:
    """Send a command to a machine, once under this step's key."""
    key = aios.operation_id()
    to = aios.Kafka(case["site"]["servers"], topic=case["site"]["commands"])
    data = {"machine": case["machine"], "intervention": case["id"], "do": do, **more}
    return aios.emit(f"machine.{do}", data, to=to, id=key, key=case["machine"])
