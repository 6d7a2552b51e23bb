"""`tollway serve --processes`: real processes on one port, that all answer, drain, and are started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc
import grpc.aio
from prometheus_client.parser import text_string_to_metric_families
from tollway.customer.v1 import customer_service_pb2 as pb

from billing.runtime.vault import new_key_text
from billing.services.keys import Scope
from server.admission import MESSAGE_BYTES_MAX
from tests.conftest import Databases
from tests.server.rim import CREATE_CUSTOMER, Company, Refusal, found, until
from tests.server.test_admission import create, outcome

READY_TIMEOUT_S = 60.0
LIST = "/tollway.customer.v1.CustomerService/ListCustomers"
WAVES, WAVE = 8, 10
# A connection of its own, which the kernel gives to one of the processes.
PRIVATE = [("grpc.use_local_subchannel_pool", 1)]


class Served:
    """A running `tollway serve --processes 2`, and a tenant that calls it."""

    def __init__(self, process: asyncio.subprocess.Process, company: Company) -> None:
        self.process = process
        self.port = self.http_port = 0
        self.figures: list[str] = []
        self.metadata = (("authorization", f"Bearer {company.keys[Scope.WRITE]}"),)

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line that it tells and that looks so."""
        assert self.process.stdout is not None
        told = ""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while line := (await self.process.stdout.readline()).decode():
                told += line
                if matched := re.search(pattern, line):
                    return matched
        raise AssertionError(f"it ended and told: {told}")

    async def ready(self) -> None:
        """Learns where it serves."""
        found = await self.line(
            r"gRPC on 127\.0\.0\.1:(\d+), HTTP on 127\.0\.0\.1:(\d+)(?:, by 2 .* at (.+))?"
        )
        self.port, self.http_port = int(found[1]), int(found[2])
        self.figures = found[3].strip().split(", ") if found[3] else []

    async def calls_of_each(self) -> list[float]:
        """How many calls each process has answered."""
        return [sum((await self._calls(address)).values()) for address in self.figures]

    async def _calls(self, address: str) -> Mapping[str, float]:
        async with aiohttp.ClientSession() as session, session.get(address + "/metrics") as answer:
            text = await answer.text()
        return {
            str(sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "tollway_rpc_calls_total" and sample.labels["code"] == "OK"
        }

    async def over_grpc(self) -> None:
        """One call on a connection of its own."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", PRIVATE) as channel:
            call: Any = channel.unary_unary(LIST)
            await call(b"", metadata=self.metadata, wait_for_ready=True, timeout=READY_TIMEOUT_S)

    async def over_http(self) -> int:
        """The status of one request on a connection of its own."""
        headers = {"Authorization": self.metadata[0][1]}
        address = f"http://127.0.0.1:{self.http_port}/v1/customers"
        async with (
            aiohttp.ClientSession() as session,
            session.get(address, headers=headers) as answer,
        ):
            return answer.status


@asynccontextmanager
async def serving(
    databases: Databases, processes: int = 2, **settings: str
) -> AsyncIterator[Served]:
    company = await found(databases, "Acme")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "serve", "--processes", str(processes)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ
        | {
            "TOLLWAY_DATABASE_URL": databases.url,
            "TOLLWAY_BUS_URL": "noop://",
            "TOLLWAY_SECRET_KEY": new_key_text(),
            "TOLLWAY_GRPC_PORT": "0",
            "TOLLWAY_HTTP_PORT": "0",
        }
        | settings,
    )
    served = Served(process, company)
    try:
        await served.ready()
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def locked(databases: Databases) -> AsyncIterator[Any]:
    """A transaction that nobody passes who asks for customers."""
    owner = await asyncpg.connect(databases.url)
    try:
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        yield transaction
    finally:
        await owner.close()


def waiting(databases: Databases, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many sessions of servers wait for a lock."""

    async def so_many() -> bool:
        # A connection of its own: the activity that one transaction sees stands still.
        owner = await asyncpg.connect(databases.url)
        found = await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'tollway %' AND wait_event_type = 'Lock'"
        )
        await owner.close()
        return bool(found == count)

    return so_many


def peak_of(number: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{number}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def children_of(number: int) -> list[int]:
    """The processes that it has started."""
    text = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(each) for each in text.split()]


