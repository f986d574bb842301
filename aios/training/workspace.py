"""The folder of one training run: what its stages leave there for each other and for people."""

import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios.errors import StoreUnavailable, UsageError
from aios.records import Trial

TRIALS = "trials.jsonl"
_ADDING = threading.Lock()


@dataclass(frozen=True)
class Workspace:
    """Where one run works: its folder, and the stores beside it. Picklable, holds no data.

    Attributes:
        url: the run's folder, as a path or an fsspec URL that every node reaches.
        artifacts_url: of the artifact store.
        cache: a local folder for what is fetched from a remote artifact store.
        log_url: of the prediction log, which retraining may read.
    """

    url: str
    artifacts_url: str
    cache: str
    log_url: str = ""

    @property
    def run(self) -> str:
        """The run's id, by which its folder is named."""
        return self.url.rstrip("/").rpartition("/")[2]

    def path(self, name: str) -> str:
        """The address of something in the folder."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none.

        Raises:
            StoreUnavailable: the folder cannot be reached.
        """
        files, root = self._files()
        try:
            return bytes(files.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None
        except Exception as error:
            # Each fsspec backend has errors of its own, with no base class in common.
            raise self._unavailable(name, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file: whoever reads it sees the old content or the new, never a part.

        Raises:
            StoreUnavailable: the disk is full, or the folder cannot be reached.
        """
        files, root = self._files()
        target = f"{root}/{name}"
        try:
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if not self._is_local(files):
                files.pipe_file(target, content)  # object stores show an object when it is whole
                return
            part = Path(f"{target}.{os.getpid()}.part")
            part.write_bytes(content)
            part.replace(target)
        except Exception as error:
            raise self._unavailable(name, error) from error

    def read_json(self, name: str) -> Any:
        """The JSON in a file; None if there is none."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON; see `write`."""
        self.write(name, json.dumps(value, allow_nan=False).encode())

    def trials(self) -> list[Trial]:
        """The trials so far, by number, each as it was last told."""
        found: dict[int, Trial] = {}
        for line in (self.read(TRIALS) or b"").splitlines():
            try:
                trial = Trial.model_validate_json(line)
            except ValueError:
                continue  # the line that a killed process was writing
            found[trial.number] = trial
        return [found[number] for number in sorted(found)]

    def add_trial(self, trial: Trial) -> None:
        """Tell of a trial, at its start and at its end. One process per run does, in any of its
        threads.

        Raises:
            UsageError: it holds a value that is no number, and could not be read back.
        """
        numbers = [trial.value or 0.0, *trial.metrics.values()]
        if not all(map(math.isfinite, numbers)):
            raise UsageError(f"trial {trial.number} has a value that is no number: {trial.metrics}")
        with _ADDING:
            self._add_line(trial.model_dump_json().encode() + b"\n")

    def _add_line(self, line: bytes) -> None:
        files, root = self._files()
        if not self._is_local(files):
            self.write(TRIALS, (self.read(TRIALS) or b"") + line)
            return
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            with open(f"{root}/{TRIALS}", "ab") as file:
                # After a line that was cut short, the next must begin on its own.
                file.write(line if _ends_a_line(f"{root}/{TRIALS}") else b"\n" + line)
        except OSError as error:
            raise self._unavailable(TRIALS, error) from error

    def _files(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"runs cannot be kept at {self.url!r}: {error}") from None
        return files, str(root).rstrip("/")

    @staticmethod
    def _is_local(files: Any) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(files, LocalFileSystem)

    def _unavailable(self, name: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{name} in {self.url} cannot be used now: {error}")


def _ends_a_line(path: str) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
