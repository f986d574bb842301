"""The types of the tables' columns: canonical JSON, and text from anywhere."""

import json
from typing import Any

from sqlalchemy import Dialect, Text, TypeDecorator

from aios.errors import StoreCorrupt
from aios.store.canonical import canonical


class JsonText(TypeDecorator[Any]):
    """A column of canonical JSON. Text and not the databases' own JSON types, which would
    respell it and, in PostgreSQL, refuse `\\u0000` in strings."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        try:
            return json.loads(value)
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreCorrupt(
                f"the store holds something that is not JSON ({error}); restore a backup"
            ) from None


class SafeText(TypeDecorator[str]):
    """A column of text from anywhere. NUL, which PostgreSQL cannot hold, and lone surrogates,
    which no UTF-8 can, are written as escapes: a rollback must not fail over the spelling
    of its reason. The same happens to what is looked up, so a name is found as it was given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
