"""The data folder of the embedded servers: one owner, private files, nothing foreign touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.runtime.embedded import EmbeddedSettings, FolderUnusable, start_servers
from billing.runtime.embedded.folder import STATE, DataFolder
from billing.runtime.embedded.process import LOG_BYTES_MAX, LOG_TAIL_BYTES, limit_log, log_tail
from billing.runtime.embedded.state import State


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("not a folder")
    return folder / "file" / "data"


def _a_file(folder: Path) -> Path:
    (folder / "data").write_text("not a folder")
    return folder / "data"


def _somebody_elses(folder: Path) -> Path:
    (folder / "thesis.tex").write_text("three years of work")
    return folder


def _without_state(folder: Path) -> Path:
    (folder / "postgres").mkdir()
    (folder / "nats").mkdir()
    return folder


def _of_a_newer_release(folder: Path) -> Path:
    (folder / STATE).write_text('{"format": 2, "passphrase": "?"}')
    return folder


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (_below_a_file, "File exists"),
        (_a_file, "Not a directory"),
        (_somebody_elses, "thesis.tex"),
        (_without_state, "--fresh, which deletes that data"),
        (_of_a_newer_release, "format 2"),
    ],
)
async def test_a_folder_that_cannot_be_used_is_refused_with_the_reason_and_left_as_it_was(
    tmp_path: Path, prepare: Callable[[Path], Path], says: str
) -> None:
    folder = prepare(tmp_path)
    before = _tree(tmp_path)
    with pytest.raises(FolderUnusable, match=says) as refusal:
        await start_servers(folder, EmbeddedSettings())
    assert str(folder) in str(refusal.value)
    assert _tree(tmp_path) == before


WHOLE = State.generate().to_json()


@given(length=st.integers(0, len(WHOLE) - 3))
def test_no_part_of_a_state_is_taken_for_a_whole_one(length: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / STATE
        path.write_text(WHOLE[:length], encoding="utf-8")
        with pytest.raises(FolderUnusable, match="cannot be read"):
            State.read(path)


@given(value=st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_a_state_with_a_value_of_another_kind_is_refused(value: object) -> None:
    spoilt = {**json.loads(WHOLE), "nats_port": value}
    with TemporaryDirectory() as folder:
        path = Path(folder) / STATE
        path.write_text(json.dumps(spoilt), encoding="utf-8")
        if type(value) is int:
            assert State.read(path).nats_port == value
        else:
            with pytest.raises(FolderUnusable):
                State.read(path)


def test_the_state_is_the_same_when_opened_again_and_only_its_owner_can_read_it(
    tmp_path: Path,
) -> None:
    with closing(DataFolder.open(tmp_path / "new" / "data")) as folder:
        state = folder.load_or_make_state()
    with closing(DataFolder.open(tmp_path / "new" / "data")) as folder:
        assert folder.load_or_make_state() == state
        assert (folder.path / STATE).stat().st_mode & 0o777 == 0o600
        assert folder.path.stat().st_mode & 0o777 == 0o700


def test_fresh_deletes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    with closing(DataFolder.open(tmp_path)) as folder:
        folder.load_or_make_state()
        for name in ("postgres/base", "postgres.new-x1", "nats/jetstream"):
            (tmp_path / name).mkdir(parents=True)
        for name in ("postgres.conf", "nats.log", "notes.txt"):
            (tmp_path / name).write_text("text")
        folder.erase()
        assert {path.name for path in tmp_path.iterdir()} == {"lock", "notes.txt"}


def test_a_log_is_moved_aside_at_its_limit_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * LOG_BYTES_MAX)
        limit_log(path)
        assert path.stat().st_size == LOG_BYTES_MAX
        writer.write(b"\n")
        limit_log(path)
        writer.write(b"after\n")
    assert path.read_text() == "after\n"
    assert path.with_name("server.log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_the_tail_of_a_log_is_short_begins_with_a_line_and_is_of_this_run(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    assert log_tail(path) == ""
    path.write_text("earlier run\nthis run\n")
    assert log_tail(path, start=len("earlier run\n")) == "this run"
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    tail = log_tail(path)
    assert len(tail) <= LOG_TAIL_BYTES
    assert tail.startswith("line ")
    assert tail.endswith("line 9999")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"postgres_port": 0}, "postgres_port must be from 1 to 65535, not 0"),
        ({"shared_buffers_mb": 8}, "shared_buffers_mb must be from 16"),
        ({"nats_port": 4222, "nats_monitor_port": 4222}, "must differ"),
    ],
)
def test_a_setting_outside_its_limits_is_named(chosen: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EmbeddedSettings(**chosen)  # type: ignore[arg-type]  # every field here is a number


def _tree(top: Path) -> dict[str, str]:
    """Every file below `top` with its text, except for the lock, which any try to open leaves."""
    return {
        str(path): path.read_text() if path.is_file() else "folder"
        for path in sorted(top.rglob("*"))
        if path.name != "lock" and os.access(path, os.R_OK)
    }
