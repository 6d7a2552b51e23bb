"""The bus's URL: every form that works, and a clear word for those that do not."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from billing.runtime.bus.base import BusMisconfigured, BusSettings
from billing.runtime.bus.connect import connect_bus, nats_address
from billing.runtime.bus.noop import NoopBus
from tests.runtime.bus.brokers import message, messages


def test_servers_user_and_options_are_read_from_the_url() -> None:
    url = "nats://ad%40min:p%3Aw@one:4333,two,[::1]:4444?replicas=3&monitor=http://one:8222"

    address, settings = nats_address(urlsplit(url), BusSettings())

    assert address.servers == ("one:4333", "two:4222", "[::1]:4444")
    assert (address.user, address.password) == ("ad@min", "p:w")
    assert (settings.replicas, settings.monitor_url) == (3, "http://one:8222")
    assert "p:w" not in repr(address)


def test_a_token_alone_is_a_user_without_password() -> None:
    address, _ = nats_address(urlsplit("nats://t0ken@one"), BusSettings())
    assert (address.user, address.password) == ("t0ken", None)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("amqp://host", "unknown bus 'amqp'"),
        ("host:4222", "unknown bus"),
        ("", "unknown bus"),
        ("nats://", "without a host"),
        ("nats://one,,two", "without a host"),
        ("nats://one:none", "no valid port"),
        ("nats://one:99999", "no valid port"),
        ("nats://one?replicas=2", "replicas"),
        ("nats://one?retention=1d", "unknown bus URL options ['retention']"),
        ("nats://one?tls_ca=x.pem", "need the scheme tls://"),
        ("tls://one?tls_ca=/nowhere/x.pem", "TLS files"),
        ("kafka://", "kafka://host:9092"),
        ("kafka://one?acks=0", "['acks'] cannot be set"),
        ("kafka://one?security.protocol=nonsense", "security.protocol"),
        ("nats://[one", "cannot be read"),
    ],
)
async def test_a_url_that_means_no_bus_is_refused_with_the_reason(url: str, word: str) -> None:
    with pytest.raises(BusMisconfigured) as refused:
        await connect_bus(url, BusSettings())
    assert word in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [{"pull_max_bytes": 1000}, {"pull_expires_s": 1.0}, {"pull_batch": 0}, {"pull_ahead": 10}],
)
def test_settings_that_could_never_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BusSettings(**wrong)  # type: ignore[arg-type]  # numbers, whatever their field


async def test_noop_counts_and_forgets() -> None:
    bus = await connect_bus("noop://", BusSettings())
    assert isinstance(bus, NoopBus)
    await bus.ensure_streams(16)
    await bus.publish_batch(0, messages(0, 10))
    await bus.publish_one(message(11))

    assert bus.published == 11
    assert bus.connected
    assert not bus.heals
    assert (await bus.stream_state(0)).last_seq == 0
    async with bus.reader(0, 0) as reader:
        assert await reader.next_batch(10, 0.0) == []
    assert len(await bus.durability_warnings()) == 1
    await bus.close()
