"""What every record is: frozen, and refusing what it does not know."""

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aios.errors import UsageError

NAME_PATTERN = r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$"
"""Names of models and endpoints: they become URL paths, folders and Serve applications,
where `--` separates the endpoint from the version."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Given(Record):
    """A record that users write themselves: what is wrong with it is told in one line.

    `repeats_input` is False where what was given may be a secret that does not belong there.
    """

    repeats_input: ClassVar[bool] = True

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "its values"
            told = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                known = list(type(self).model_fields)
                [near] = get_close_matches(where, known, n=1) or [""]
                told = f"is no argument; {f'did you mean {near}?' if near else f'see {known}'}"
            got = f" (got {fault['input']!r:.80})" if self.repeats_input else ""
            raise UsageError(f"{type(self).__name__}: {where}: {told}{got}", field=where) from None
