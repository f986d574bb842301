"""The typed schema of a model's inputs and outputs."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from aios.contracts import infer
from aios.contracts.compatibility import differences, exposed
from aios.contracts.documents import fields_from_json
from aios.contracts.fields import Field, Private, private_fault, sound_text
from aios.errors import UsageError
from aios.presentation import Rows, Shown

if TYPE_CHECKING:
    import pandas
    import pydantic

RESERVED_NAMES = frozenset({"records", "input-0", "aios-outlier", "aios-outlier-beyond"})
"""`records` is the envelope of a JSON body, `input-0` a matrix of all inputs in protocol v2, the
others tensors that are sent beside the outputs."""

_NAME_MAX_LENGTH = 128


class Contract(Shown):
    """What a model takes and gives, checked at the edge of every endpoint.

    The order of `inputs` is the order of a model's matrix columns. `key` names the field
    that identifies a record (a text or an integer, optional in requests): it decides which
    arm answers, finds the cached answer, and never reaches the model.

    Equal when type, limits, order and version are equal; immutable.

    Args:
        inputs: name -> field, in the order the model wants them.
        outputs: name -> field.
        key: the name of the key field, which is neither input nor output.
        version: grows when a model's contract changes on purpose.
        private_key: what the prediction log keeps of keys, whether they come in a record or in
            the header `x-aios-key`: "hash", "omit" (the request's id stands there), or as it is.

    Raises:
        UsageError: a name or a field's definition is wrong; the message names the field.
    """

    __slots__ = ("digest", "inputs", "key", "outputs", "private_key", "version")

    digest: str
    inputs: Mapping[str, Field]
    outputs: Mapping[str, Field]
    key: str | None
    version: int
    private_key: Private | None

    def __init__(
        self,
        inputs: Mapping[str, Field],
        outputs: Mapping[str, Field],
        key: str | None = None,
        version: int = 1,
        private_key: Private | None = None,
    ) -> None:
        _check_fields("input", inputs)
        _check_fields("output", outputs)
        _check_key(key, inputs, outputs)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise UsageError(f"the version of a contract is a number from 1 on, not {version!r}")
        fault = private_fault(private_key)
        if fault is not None:
            raise UsageError(f"the key: {fault}")
        store = object.__setattr__
        store(self, "inputs", _FrozenFields(inputs))
        store(self, "outputs", _FrozenFields(outputs))
        store(self, "key", key)
        store(self, "version", version)
        store(self, "private_key", private_key)
        canonical = orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)
        store(self, "digest", hashlib.sha256(canonical).hexdigest())

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Contract is immutable; make a new one")

    def __reduce__(self) -> tuple[Any, ...]:
        return Contract.from_json, (self.to_json(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contract) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back; fields are lists, to keep their order."""
        private = {} if self.private_key is None else {"private_key": self.private_key}
        return {
            "version": self.version,
            "key": self.key,
            **private,
            "inputs": [{"name": n, **f.to_json()} for n, f in self.inputs.items()],
            "outputs": [{"name": n, **f.to_json()} for n, f in self.outputs.items()],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any] | str | bytes) -> "Contract":
        """The contract that `to_json` described, given as an object or as its text.

        Raises:
            UsageError: it is not such a description; the message names the part.
        """
        if isinstance(document, str | bytes):
            try:
                document = orjson.loads(document)
            except orjson.JSONDecodeError as error:
                raise UsageError(f"a contract must be JSON: {error}") from None
        if not isinstance(document, dict) or document.keys() - {
            "version",
            "key",
            "private_key",
            "inputs",
            "outputs",
        }:
            raise UsageError(
                "a contract is a JSON object of version, key, private_key, inputs and outputs"
            )
        return cls(
            inputs=fields_from_json("inputs", document),
            outputs=fields_from_json("outputs", document),
            key=document.get("key"),
            version=document.get("version", 1),
            private_key=document.get("private_key"),
        )

    @classmethod
    def infer(
        cls,
        frame: "pandas.DataFrame",
        outputs: Mapping[str, Field] | Sequence[str],
        key: str | None = None,
        ranges: bool = False,
    ) -> "Contract":
        """A contract for the columns of a pandas DataFrame.

        Types and observed nulls are taken over; texts and objects with few distinct values
        become categories. Observed ranges become limits only with `ranges=True`, because
        tomorrow's data is wider than today's.

        Args:
            frame: a sample; all columns but outputs and key become inputs.
            outputs: fields by name, or names of columns of the frame.
            key: the column that identifies a record.
            ranges: whether the smallest and largest value become the limits.

        Raises:
            UsageError: a named column does not exist, or the frame is empty.
            Unsupported: a column's type has no field; the message names the column.
        """
        return cls(*infer.from_frame(frame, outputs, key, ranges), key=key)

    @classmethod
    def from_pydantic(
        cls,
        model: "type[pydantic.BaseModel]",
        outputs: "type[pydantic.BaseModel] | Mapping[str, Field]",
        key: str | None = None,
    ) -> "Contract":
        """A contract for the fields of a pydantic model.

        Raises:
            Unsupported: the model holds something that a contract cannot check as well,
                such as a validator function, a pattern or a default.
        """
        made = infer.from_pydantic(model, outputs, key)
        return cls(*made, key=key)

    @classmethod
    def from_onnx(cls, path: str | Path, key: str | None = None) -> "Contract":
        """A contract of tensors for the inputs and outputs of an ONNX graph.

        Raises:
            UsageError: the file cannot be read as ONNX.
            Unsupported: an input has no dynamic batch dimension, or no fixed shape per row.
        """
        return cls(*infer.from_onnx(Path(path)), key=key)

    def check_compatible(self, newer: "Contract") -> list[str]:
        """Why `newer` cannot take this contract's place; empty if it can.

        It can if it accepts every request that this one accepts, and gives only what this
        one gives: inputs may widen or become optional, outputs may narrow or be added; and if it
        keeps private what this one does.
        Integers beyond 2^53, where nullable
        Integers and Numbers end or lose digits, are left out of the comparison.
        """
        reasons = differences(
            self.inputs, self.outputs, self.key, newer.inputs, newer.outputs, newer.key
        )
        return [*reasons, *exposed(self.private_names(), newer.private_names())]

    def private_names(self) -> dict[str, Private | None]:
        """What is said of the privacy of each field, and of the key, in words for a message."""
        named: dict[str, Private | None] = {
            f'input "{n}"': f.private for n, f in self.inputs.items()
        }
        named |= {f'output "{n}"': f.private for n, f in self.outputs.items()}
        return named | {"the key": self.private_key}

    def __repr__(self) -> str:
        shown = [f"inputs={dict(self.inputs)!r}", f"outputs={dict(self.outputs)!r}"]
        if self.key is not None:
            shown.append(f"key={self.key!r}")
        if self.version != 1:
            shown.append(f"version={self.version}")
        if self.private_key is not None:
            shown.append(f"private_key={self.private_key!r}")
        return f"Contract({', '.join(shown)})"

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        lines = [("input", n, f.datatype, _told(f)) for n, f in self.inputs.items()]
        if self.key is not None:
            private = _private_text(self.private_key)
            lines.insert(0, ("key", self.key, "BYTES", f"a text or an integer, optional{private}"))
        lines += [("output", n, f.datatype, _told(f)) for n, f in self.outputs.items()]
        title = f"contract version {self.version} · {self.digest[:12]}"
        return title, ("role", "name", "type", "allowed"), lines


