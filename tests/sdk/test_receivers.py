"""The receivers in sdk/receivers, as their readers would run them, against a real sender."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from billing.domain.ids import Prefix, encode
from billing.domain.signature import Secret, headers
from tests.conftest import Databases
from tests.house.tree import ROOT
from tests.webhook_world import WebhookWorld, send_all, webhook_world

FOLDER = ROOT / "sdk" / "receivers"
NODE_WITH_TYPES = (22, 6)
# An older Node runs what this compiler makes of it; npm keeps it after the first time.
TYPESCRIPT = "typescript@5.9.3"
WAIT_MAX_S = 60.0


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


@pytest.fixture(params=["python", "go", "typescript"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command that runs the receiver of a language; skipped where its toolchain is not there."""
    if request.param == "python":
        return [sys.executable, str(FOLDER / "python" / "receiver.py")]
    return _go(tmp_path) if request.param == "go" else _node(tmp_path)


def _go(folder: Path) -> list[str]:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no `go` on the PATH: the Go receiver is not run")
    binary = folder / "receiver"
    source = FOLDER / "go" / "receiver.go"
    subprocess.run([go, "build", "-o", str(binary), str(source)], check=True)
    return [str(binary)]


def _node(folder: Path) -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no `node` on the PATH: the TypeScript receiver is not run")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", told)
    source = FOLDER / "typescript" / "receiver.mts"
    if found is not None and (int(found[1]), int(found[2])) >= NODE_WITH_TYPES:
        return [node, "--no-warnings", "--experimental-strip-types", str(source)]
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"node {told.strip()} runs no TypeScript (22.6 does), and there is no `npm`")
    compiler = [npm, "exec", "--yes", "--prefer-offline", "--package", TYPESCRIPT, "--", "tsc"]
    options = ["--noCheck", "--module", "nodenext", "--target", "es2022", "--outDir", str(folder)]
    made = subprocess.run(
        [*compiler, *options, str(source)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"npm could not run {TYPESCRIPT}: {(made.stderr or made.stdout).strip()[:200]}")
    return [node, str(folder / "receiver.mjs")]


class Running:
    """A receiver's process: its port, and the lines that it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.url = ""

    async def line(self) -> list[str]:
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_MAX_S):
            return (await self._process.stdout.readline()).decode().split()

    async def post(self, secret: Secret, message_id: str, event: Any, *, now: Any) -> int:
        """The status that answers a message signed by hand."""
        body = json.dumps(event).encode()
        signed = headers(message_id, now, body, [secret])
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, data=body, headers=signed) as answer,
        ):
            return answer.status


@contextlib.asynccontextmanager
async def running(program: list[str], secret: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *program,
        stdout=subprocess.PIPE,
        env={**os.environ, "WEBHOOK_SECRET": secret, "PORT": "0"},
    )
    try:
        receiver = Running(process)
        word, port = await receiver.line()
        assert word == "listening"
        receiver.url = f"http://127.0.0.1:{port}/hook"
        yield receiver
    finally:
        process.kill()
        await process.communicate()


async def test_a_receiver_takes_what_is_sent_once_and_drops_the_stale_and_the_forged(
    world: WebhookWorld, program: list[str]
) -> None:
    webhook = await world.endpoint("/hook")
    text = world.receiver.secrets["/hook"]
    secret, now = Secret.parse(text), world.databases.clock.now()
    async with running(program, text) as receiver:
        await world.rows("UPDATE webhooks SET url = $1 WHERE id = $2", receiver.url, webhook.id)
        [event_id] = await world.deliverable()
        async with world.sender() as sender:
            await send_all(sender)
        assert await receiver.line() == ["handled", event_id, "customer.created"]
        assert await world.statuses() == {"delivered": 1}

        resource = encode(Prefix.INVOICE, webhook.id)
        new = {"type": "a.b", "resource_id": resource, "resource_version": "9007199254740993"}
        old = {**new, "resource_version": "9007199254740992"}
        for message_id, event, said in (
            ("evt_1", new, "handled"),
            ("evt_1", new, "duplicate"),
            ("evt_2", old, "stale"),
        ):
            assert await receiver.post(secret, message_id, event, now=now) == 204
            assert await receiver.line() == [said, message_id, "a.b"]
        assert await receiver.post(Secret(b"x" * 32), "evt_3", new, now=now) == 401
        late = now.replace(year=now.year - 1, day=1)
        assert await receiver.post(secret, "evt_4", new, now=late) == 401
