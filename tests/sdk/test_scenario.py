"""sdk/scenario.json as a short program in each language follows it, against a live `tollway up`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tollway.tenant.v1 import tenant_service_pb2 as tenant
from tollway_sdk import Tollway

from tests.sdk.languages import PROGRAMS, SDK
from tests.sdk.lossy_line import lossy_line

SCENARIO = SDK / "scenario.json"
RUN_TIMEOUT_S = 150.0
# Half a million lines of Java are compiled the first time.
TEST_TIMEOUT_S = 600


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running `tollway up`: its ready file."""
    folder = tmp_path_factory.mktemp("up")
    ready = folder / "ready.json"
    ports = ["--grpc-port", "0", "--http-port", "0"]
    files = ["--data-dir", str(folder / "data"), "--ready-file", str(ready)]
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", "up", *ports, *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if "Stop with Ctrl-C" in line:
                break
        assert ready.exists(), "".join(told)
        yield json.loads(ready.read_text(encoding="utf-8"))
        process.send_signal(signal.SIGTERM)
        process.communicate()


async def new_tenant_key(up: dict[str, str]) -> str:
    """An admin key of a new tenant."""
    async with Tollway(up["grpc"], up["operator_key"]) as operator:
        made = await operator.tenants.CreateTenant(
            tenant.CreateTenantRequest(display_name="Scenario", mode=tenant.TENANT_MODE_LIVE)
        )
        key = await operator.tenants.CreateApiKey(
            tenant.CreateApiKeyRequest(
                tenant_id=made.tenant.id, display_name="scenario", scopes=[tenant.SCOPE_ADMIN]
            )
        )
    return key.secret


async def follow(command: list[str], environment: dict[str, str]) -> list[tuple[str, Any]]:
    """Runs a program; the steps it told, in order."""
    process = await asyncio.create_subprocess_exec(
        *command,
        str(SCENARIO),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            told, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, told.decode() + complained.decode()
    rows = [json.loads(line) for line in told.splitlines()]
    return [(row["step"], row["told"]) for row in rows]


@pytest.mark.timeout(TEST_TIMEOUT_S)
@pytest.mark.parametrize("language", PROGRAMS)
async def test_the_scenario_is_the_same_in_every_language(
    language: str, up: dict[str, str], tmp_path: Path
) -> None:
    program = PROGRAMS[language](tmp_path, os.environ)
    table = json.loads(SCENARIO.read_text(encoding="utf-8"))
    late = table["given"]["late_customer"]["external_id"]
    key = await new_tenant_key(up)
    connection = await asyncpg.connect(up["database_url"])

    async def customers() -> int:
        found = await connection.fetchval(
            "SELECT count(*) FROM customers WHERE external_id = $1", late
        )
        return int(found)

    before = await customers()

    async def happened() -> bool:
        return await customers() > before

    try:
        async with lossy_line(up["grpc"], happened) as (line, lossy_address):
            told = await follow(
                program.command,
                {
                    **os.environ,
                    **program.environment,
                    "TOLLWAY_ADDRESS": up["grpc"],
                    "TOLLWAY_LOSSY_ADDRESS": lossy_address,
                    "TOLLWAY_API_KEY": key,
                },
            )
        assert line.lost == 1
        assert await customers() == before + 1
    finally:
        await connection.close()
    assert told == [
        *((row["step"], row["told"]) for row in table["steps"]),
        *((row["error"], row["told"]) for row in table["errors"]),
    ]
