"""What machines cost, and what processes tell of what they use."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from aios.records.base import Record

Price = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Owner(NamedTuple):
    """For whom something was used. A new kind of work needs a name here and no more.

    `endpoint` has endpoint, model, version and arm; `training` its run; `flows` and `agents` have
    what the flow or the class is called as `model`, with its version, and neither for what their
    workers and hosts do besides. `control plane` is the kernel and its API. `overhead` is what a
    node did besides: Ray, HAProxy, the system, anybody else's processes. `idle` did nothing.
    """

    kind: str
    endpoint: str = ""
    model: str = ""
    version: int = 0
    arm: str = ""
    run: str = ""


@dataclass(frozen=True)
class Used:
    """What was used: core-seconds, GPU-seconds, how many calls were served, and what it cost."""

    core_s: float = 0.0
    gpu_s: float = 0.0
    calls: int = 0
    cost: float = 0.0

    def __add__(self, other: "Used") -> "Used":
        return Used(
            self.core_s + other.core_s,
            self.gpu_s + other.gpu_s,
            self.calls + other.calls,
            self.cost + other.cost,
        )


class Place(NamedTuple):
    """An hour (or a rolled-up day) of one type of node. `currency` is empty where it had no
    price."""

    start_s: float
    width_s: float
    node_type: str
    currency: str


@dataclass(frozen=True)
class Billed:
    """What nodes were there, whatever they did: node-seconds, what they had, what they cost."""

    node_s: float = 0.0
    core_s: float = 0.0
    gpu_s: float = 0.0
    cost: float = 0.0

    def __add__(self, other: "Billed") -> "Billed":
        return Billed(
            self.node_s + other.node_s,
            self.core_s + other.core_s,
            self.gpu_s + other.gpu_s,
            self.cost + other.cost,
        )


@dataclass(frozen=True)
class Kpis:
    """Business values that were fed back on answers: how many, their sum, and the sum of their
    squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> "Kpis":
        return Kpis(self.count + 1, self.total + value, self.squares + value * value)


class Prices(Record):
    """What a node costs by the hour, while it runs, whatever it does.

    `node_hours` is by type of node: Ray's label `instance-type`, else `ray.io/node-group`, else
    `default`. A type that is not listed costs `default_node_hour`; without one it has no price,
    and what ran there is told in core-hours. `gpu_share` is which part of the price of a node
    with GPUs is for these: 0.9 is near what clouds ask for an accelerator beside its cores.
    """

    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    default_node_hour: Price | None = None
    node_hours: dict[str, Price] = {}
    gpu_share: float = Field(default=0.9, ge=0, le=1)

    @model_validator(mode="after")
    def _in_a_currency(self) -> Self:
        if self.currency is None and (self.node_hours or self.default_node_hour is not None):
            raise ValueError('prices need a currency, such as currency = "EUR"')
        return self

    def hour(self, node_type: str) -> float | None:
        """What an hour of such a node costs; None if nobody said."""
        return self.node_hours.get(node_type, self.default_node_hour)


class NodeSeen(Record):
    """A node of the cluster that is alive. `cores` is what Ray gives out there, which may be
    less than the machine has."""

    id: str
    type: str = "default"
    cores: Amount
    gpus: Amount = 0.0


class ProcessUsage(Record):
    """What a process of aios has used since it began, and for whom.

    Cumulative, so that one that is lost costs nothing and one that comes twice counts once. `id`
    is of this process and no other. `app` is a challenger's Serve application; the kernel knows
    which arm it is. `calls` counts by `arm:version` what an endpoint's replica did for each arm,
    and by `name:version` the steps of flows and the messages of agents in this process.
    `gpu_s` is GPUs reserved times the time. `node_cores` and `node_busy_s` (CPU seconds of
    everything that ran there, since some time in the past) are of the node.
    """

    id: str = Field(min_length=1, max_length=100)
    node: str
    kind: Literal["endpoint", "training", "control plane", "agents", "flows"]
    endpoint: str = ""
    model: str = ""
    version: int = 0
    arm: str = ""
    run: str = ""
    app: str = ""
    cpu_s: Amount = 0.0
    gpu_s: Amount = 0.0
    calls: dict[str, Annotated[int, Field(ge=0)]] = {}
    node_cores: Amount = 0.0
    node_busy_s: Amount = 0.0
