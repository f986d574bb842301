"""A definition as text: taken where it was written, made again where it runs.

What runs is the text that is stored, so that a version can be made again later. From a module
the whole file travels. From a notebook or the running script only the class or function and the
definitions that it needs, as running the rest again would connect, plot or train again.
"""

import ast
import asyncio
import hashlib
import inspect
import linecache
import os
import symtable
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from aios.errors import ArtifactRejected, PermanentError, UsageError, describe
from aios.records import CodeSource

_PURE_CALLS = {"bool", "dict", "float", "frozenset", "int", "len", "list", "max", "min", "range"}
_PURE_CALLS |= {"set", "slice", "sorted", "str", "sum", "tuple"}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


CODE_MODULE = "aios_code_"
"""How the names of the modules begin in which sent texts are run."""
_SIGNALLING = ("aios", "dbos")
"""Packages whose exceptions that are no `Exception` say that a flow is to be left as it is."""
_SENT = "__aios_sent__"
"""Where such a module holds what was sent."""


def code_of(found: Any, kind: str) -> CodeSource:
    """The text that defines a class or function, and where its neighbours are imported from.

    Args:
        found: a class or a function at the top of a module, script or notebook.
        kind: what messages call it: "recipe", "flow", "agent".

    Raises:
        UsageError: it has no source, stands inside a function or class, or uses something of
            the notebook that cannot be made again.
    """
    if found.__qualname__ != found.__name__:
        raise UsageError(
            f"{found.__qualname__} is defined inside a function or class; "
            "put it at the top of a file or cell"
        )
    module, folder = found.__module__, str(Path.cwd())
    sent: CodeSource | None = getattr(sys.modules.get(module), _SENT, None)
    if sent is not None:
        # Its neighbours travel with it: an agent begins a flow of its own file.
        begin = sent.path.partition(":")[0]
        return sent.model_copy(update={"path": f"{begin}:{found.__name__}"})
    if module == "__main__":
        text = _needed(found.__name__, _not_earlier(found, list(_written_in_main(found))), kind)
        script = getattr(sys.modules["__main__"], "__file__", None)
        folder = str(Path(script).resolve().parent) if script else folder
    else:
        path = _file_of(found)
        text = path.read_text("utf-8")
        if _there(found) is not found:
            _not_earlier(found, ast.parse(text).body)
        # The folder from which `module` is imported lies above one folder for each dot in it.
        folder = str(path.parents[module.count(".")])
    return CodeSource(
        path=f"{module}:{found.__name__}",
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        folder=folder,
    )


def load_code(source: CodeSource, kind: str) -> Any:
    """What a text defines under its name, made in a fresh module; None where it defines nothing
    of that name.

    Raises:
        ArtifactRejected: the text is not what its digest says.
        UsageError: the text cannot be run here; names the line, and what to do.
    """
    if hashlib.sha256(source.text.encode()).hexdigest() != source.sha256:
        raise ArtifactRejected(f"the text of the {kind} {source.path} is not what its sha256 says")
    name, _, wanted = source.path.partition(":")
    if source.folder and source.folder not in sys.path:
        sys.path.insert(0, source.folder)
    module = ModuleType(f"{CODE_MODULE}{source.sha256[:16]}")
    module.__file__ = file_of(source)
    setattr(module, _SENT, source)
    if "." in name:
        module.__package__ = name.rpartition(".")[0]
    lines = source.text.splitlines(keepends=True)
    # Tracebacks and inspect find the lines here: there is no such file on this machine.
    linecache.cache[module.__file__] = (len(source.text), None, lines, module.__file__)
    sys.modules[module.__name__] = module
    try:
        with exits_told():
            exec(compile(source.text, module.__file__, "exec"), module.__dict__)
    except Exception as error:
        sys.modules.pop(module.__name__)
        raise UsageError(_told(source, error, kind)) from error
    return getattr(module, wanted, None)


