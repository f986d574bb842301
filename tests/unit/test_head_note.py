"""The note of a runtime: private, whole or absent, and read back as it was."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import StoreCorrupt, TemporaryError, UsageError
from aios.kernel.guard import watch
from aios.kernel.head import head_is_alive, restart_head, stop_head
from aios.kernel.note import (
    NOTE,
    SOCKET_PATH_BYTES,
    Head,
    locked,
    read_head,
    short_temp_dir,
    write_head,
)
from aios.kernel.ports import Ports


def noted(home: Path, runtime_id: str = "abcd1234", **more: object) -> Head:
    return Head.model_validate(
        {
            "id": runtime_id,
            "home": home,
            "ports": Ports._block(20_000),
            "temp_dir": home / f"temp-{runtime_id}",
            "token_path": home / "ray.token",
            "gcs_path": home / "gcs" / runtime_id,
            "folder": home,
            "python_path": str(home),
            "started_s": 1000.5,
            **more,
        }
    )


def test_a_note_is_private_and_reads_back(tmp_path: Path) -> None:
    head = noted(tmp_path, pids={"gcs": 12}, extra_env={"SECRET": "s"})
    write_head(head)
    assert stat.S_IMODE((tmp_path / NOTE).stat().st_mode) == 0o600
    assert read_head(tmp_path) == head
    assert [path.name for path in tmp_path.iterdir()] == [NOTE]


@given(st.dictionaries(st.text(), st.text()), st.none() | st.integers(0), st.floats(0, 1e12))
def test_any_note_survives_json(extra: dict[str, str], cpus: int | None, at_s: float) -> None:
    head = noted(Path("/h"), extra_env=extra, num_cpus=cpus, started_s=at_s)
    assert Head.model_validate_json(head.model_dump_json()) == head


def test_no_note_is_no_runtime(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}', "\x00"])
def test_a_damaged_note_says_which_file(tmp_path: Path, content: str) -> None:
    (tmp_path / NOTE).write_text(content)
    with pytest.raises(StoreCorrupt, match=NOTE):
        read_head(tmp_path)


def test_addresses_follow_from_the_ports(tmp_path: Path) -> None:
    head = noted(tmp_path)
    assert head.address == "http://127.0.0.1:20000"
    assert head.gcs_address == "127.0.0.1:20001"
    assert head.dashboard_url == "http://127.0.0.1:20002"


def test_sockets_fit_even_under_a_long_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/var/folders/zz/" + "z" * 40)
    folder = short_temp_dir("abcd1234")
    assert folder == Path("/tmp/aios-abcd1234")
    longest = f"{folder}/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
    assert len(longest) <= SOCKET_PATH_BYTES


def test_pids_of_others_are_no_living_head(tmp_path: Path) -> None:
    ours = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = {"gcs": ours.pid, "raylet": ours.pid, "dashboard": ours.pid}
        assert not head_is_alive(noted(tmp_path, pids=pids)), "the numbers were reused"
        assert not head_is_alive(noted(tmp_path))
    finally:
        ours.communicate(b"\n")


def test_a_stopped_runtime_is_not_restarted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was stopped"):
        restart_head(noted(tmp_path))
    write_head(noted(tmp_path, "new00001"))
    with pytest.raises(UsageError, match="was stopped"):
        restart_head(noted(tmp_path, "old00001"))


def test_stopping_is_idempotent_and_keeps_the_users_files(tmp_path: Path) -> None:
    head = noted(tmp_path)
    (tmp_path / "aios.db").write_text("rows")
    head.temp_dir.mkdir()
    head.token_path.write_text("t")
    write_head(head)
    stop_head(head)
    stop_head(head)
    assert (tmp_path / "aios.db").read_text() == "rows"
    assert not head.temp_dir.exists()
    assert not head.token_path.exists()
    assert read_head(tmp_path) is None


def test_stopping_an_old_runtime_leaves_the_note_of_its_successor(tmp_path: Path) -> None:
    successor = noted(tmp_path, "new00001")
    write_head(successor)
    successor.token_path.write_text("t")
    stop_head(noted(tmp_path, "old00001"))
    assert read_head(tmp_path) == successor
    assert successor.token() == "t"


def test_a_private_home_goes_with_its_runtime(tmp_path: Path) -> None:
    home = tmp_path / "private"
    home.mkdir()
    write_head(noted(home))
    stop_head(noted(home), remove_home=True)
    assert not home.exists()
    stop_head(noted(home), remove_home=True)


def test_a_guard_ends_once_the_note_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_head(noted(tmp_path))

    def stopped_meanwhile(seconds: float) -> None:
        (tmp_path / NOTE).unlink()

    monkeypatch.setattr("time.sleep", stopped_meanwhile)
    watch(tmp_path, None, restart=False)
    assert not (tmp_path / NOTE).exists()


def test_starts_and_stops_of_one_home_wait_for_each_other(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(TemporaryError, match="under way"),
        locked(tmp_path, timeout_s=0),
    ):
        pass
    with locked(tmp_path, timeout_s=0):
        pass
