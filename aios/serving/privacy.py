"""What may be kept of an endpoint's requests and answers: one rule for the log and the windows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aios.contracts import Contract
from aios.contracts.fields import Field, Private
from aios.records import TrafficPlan
from aios.security.keyring import Keyring


class Rules(NamedTuple):
    """The private fields of one version's contract, and its key."""

    inputs: Mapping[str, Private]
    outputs: Mapping[str, Private]
    key: Private | None


OPEN = Rules({}, {}, None)


class Privacy:
    """Rules by version, and the keys that they are kept with.

    A version is immutable, so a rule once learnt stays. Without a keyring there is nothing to
    hash with, and what should be hashed is left out.
    """

    def __init__(self, keyring: Keyring | None = None) -> None:
        self.keyring = keyring
        self._rules: dict[int, Rules] = {}

    def learn(self, plan: TrafficPlan) -> None:
        """Know the rules of every version of a plan, before it answers."""
        challenger = () if plan.challenger is None else (plan.challenger.served,)
        for served in (plan.stable, *challenger):
            if served.version not in self._rules:
                contract = Contract.from_json(served.contract)
                self._rules[served.version] = Rules(
                    _private(contract.inputs), _private(contract.outputs), contract.private_key
                )

    def rules(self, version: int) -> Rules:
        """The rules of a version."""
        return self._rules.get(version, OPEN)

    def kept(self, rule: Private, values: Sequence[Any]) -> list[str | None] | None:
        """What may be kept of a private field's values: hashes, or None for nothing at all."""
        if rule == "omit" or self.keyring is None:
            return None
        return self.keyring.hashed_all(values)


def _private(fields: Mapping[str, Field]) -> dict[str, Private]:
    return {name: field.private for name, field in fields.items() if field.private is not None}