@contextmanager
def exits_told() -> Iterator[None]:
    """Around a call of sent code: it may end itself, never what runs it.

    Raises:
        PermanentError: it raised what is no `Exception`: `sys.exit()` and KeyboardInterrupt, for
            which asyncio would stop its loop; CancelledError and GeneratorExit without having been
            cancelled or closed; and all others but our own signals, for which it would pass.
    """
    try:
        yield
    except Exception:
        raise
    except SystemExit as error:
        raise PermanentError(f"it called sys.exit({error.code!r:.200})") from error
    except BaseException as error:
        signal = _signal(error)
        if signal is not None:
            raise signal from None
        asyncs = isinstance(error, asyncio.CancelledError)
        raise PermanentError(f"it raised {'asyncio.' * asyncs}{describe(error)[:300]}") from error


def to_its_end(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A call of sent code in a thread; what `sys.exit()` raises must not come to an event loop, and
    a StopIteration cannot: who waits for it would wait for ever."""
    with exits_told():
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("it raised StopIteration, as next() does at an end") from error


def _signal(error: BaseException) -> BaseException | None:
    """What ends sent code from outside: the task was cancelled, its coroutine closed (no running
    task's is), or its flow is to be left, also where a task group wraps that."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _signal(one))), None)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return error if _is_ended_by_us(error) else None
    package = type(error).__module__.partition(".")[0]
    return error if package in _SIGNALLING and not isinstance(error, Exception) else None


def _is_ended_by_us(error: BaseException) -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return False
    if isinstance(error, GeneratorExit):
        return task is None
    return task is not None and task.cancelling() > 0


def file_of(source: CodeSource) -> str:
    """The name under which tracebacks know a sent text."""
    return f"<code {source.path} {source.sha256[:8]}>"


def _is_of(name: str, source: CodeSource) -> bool:
    """Whether tracebacks know this text so; one text that holds several is loaded once, under the
    path of that which was asked for first."""
    return name.startswith("<code ") and name.endswith(f" {source.sha256[:8]}>")


def own_line(error: BaseException, source: CodeSource) -> str:
    """Where in a sent text an error arose: `line 12, in fit: model.fit(frame)`; "" if nowhere."""
    if isinstance(error, SyntaxError) and _is_of(error.filename or "", source):
        return f"line {error.lineno}: {(error.text or '').strip()}"
    frames = _frames(error, source)
    if not frames and error.__cause__ is not None:
        frames = _frames(error.__cause__, source)  # what `exits_told` made of it
    if not frames:
        return ""
    inside = "" if frames[-1].name == "<module>" else f", in {frames[-1].name}"
    return f"line {frames[-1].lineno}{inside}: {frames[-1].line}"


def _frames(error: BaseException, source: CodeSource) -> list[traceback.FrameSummary]:
    return [f for f in traceback.extract_tb(error.__traceback__) if _is_of(f.filename, source)]


def _told(source: CodeSource, error: Exception, kind: str) -> str:
    advice = "correct it and send it again"
    if isinstance(error, ImportError):
        advice = f"install it where it runs, or put it beside the {kind} in {source.folder}"
    elif isinstance(error, NameError):
        advice = f"import or define it in the {kind}'s own file or cells"
    where = f"the {kind} {source.path} cannot be loaded, {own_line(error, source)}"
    return f"{where}: {describe(error)}; {advice}"


def _file_of(found: Any) -> Path:
    try:
        path = inspect.getsourcefile(inspect.unwrap(found))
    except TypeError:
        path = None
    if path is None or not os.path.isfile(path):
        raise UsageError(f"the source of {found.__name__} cannot be found; put it in a file")
    return Path(path).resolve()


def _written_in_main(found: Any) -> Iterator[ast.stmt]:
    """Every statement of the notebook's cells, or of the script, in the order written."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if "In" in vars(main) and hasattr(main, "get_ipython"):
        shell = main.get_ipython()
        texts = [shell.transform_cell(cell) for cell in vars(main)["In"]]
    elif script and os.path.isfile(script):
        texts = [Path(script).read_text("utf-8")]
    else:
        raise UsageError(f"the source of {found.__name__} cannot be found; put it in a file")
    for text in texts:
        try:
            yield from ast.parse(text).body
        except SyntaxError:
            continue  # a cell that never ran


def _not_earlier(found: Any, statements: list[ast.stmt]) -> list[ast.stmt]:
    """The statements, if what they define under this name is this and nothing else.

    Raises:
        UsageError: it is defined more than once, and another one than this may be sent.
    """
    there = _there(found)
    other = there is not found and isinstance(there, type(found))
    places = [one for one in statements if found.__name__ in _bound(one)]
    # What stands under an `if` or a `with` is not looked for where texts are taken from.
    below = found.__module__ == "__main__" and any(
        isinstance(part, _SCOPES) and part.name == found.__name__
        for one in statements
        if not isinstance(one, _SCOPES)
        for part in ast.walk(one)
    )
    if (other and len(places) > 1) or (below and places):
        raise UsageError(
            f"{found.__name__} is defined more than once in {found.__module__}, and another of "
            "them than this may run: give each a name of its own"
        )
    return statements


def _there(found: Any) -> Any:
    """What its module has under its name; None if that is not there, or no module that is known."""
    return getattr(sys.modules.get(found.__module__), found.__name__, None)


def _needed(name: str, statements: list[ast.stmt], kind: str) -> str:
    """The definition of `name` and whatever it needs, in the order written.

    Of two definitions of a name the later counts.
    """
    defined = {
        bound: index for index, one in enumerate(statements) for bound in _bound(one) if bound
    }
    if name not in defined:
        raise UsageError(f"the source of {name} cannot be found; put it in a file")
    kept, open_names = set(), [name]
    while open_names:
        index = defined.get(open_names.pop())
        if index is None or index in kept:
            continue
        kept.add(index)
        fault = _impure(statements[index])
        if fault is not None:
            bound = ", ".join(sorted(_bound(statements[index])))
            raise UsageError(
                f"{name} uses {bound}, which is made by `{fault[:80]}`: that does not travel. Make "
                f"it inside {'fit' if kind == 'recipe' else 'the function that uses it'}, or put "
                f"the {kind} in a file"
            )
        open_names += _globals_used(ast.unparse(statements[index]))
    future = {
        index
        for index, one in enumerate(statements)
        if isinstance(one, ast.ImportFrom) and one.module == "__future__"
    }
    order = [*sorted(future), *sorted(kept - future)]
    return "\n\n".join(ast.unparse(statements[index]) for index in order) + "\n"


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).partition(".")[0] for a in statement.names}
    if isinstance(statement, _SCOPES):
        return {statement.name}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {
        bound
        for node in ast.walk(statement)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for bound in _bound(node)
    }


def _impure(statement: ast.stmt) -> str | None:
    """What of a statement does more than define; None if nothing."""
    if isinstance(statement, (*_SCOPES, ast.Import, ast.ImportFrom)):
        return None
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        calls = [n for n in ast.walk(statement) if isinstance(n, ast.Call | ast.Await)]
        pure = all(
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in _PURE_CALLS
            for call in calls
        )
        return None if pure else ast.unparse(statement)
    if isinstance(statement, ast.Try | ast.If):
        parts = [*statement.body, *statement.orelse]
        if isinstance(statement, ast.Try):
            parts += [part for handler in statement.handlers for part in handler.body]
        faults = (_impure(part) for part in parts if not isinstance(part, ast.Pass))
        return next((fault for fault in faults if fault is not None), None)
    return ast.unparse(statement)


def _globals_used(text: str) -> list[str]:
    """The names that a definition takes from around it."""
    found: list[str] = []
    scopes: list[Any] = [symtable.symtable(text, "<code>", "exec")]
    while scopes:
        scope = scopes.pop()
        top = scope.get_type() == "module"
        found += [
            symbol.get_name()
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and (top or symbol.is_global())
        ]
        scopes += scope.get_children()
    return found
