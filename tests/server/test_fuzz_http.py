"""Whatever comes over HTTP, the API answers as its OpenAPI document says: no fault of ours, no hang, nothing leaked."""

from __future__ import annotations

import asyncio
import io
import json
from functools import cache
from typing import Any, Final

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from billing.services.keys import Scope
from tests.conftest import LONG
from tests.house.tree import ROOT
from tests.server.rim import Rim
from tests.server.test_gateway import open_web

CASES_PER_OPERATION: Final = 40 if LONG else 2
ANSWER_S: Final = 20.0
# What must never reach a caller: the driver, the database, our files.
INSIDES: Final = (b"asyncpg", b"postgres", b"Traceback", b".py", b"SELECT ", b"relation ")


@cache
def operations() -> tuple[Any, ...]:
    document = schemathesis.openapi.from_path(ROOT / "gen/openapi/openapi.json")
    found: Any = document.get_all_operations()
    return tuple(one.ok() for one in found)


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """One message as the only line of a stream."""
    return json.dumps(value).encode() + b"\n"


def cases(operation: Any, mode: GenerationMode) -> list[Any]:
    """Requests as the document describes them, or (negative) as it forbids."""
    found: list[Any] = []

    @settings(
        max_examples=CASES_PER_OPERATION,
        derandomize=not LONG,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


async def answer_of(
    session: aiohttp.ClientSession, address: str, case: Any, key: str
) -> tuple[int, bytes]:
    """The code and the body, of a stream what comes first."""
    wanted = case.as_transport_kwargs(base_url=address)
    body = wanted.get("json")
    data = json.dumps(body).encode() if "json" in wanted else wanted.get("data")
    kind = case.media_type or "application/json"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    async with (
        asyncio.timeout(ANSWER_S),
        session.request(
            wanted["method"],
            wanted["url"],
            params=[(k, str(v)) for k, v in (wanted.get("params") or {}).items()],
            data=io.BytesIO(data) if isinstance(data, bytes) else data,
            headers=headers,
        ) as answer,
    ):
        if answer.content_type == "application/x-ndjson":
            return answer.status, await answer.content.readline()
        return answer.status, await answer.read()


@pytest.mark.timeout(1800 if LONG else 300)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_no_request_over_http_finds_a_fault_a_hang_or_our_insides(
    rim: Rim, mode: GenerationMode
) -> None:
    strange, seen = [], set()
    async with open_web(rim) as web:
        for operation in operations():
            for case in cases(operation, mode):
                key = rim.operator if "/operations/" in case.path else rim.acme.keys[Scope.ADMIN]
                status, body = await answer_of(web.session, web.address, case, key)
                seen.add(status)
                # What the request itself says may come back in the refusal.
                said = repr(case.as_transport_kwargs(base_url=web.address)).encode()
                inside = [word for word in INSIDES if word in body and word not in said]
                leaked = inside if status >= 400 else []
                if (
                    status >= 500
                    or str(status) not in operation.definition.raw["responses"]
                    or leaked
                ):
                    strange.append((status, body[:300], leaked, case.as_curl_command()[:600]))
    assert {200, 400, 404} <= seen, "the requests reach the methods, and not only their doors"
    assert not strange, f"{len(strange)}: {strange[:3]}"
