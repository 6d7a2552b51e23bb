"""One fact in each server, to see whether it is still there after whatever a test did."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import asyncpg
import nats

from billing.runtime.embedded import process


async def write_a_fact(database_url: str, nats_url: str, fact: str) -> None:
    """Store `fact` in both servers; both have acknowledged it when this returns."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS facts (fact text)")
    await connection.execute("INSERT INTO facts VALUES ($1)", fact)
    await connection.close()
    client = await nats.connect(nats_url)
    bus = client.jetstream()
    await bus.add_stream(name="FACTS", subjects=["facts"])
    await bus.publish("facts", fact.encode())
    await client.close()


async def read_the_facts(database_url: str, nats_url: str) -> tuple[list[str], list[str]]:
    """What PostgreSQL and what NATS remember, in order."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = [row["fact"] for row in await connection.fetch("SELECT fact FROM facts")]
    finally:
        await connection.close()
    client = await nats.connect(nats_url)
    bus = client.jetstream()
    last = (await bus.stream_info("FACTS")).state.last_seq
    messages = [await bus.get_msg("FACTS", seq) for seq in range(1, last + 1)]
    await client.close()
    return rows, [(message.data or b"").decode() for message in messages]


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def processes_on(folder: Path) -> list[str]:
    """The command lines of all processes that name the folder or something in it."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command:
                found.append(command)
    return found


async def all_end(*pids: int) -> bool:
    """Wait, within bounds, until none of the processes lives."""
    return await process.until(lambda: not any(map(is_running, pids)), timeout_s=30)
