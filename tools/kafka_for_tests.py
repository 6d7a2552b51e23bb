"""A real Kafka for the conformance suite: fetched with Maven, run as one KRaft node.

    python -m tools.kafka_for_tests          # prints the address, runs until SIGTERM or ctrl-C
    python -m tools.kafka_for_tests fetch    # only fetches, so that no test's time is spent on it

Needs Java 17 or newer and Maven; `why_not()` says what is missing, so that a test can skip with the
reason. The jars (44 MB) are kept in `.cache/`, the data of a run in a folder of its own.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

VERSION = "4.3.1"
SCALA = "2.13"
FETCH_TIMEOUT_S = 300
FETCH_TRIES = 3
START_TIMEOUT_S = 90
START_TRIES = 3
STOP_TIMEOUT_S = 30
HEAP = "512m"

CACHE = Path(__file__).resolve().parent.parent / ".cache" / f"kafka-{VERSION}"

POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tollway.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{SCALA}</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

# Errors to the console and nothing else: Kafka's own default logs a thousand lines at start.
LOGGING = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
"""


class KafkaUnavailable(Exception):
    """Kafka could not be fetched or started; the text says why."""


def why_not() -> str | None:
    """What this machine lacks for a Kafka, or None."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    return f"Kafka needs {' and '.join(missing)} on the PATH" if missing else None


def fetch(cache: Path = CACHE) -> Path:
    """The folder with Kafka's jars, fetched the first time; several processes may ask at once.

    Raises:
        KafkaUnavailable: Maven failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds the work done
        if not (cache / "complete").exists():
            _fetch(cache)
            (cache / "complete").touch()
    return cache / "jars"


def _fetch(cache: Path) -> None:
    """Has Maven copy the jars; tries again, since the network and other Mavens of this user come between."""
    jars = cache / "jars"
    (cache / "pom.xml").write_text(POM)
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    for tries_left in reversed(range(FETCH_TRIES)):
        shutil.rmtree(jars, ignore_errors=True)
        done = _run(command, cwd=cache, timeout_s=FETCH_TIMEOUT_S)
        if done.returncode == 0:
            return
        if not tries_left:
            raise KafkaUnavailable(f"Maven could not fetch Kafka:\n{done.stdout[-2000:]}")


def _run(command: list[str], *, cwd: Path, timeout_s: int) -> subprocess.CompletedProcess[str]:
    """A program's end, with both of its outputs in one."""
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise KafkaUnavailable(f"{command[0]} took longer than {timeout_s} s") from error


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Kafka:
    """One broker on 127.0.0.1 with its own data folder; can be killed and started again."""

    def __init__(self, folder: Path, cache: Path = CACHE) -> None:
        self._folder = folder
        self._jars = fetch(cache)
        self._port = free_port()
        self._controller_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._prepare()

    @property
    def address(self) -> str:
        """`host:port` for bootstrap.servers."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the broker and wait until it accepts connections.

        Raises:
            KafkaUnavailable: it ended, or was not ready within `START_TIMEOUT_S`.
        """
        with (self._folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", "server.properties"),
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                text = (self._folder / "kafka.log").read_text(errors="replace")
                raise KafkaUnavailable(f"Kafka did not start:\n{text[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def send(self, what: signal.Signals) -> None:
        """Send a signal (SIGSTOP, SIGCONT) to the broker."""
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(what)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    def _prepare(self) -> None:
        """Write the configuration and format the log folder, as KRaft asks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "log4j2.properties").write_text(LOGGING)
        (self._folder / "server.properties").write_text(self._properties())
        # One word: an id may begin with a hyphen.
        format_ = ("format", f"--cluster-id={_cluster_id()}", "-c", "server.properties")
        done = _run(
            self._java("kafka.tools.StorageTool", *format_),
            cwd=self._folder,
            timeout_s=START_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise KafkaUnavailable(f"Kafka could not format its folder:\n{done.stdout[-2000:]}")

    def _properties(self) -> str:
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},"
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": self._folder / "data",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "auto.create.topics.enable": "false",
            # A killed broker is let in again after this; the default is 9 s.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [
            "java",
            f"-Xmx{HEAP}",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}",
            "-cp",
            f"{self._jars}{os.sep}*",
            main,
            *arguments,
        ]


def _cluster_id() -> str:
    """Kafka's way to write a UUID: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def start_kafka(folder: Path) -> Kafka:
    """A broker that is ready, with its data below `folder`.

    Raises:
        KafkaUnavailable: it could not be fetched, or did not start.
    """
    for tries_left in reversed(range(START_TRIES)):
        kafka = Kafka(folder / f"try_{tries_left}")
        try:
            kafka.start()
        except KafkaUnavailable:
            # Ports that were free may have been taken before Java was up.
            if not tries_left:
                raise
        else:
            return kafka
    raise AssertionError("the last try returns or raises")


def main(what: str = "run") -> int:
    """Fetch, or run a broker in the foreground."""
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    try:
        fetch()
    except KafkaUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if what == "fetch" else _run_until_told()


def _run_until_told() -> int:
    waited_for = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)  # or the default action comes first
    with tempfile.TemporaryDirectory(prefix="tollway-kafka-") as folder:
        kafka = start_kafka(Path(folder))
        print(f"kafka://{kafka.address}", flush=True)
        try:
            signal.sigwait(waited_for)
        finally:
            kafka.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