def is_alive(number: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{number}/cmdline").exists()


async def test_both_processes_answer_on_one_port_over_grpc_and_http(databases: Databases) -> None:
    async with serving(databases) as served:

        async def both_have_answered() -> bool:
            await served.over_grpc()
            assert await served.over_http() == 200
            return min(await served.calls_of_each()) > 0

        await until(both_have_answered)
        for address in served.figures:
            async with (
                aiohttp.ClientSession() as session,
                session.get(address + "/readyz") as answer,
            ):
                assert (answer.status, await answer.text()) == (
                    200,
                    "database: ok\nbus: ok\nschema: ok\n",
                )
        served.process.send_signal(signal.SIGTERM)
        told, _ = await served.process.communicate()
        assert (served.process.returncode, b"Traceback" in told) == (0, False), told.decode()


async def test_a_stop_lets_the_calls_that_run_in_any_process_finish(databases: Databases) -> None:
    async with serving(databases) as served, locked(databases) as lock:
        channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", PRIVATE) for _ in range(8)
        ]
        running = []
        for n, channel in enumerate(channels):
            create: Any = channel.unary_unary(CREATE_CUSTOMER)
            request = pb.CreateCustomerRequest(external_id=f"c-{n}", display_name="x")
            call = create(request.SerializeToString(), metadata=served.metadata)
            running.append(asyncio.ensure_future(call))

        await until(waiting(databases, len(running)))
        served.process.send_signal(signal.SIGTERM)

        async def nobody_listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            except ConnectionRefusedError:
                return True
            writer.close()
            return False

        await until(nobody_listens)
        assert not any(call.done() for call in running)
        await lock.rollback()
        made = [pb.CreateCustomerResponse.FromString(await call) for call in running]
        assert {answer.customer.external_id for answer in made} == {f"c-{n}" for n in range(8)}
        for channel in channels:
            await channel.close()
        told, _ = await served.process.communicate()
        assert served.process.returncode == 0, told.decode()


async def test_a_process_that_is_killed_is_started_again_and_none_outlives_its_parent(
    databases: Databases,
) -> None:
    async with serving(databases) as served:
        first, second = children_of(served.process.pid)
        os.kill(first, signal.SIGKILL)
        again = await served.line(r"server process (\d) serves again, figures at (\S+)")
        served.figures[int(again[1]) - 1] = again[2]

        async def both_have_answered() -> bool:
            await served.over_grpc()
            return min(await served.calls_of_each()) > 0

        await until(both_have_answered)
        children = children_of(served.process.pid)
        assert second in children
        served.process.kill()

        async def all_are_gone() -> bool:
            return not any(map(is_alive, children))

        await until(all_are_gone)


async def test_a_flood_of_large_requests_does_not_grow_the_memory(databases: Databases) -> None:
    large = create("flood", MESSAGE_BYTES_MAX - 1000)
    async with (
        serving(databases, 1, TOLLWAY_CALL_MB_MAX="8") as served,
        locked(databases) as lock,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", PRIVATE) as channel,
    ):
        call: Any = channel.unary_unary(CREATE_CUSTOMER)
        held = [asyncio.ensure_future(call(large, metadata=served.metadata)) for _ in range(2)]
        await until(waiting(databases, len(held)))
        before, refused = peak_of(served.process.pid), []
        for _ in range(WAVES):
            wave = (outcome(call(large, metadata=served.metadata)) for _ in range(WAVE))
            refused += await asyncio.gather(*wave)
        grown = peak_of(served.process.pid) - before
        assert {r.reason for r in refused if isinstance(r, Refusal)} == {"OVERLOADED"}
        assert len(refused) == WAVES * WAVE
        # What gRPC has read of requests before they are refused stays; 56 MB here, whatever was offered.
        assert grown < WAVES * WAVE * len(large) / 3
        await lock.rollback()
        # Both were to make the same customer.
        assert [isinstance(await outcome(call), Refusal) for call in held].count(False) == 1


async def test_servers_that_cannot_start_end_the_command(databases: Databases) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "serve", "--processes", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ
        | {
            "TOLLWAY_DATABASE_URL": databases.url,
            "TOLLWAY_BUS_URL": "noop://",
            "TOLLWAY_SECRET_KEY": "none",
            "TOLLWAY_GRPC_PORT": "0",
            "TOLLWAY_HTTP_PORT": "0",
        },
    )
    async with asyncio.timeout(READY_TIMEOUT_S):
        told, _ = await process.communicate()
    assert process.returncode == 1
    assert "ended before it was ready" in told.decode()
    assert "Traceback" not in told.decode()
