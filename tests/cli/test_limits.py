"""`tollway limits` as an operator and a tenant meet it."""

from __future__ import annotations

from tests.cli.test_ops import rim, run
from tests.server.rim import Rim

__all__ = ["rim"]


async def limits(rim: Rim, key: str, *words: str) -> tuple[int, str]:
    """The exit status of a command, and what it told."""
    address = f"127.0.0.1:{rim.server.port}"
    result = await run("limits", *words, TOLLWAY_ADDRESS=address, TOLLWAY_API_KEY=key)
    told = result.output + (str(result.exception) if result.exception else "")
    return result.exit_code, " ".join(told.split())


async def test_an_operator_sets_a_limit_and_takes_it_back_and_the_tenant_sees_it(rim: Rim) -> None:
    acme, tenant = ("--for-tenant", rim.acme.name), rim.acme.keys["admin"]  # type: ignore[index] # StrEnum
    changed = ("set", *acme, "--streams", "7", "--records-per-month", "900", "--reason", "a trial")
    code, told = await limits(rim, rim.operator, *changed)
    assert code == 0, told
    assert "streams 7 an operator" in told
    code, told = await limits(rim, tenant, "show")
    assert code == 0, told
    assert "records per month 900 an operator 0" in told
    assert "records per day none the server's default 0" in told
    code, told = await limits(
        rim, rim.operator, "set", *acme, "--streams", "default", "--reason", "it ended"
    )
    assert "streams 100 the server's default" in told


async def test_what_cannot_be_a_limit_is_refused_by_name(rim: Rim) -> None:
    acme = ("--for-tenant", rim.acme.name, "--reason", "x")
    code, told = await limits(rim, rim.operator, "set", *acme)
    assert (code, "--requests-per-second" in told) == (2, True)
    code, told = await limits(rim, rim.operator, "set", *acme, "--streams", "many")
    assert (code, "give a whole number, or 'default'" in told) == (2, True)
    code, told = await limits(rim, rim.operator, "set", *acme, "--streams", "0")
    assert (code, "streams" in told) == (1, True)