def _told(field: Field) -> str:
    return field.describe() + _private_text(field.private)


def _private_text(private: Private | None) -> str:
    return "" if private is None else f" (private: {private})"


def compatibility(old: Contract, new: Contract) -> list[str]:
    """Why `new` cannot take the place of `old`; see `Contract.check_compatible`."""
    return old.check_compatible(new)


class _FrozenFields(dict[str, Field]):
    """A dict that refuses to change; unlike a mapping proxy it pickles and prints as one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _FrozenFields, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the fields of a Contract do not change; make a new Contract")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse


def _check_fields(role: str, fields: Mapping[str, Field]) -> None:
    if not isinstance(fields, Mapping):
        raise UsageError(f"{role}s must be a dict of name to field, not {fields!r}")
    if not fields:
        raise UsageError(f"a contract needs at least one {role}")
    for name, field in fields.items():
        _check_name(role, name)
        if not isinstance(field, Field):
            raise UsageError(
                f'{role} "{name}": expected a field such as Number(min=0), not {field!r}'
            )
        fault = field.fault()
        if fault is not None:
            raise UsageError(f'{role} "{name}": {fault}')


def _check_name(role: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise UsageError(f"{role} {name!r}: a name is a text of at least one character")
    if len(name) > _NAME_MAX_LENGTH:
        raise UsageError(f'{role} "{name[:40]}…": a name has at most {_NAME_MAX_LENGTH} characters')
    if not name.isprintable() or name != name.strip() or not sound_text(name):
        raise UsageError(f"{role} {name!r}: a name is printable, with no space at its start or end")
    if name in RESERVED_NAMES:
        raise UsageError(f'{role} "{name}": this name is reserved; rename the field')


def _check_key(key: str | None, inputs: Mapping[str, Field], outputs: Mapping[str, Field]) -> None:
    if key is None:
        return
    _check_name("key", key)
    if key in inputs:
        raise UsageError(
            f'key "{key}" is also an input; the key identifies a record and never reaches the '
            "model: rename one, or leave it out of the inputs"
        )
    if key in outputs:
        raise UsageError(f'key "{key}" is also an output; rename one')
