"""The `aios` command: one line per mistake, never a traceback.

Called by users in a shell. A file per subject, each with a `typer.Typer` of its own that `program`
puts together; what they share is in `terminal`. A command is a thin face of a method of the
runtime: it may know `aios.runtime` and what works without a runtime (settings, the proof of a
copied audit log), and no way of its own to a decision.
"""

from aios.cli.program import app, main

__all__ = ["app", "main"]
