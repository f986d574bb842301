"""What a `torch.export` archive must pass before torch is given it.

`torch.export.load` is not safe on foreign bytes: it unpickles sample inputs, opaque constants
and weights marked so, evaluates symbolic shapes through sympy's parser (which is `eval`),
resolves an operator's name by attribute access from `torch`, and writes node names into
generated Python. `torch_conversion` writes archives that need none of this, and
`check_archive` takes nothing else: no pickled entry, operators of `torch.ops.aten` or plain
arithmetic only, names that are identifiers, shapes made of numbers, symbols and arithmetic.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import orjson

from aios.errors import ArtifactRejected
from aios.models.safety import MAX_FILE_BYTES, MAX_TENSOR_BYTES

_ENTRIES = re.compile(
    r"^[A-Za-z0-9_]+/(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id))$"
)
_TARGETS = re.compile(
    r"^(torch\.ops\.aten\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|pow|truediv)"
    r"|torch\.(sym_max|sym_min|sym_not|sym_ite|sym_sum))$"
)
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_.]{0,255}$")
_SYMBOL = re.compile(
    r"Symbol\('[A-Za-z]{1,8}_?\d{1,8}'(, (positive|integer|nonnegative)=(True|False))*\)"
)
_EXPRESSION = re.compile(r"[A-Za-z_]+|-?\d{1,19}|[(), ]")
_FUNCTIONS = frozenset(
    {"Integer", "Rational", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv"}
    | {"CeilDiv", "CleanDiv", "IntTrueDiv", "Eq", "Ne", "Le", "Lt", "Ge", "Gt"}
    | {"Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan"}
    | {"StrictGreaterThan", "And", "Or", "Not", "int_oo", "true", "false"}
)
_NAME_KEYS = frozenset(
    {"name", "as_name", "as_sym_name", "parameter_name", "buffer_name", "tensor_constant_name"}
    | {"fqn", "user_input_name", "class_fqn"}
)
_FORBIDDEN_KEYS = frozenset({"as_operator", "as_custom_obj", "as_graph", "custom_obj"})


def check_archive(content: bytes, what: str) -> None:
    """Refuse an archive that could run code or take all memory when torch loads it.

    Raises:
        ArtifactRejected: says which entry or which part of the graph is not allowed.
    """
    entries = _read_entries(content, what)
    _check_payloads(entries, what)
    graph = _parse(entries, "models/model.json", what)
    if graph.get("guards_code"):
        raise _rejected(what, "carries guards as source code")
    for key, value in _walk(graph):
        if key in _FORBIDDEN_KEYS and value is not None:
            raise _rejected(what, f"has an argument of the kind {key!r}")
        if key == "target" and not (isinstance(value, str) and _TARGETS.match(value)):
            raise _rejected(what, f"calls {_short(value)}, which is not an aten operator")
        if key in _NAME_KEYS and isinstance(value, str) and value and not _is_name(value):
            raise _rejected(what, f"uses {_short(value)} as a name")
        if key == "expr_str" and not _is_expression(value):
            raise _rejected(what, f"has the shape expression {_short(value)}")
        if key == "forward_arg_names" and not all(map(_is_name, value or [])):
            raise _rejected(what, f"names its arguments {_short(value)}")


def _rejected(what: str, reason: str) -> ArtifactRejected:
    return ArtifactRejected(f"{what} {reason}: not an archive that aios wrote", file=what)


def _short(value: Any) -> str:
    return repr(value)[:80]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _IDENTIFIER.match(value) is not None and "__" not in value


def _is_expression(value: Any) -> bool:
    """Whether it is made of sympy's own constructors, symbols and whole numbers only.

    Powers are left out: a short one can be a number that no memory holds.
    """
    if not isinstance(value, str) or len(value) > 2048:
        return False
    rest = _SYMBOL.sub("0", value)
    words = _EXPRESSION.findall(rest)
    known = all(word in _FUNCTIONS for word in words if word[0].isalpha() or word[0] == "_")
    return known and "".join(words) == rest


def _read_entries(content: bytes, what: str) -> dict[str, bytes]:
    """Every entry by its name below the archive's root."""
    if len(content) > MAX_FILE_BYTES:
        raise _rejected(what, f"has {len(content)} bytes; at most {MAX_FILE_BYTES} are taken")
    if not content.startswith(b"PK\x03\x04"):
        raise _rejected(what, "does not begin as a zip archive")
    entries: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.comment:
                raise _rejected(what, "carries a zip comment")
            for entry in archive.infolist():
                _check_entry(entry, what)
                name = entry.filename.partition("/")[2]
                if name in entries:
                    raise _rejected(what, f"holds {_short(name)} twice")
                entries[name] = archive.read(entry)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise _rejected(what, "is damaged or cut short") from error
    return entries


def _check_entry(entry: zipfile.ZipInfo, what: str) -> None:
    if not _ENTRIES.match(entry.filename):
        raise _rejected(what, f"holds the entry {_short(entry.filename)}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise _rejected(what, f"holds the compressed entry {_short(entry.filename)}")
    if entry.external_attr >> 16 & 0o170000 == 0o120000:
        raise _rejected(what, f"holds the link {_short(entry.filename)}")


def _check_payloads(entries: dict[str, bytes], what: str) -> None:
    if entries.get("data/sample_inputs/model.pt") != b"":
        raise _rejected(what, "holds pickled sample inputs")
    total_elements = 0
    for kind in ("weights", "constants"):
        config = _parse(entries, f"data/{kind}/model_{kind}_config.json", what).get("config")
        for payload in (config or {}).values():
            if payload.get("use_pickle") is not False:
                raise _rejected(what, f"marks {_short(payload.get('path_name'))} as pickled")
            if f"data/{kind}/{payload.get('path_name')}" not in entries:
                raise _rejected(what, f"lacks {_short(payload.get('path_name'))}")
            sizes = (payload.get("tensor_meta") or {}).get("sizes", [])
            total_elements += math.prod(int(size.get("as_int", -1)) for size in sizes)
    if total_elements > MAX_TENSOR_BYTES:
        raise _rejected(what, f"declares {total_elements} elements")


def _parse(entries: dict[str, bytes], name: str, what: str) -> dict[str, Any]:
    try:
        parsed = orjson.loads(entries.get(name, b""))
    except orjson.JSONDecodeError as error:
        raise _rejected(what, f"lacks a readable {name}") from error
    if not isinstance(parsed, dict):
        raise _rejected(what, f"has a {name} that is not an object")
    return parsed


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested objects. The graph's depth is bounded by the JSON parser."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from current.items()
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
