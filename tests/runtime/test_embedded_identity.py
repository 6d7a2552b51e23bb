"""How the embedded servers come to run as an ordinary user, whoever starts them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from billing.runtime.embedded import EmbeddedSettings, Way, start_servers
from billing.runtime.embedded.identity import Identity, identity
from billing.runtime.embedded.postgres import find_programs
from tests.runtime.embedded_data import read_the_facts, write_a_fact
from tests.runtime.embedded_owner import Owner

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root has root to give up")
NOBODY = identity(Way.PLAIN).uid
ONLY_READ_AND_SEARCH = 1 << 2
AN_ID_WITHOUT_A_NAME = 54_321


@as_root
async def test_root_starts_below_a_closed_folder_and_no_mode_changes(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = {path: path.stat().st_mode for path in (closed, *closed.parents)}
    with Owner.spawn(closed / "data", import_first=[_install_below(closed)]) as owner:
        started = owner.started()
        assert not started.error
        for pid in started.pids:
            assert set(_status(pid)["Uid"].split()) == {str(NOBODY)}
            for held in ("CapPrm", "CapEff"):
                assert int(_status(pid)[held], 16) == ONLY_READ_AND_SEARCH
            assert _status(pid)["NoNewPrivs"] == "1"
        programs = [os.readlink(f"/proc/{pid}/exe") for pid in started.pids]
        assert str(closed / "site") in programs[0]
        await write_a_fact(started.database_url, started.nats_url, "kept")
    assert {path: path.stat().st_mode for path in above} == above


@as_root
async def test_each_way_down_from_root_works_and_finds_what_the_others_wrote(
    open_folder: Path,
) -> None:
    facts = []
    for way in (Way.CAPABILITY, Way.NAMESPACE, Way.PLAIN, Way.NAMESPACE, Way.CAPABILITY):
        if way is Way.NAMESPACE and not _may_make_namespaces():
            continue
        settings = EmbeddedSettings(run_as=way, durable=False)
        async with await start_servers(open_folder / "data", settings) as running:
            for pid in running.pids.values():
                assert int(_status(pid)["CapEff"], 16) in (0, ONLY_READ_AND_SEARCH)
            facts.append(way)
            if len(facts) == 1:
                await write_a_fact(running.database_url, running.nats_url, "kept")
            answer = await read_the_facts(running.database_url, running.nats_url)
            assert answer == (["kept"], ["kept"])


@as_root
async def test_an_ordinary_user_starts_servers_under_the_own_id(open_folder: Path) -> None:
    user = _user(pwd.getpwnam("daemon").pw_uid)
    folder = _home_of(user, open_folder)
    with Owner.spawn(folder, through=partial(user.launch, death_signal=0)) as owner:
        started = owner.started()
        assert not started.error
        assert {_status(pid)["Uid"].split()[0] for pid in started.pids} == {str(user.uid)}
        await write_a_fact(started.database_url, started.nats_url, "kept")
    with Owner.spawn(folder, through=partial(user.launch, death_signal=0)) as owner:
        started = owner.started()
        answer = await read_the_facts(started.database_url, started.nats_url)
    assert answer == (["kept"], ["kept"])

    with Owner.spawn(folder) as root:
        refusal = root.started().error
    assert "FolderUnusable" in refusal
    assert f"the user with id {user.uid}" in refusal


@as_root
def test_a_user_without_a_name_can_make_a_database_too(open_folder: Path) -> None:
    if not (_may_make_namespaces() and _open_to_others(find_programs())):
        pytest.skip("needs user namespaces, and programs that everyone may run")
    user = _user(AN_ID_WITHOUT_A_NAME)
    folder = _home_of(user, open_folder)
    with Owner.spawn(folder, through=partial(user.launch, death_signal=0)) as owner:
        assert not owner.started().error


@as_root
def test_the_root_of_a_rootless_container_uses_a_namespace(tmp_path: Path) -> None:
    if not _may_make_namespaces():
        pytest.skip("needs user namespaces")
    with Owner.spawn(tmp_path / "data", through=_in_rootless_container) as owner:
        started = owner.started()
        assert not started.error
        assert all(_status(pid)["CapEff"].strip("0") == "" for pid in started.pids)


@as_root
def test_root_without_any_way_down_is_told_what_would_help(tmp_path: Path) -> None:
    if not _may_make_namespaces():
        pytest.skip("needs user namespaces")
    with Owner.spawn(tmp_path / "data", through=_in_a_container_that_forbids_them) as owner:
        error = owner.started().error
    assert error.startswith("NoWayToDropRoot")
    assert "as an ordinary user" in error


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own is not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        if not _open_to_others(Path(folder)):
            pytest.skip("needs a folder for temporary files that everyone may enter")
        yield Path(folder)


def _user(uid: int) -> Identity:
    """An ordinary user who may read the programs of this test run, wherever they lie."""
    return replace(identity(Way.CAPABILITY), uid=uid, gid=uid)


def _home_of(user: Identity, parent: Path) -> Path:
    folder = parent / "data"
    folder.mkdir(mode=0o700)
    os.chown(folder, user.uid, user.gid)
    return folder


def _in_rootless_container(argv: list[str]) -> list[str]:
    """Root there is the only user there is."""
    return ["unshare", "--user", "--map-root-user", *argv]


def _in_a_container_that_forbids_them(argv: list[str]) -> list[str]:
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"  # counts inside only
    return _in_rootless_container(["sh", "-c", f'{forbid} && exec "$@"', "sh", *argv])


def _may_make_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(_in_rootless_container(["true"]), check=False).returncode == 0


def _open_to_others(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def _install_below(closed: Path) -> Path:
    """A copy of PostgreSQL's programs below `closed`; what to import first so that it is found."""
    site = closed / "site"
    package = find_programs().parents[1]
    for name in (package.name, f"{package.name}.libs"):
        with suppress(FileNotFoundError):
            shutil.copytree(package.with_name(name), site / name, ignore=_not_needed)
    return site


def _not_needed(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "include" or name.endswith(".a")}


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs}
