"""Webhook path, step 2: which addresses are dialled, whatever the URL says."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from billing.domain.address import Network
from tests.webhook_world import LOOPBACK, Receiver, receiving
from workers.webhooks.client import Answer, WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.settings import SenderSettings

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254", "172.16.0.1",
    "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:2::1",
    "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
# Every spelling that some resolver or URL parser takes for loopback.
SPELLINGS = [
    "127.0.0.1", "localhost", "0x7f000001", "2130706433", "017700000001", "127.1", "0177.0.0.1", "0.0.0.0", "0",
    "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "127.0.0.1.",
]  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    assert Guard().allows(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_are_not(address: str) -> None:
    assert not Guard().allows(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("fd00::/8", "fd00::1", True),
        ("127.0.0.0/8", "::1", False),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", True),
    ],
)
def test_the_operator_allows_networks_and_nothing_more(
    network: str, address: str, allowed: bool
) -> None:
    guard = Guard((ipaddress.ip_network(network),))
    assert guard.allows(ipaddress.ip_address(address)) == allowed


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_loopback_reaches_it(host: str, receiver: Receiver) -> None:
    answer = await _post(f"http://{host}:{receiver.port}/", ())
    assert answer.status is None
    assert answer.error.split(":")[0] in {"address_denied", "name", "url", "connect"}
    assert not receiver.got


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001"])
async def test_with_the_operators_leave_loopback_is_reached(host: str, receiver: Receiver) -> None:
    answer = await _post(f"http://{host}:{receiver.port}/", LOOPBACK)
    assert (answer.status, answer.error, answer.address) == (204, "", "127.0.0.1")


async def test_a_denied_address_is_named_in_the_error(receiver: Receiver) -> None:
    answer = await _post(f"http://127.0.0.1:{receiver.port}/", ())
    assert answer.error == "address_denied: 127.0.0.1 is not public"
    assert not answer.address


class Names:
    """Name servers of an attacker: each look-up of a name under .test takes the next answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, port: int, *rest: Any, **more: Any) -> Any:
        if not host.endswith(".test"):
            return self._real(host, port, *rest, **more)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [row for one in answer for row in self._real(one, port, *rest, **more)]


async def test_a_name_that_resolves_to_a_private_address_is_not_dialled(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for private in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"):
        Names(monkeypatch, [private])
        answer = await _post(f"http://hook.test:{receiver.port}/", ())
        assert answer.error.startswith("address_denied"), private
        assert not answer.ours, "it is the tenant's name"
    assert not receiver.got


async def test_of_mixed_records_only_what_is_allowed_is_dialled(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, ["10.0.0.1", "169.254.169.254", "127.0.0.1"])
    answer = await _post(f"http://hook.test:{receiver.port}/", LOOPBACK)
    assert (answer.status, answer.address) == (204, "127.0.0.1")


async def test_a_name_that_is_bound_anew_after_it_was_looked_at_reaches_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever checks a name and then dials it is fooled by the second answer; here the dialled address is checked."""
    Names(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    allowed = (ipaddress.ip_network("127.0.0.1/32"),)
    url = f"http://hook.test:{receiver.port}/"
    assert (await _post(url, allowed)).status == 204
    # A new client asks again: names are kept for seconds only.
    assert (await _post(url, allowed)).error.startswith("address_denied: 127.0.0.2")
    assert len(receiver.got) == 1


async def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", receiver.url("/proxy"))
    monkeypatch.setenv("http_proxy", receiver.url("/proxy"))
    answer = await _post("http://169.254.169.254/latest/meta-data", ())
    assert answer.error.startswith("address_denied")
    assert not receiver.got


async def _post(url: str, allowed: tuple[Network, ...]) -> Answer:
    async with WebhookClient(SenderSettings(), Guard(allowed), user_agent="tollway/test") as client:
        return await client.post(url, {}, b"{}")
