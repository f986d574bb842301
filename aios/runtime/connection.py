"""What a runtime's home says about how to reach it: the address, and the API key.

`api.key` is made once and stays, so that `aios down` and `up` lock nobody out;
`connection.json` is there while the runtime can be reached. Both have mode 0600 from their
first byte on.
"""

from pathlib import Path

from pydantic import ValidationError

from aios.errors import UsageError
from aios.kernel.note import write_private
from aios.records import Record
from aios.security.keys import key_id, new_key

CONNECTION = "connection.json"
KEY = "api.key"


class Connection(Record):
    """How to reach a runtime. `ray_address` is that of a Ray which aios did not start."""

    address: str
    key: str
    ray_address: str | None = None


def noted(home: Path) -> Connection | None:
    """The connection noted at `home`, or None.

    Raises:
        UsageError: what is noted cannot be read.
    """
    path = home / CONNECTION
    try:
        return Connection.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        # Not the error's own text, which shows the input, and the input has the key in it.
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise UsageError(f"{path} cannot be read: {reason}. Start again with `aios up`.") from None


def note(home: Path, connection: Connection) -> None:
    """Note it, whole or not at all."""
    write_private(home / CONNECTION, connection.model_dump_json())


def forget(home: Path) -> None:
    """Remove the note; the key stays."""
    (home / CONNECTION).unlink(missing_ok=True)


def own_key(home: Path) -> str:
    """The API key of the runtime at `home`; made at the first call.

    Raises:
        UsageError: the file is no key.
    """
    path = home / KEY
    try:
        key = path.read_text().strip()
        key_id(key)
        return key
    except FileNotFoundError:
        key = new_key("admin")[0]
        write_private(path, key)
        return key
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(
            f"{path} holds no API key ({type(error).__name__}); remove it and a new one is made"
        ) from None
