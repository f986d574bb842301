"""What an agent has and says, as it is stored: JSON."""

from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from aios.agents.agent import AgentClass
from aios.errors import UsageError
from aios.store.canonical import canonical, plain

MOST_STATE = 4 * 2**20
"""Characters of an agent's state as JSON, which is written with every message."""


def as_json(value: Any, what: str) -> Any:
    """A value as it is stored.

    Raises:
        UsageError: it is not JSON.
    """
    try:
        found = to_jsonable_python(value, serialize_unknown=False, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise UsageError(f"{what} is not JSON: {str(error)[:200]}; use plain values") from None
    plain(found, what)
    return found


def plain_state(state: Any, made: AgentClass) -> dict[str, Any] | None:
    """A state as it is stored.

    Raises:
        UsageError: it is not JSON, or its class would not read it again.
    """
    if made.state is None:
        return None
    if not isinstance(state, made.state):
        raise UsageError(
            f"agent {made.name}: ctx.state is now a {type(state).__name__}; change its fields, or "
            f"set it to a {made.state.__name__}"
        )
    # Fields may have been set to what does not fit, which the dump only warns of.
    try:
        dumped = state.model_dump(mode="json", warnings=False)
    except (PydanticSerializationError, ValueError) as error:
        raise UsageError(f"the state is not JSON: {str(error)[:200]}; use plain values") from None
    found: dict[str, Any] = as_json(dumped, "the state")
    size = len(canonical(found))
    if size > MOST_STATE:
        raise UsageError(
            f"the state of an agent {made.name} is {size:,} characters as JSON, of at most "
            f"{MOST_STATE:,}: it is stored with every message. Keep what is large elsewhere"
        )
    made.read_state(found)
    return found


def plain_reply(reply: Any) -> Any:
    """A reply as it is stored."""
    return as_json(reply, "the reply")
