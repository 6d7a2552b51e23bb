"""The fixture of the rim's tests: a real grpc.aio server in this process, on a fresh database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Databases
from tests.server.rim import Rim, open_rim


@pytest.fixture
async def rim(databases: Databases) -> AsyncIterator[Rim]:
    """A server with all services, two tenants with keys of every scope, and an operator."""
    async with open_rim(databases) as opened:
        yield opened
