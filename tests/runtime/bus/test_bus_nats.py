"""What only the NATS bus promises: the duplicate window, the streams' limits, rights, TLS."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from billing.runtime.bus import nats_streams
from billing.runtime.bus.base import (
    BatchRefused,
    Bus,
    BusMisconfigured,
    BusUnavailable,
    MessageRefused,
    RefusalReason,
    StreamMissing,
)
from billing.runtime.bus.connect import connect_bus
from tests.runtime.bus.brokers import (
    QUICK,
    NatsServer,
    message,
    messages,
    open_bus,
    read,
    running,
    until,
)

STREAM = "TOLLWAY_EVENTS_0"


@pytest.fixture
def bus(nats_bus: Bus) -> Bus:
    return nats_bus


async def test_an_id_seen_before_is_dropped_and_told(bus: Bus) -> None:
    first = await bus.publish_one(message(1))
    again = await bus.publish_one(message(1))

    assert (first.duplicate, again.duplicate) == (False, True)
    assert (await bus.stream_state(0)).last_seq == 1


async def test_a_batch_with_an_id_seen_before_is_refused_whole_and_singles_go_through(
    bus: Bus,
) -> None:
    await bus.publish_batch(0, messages(0, 3))
    overlapping = messages(2, 4)

    with pytest.raises(BatchRefused):
        await bus.publish_batch(0, overlapping)
    assert (await bus.stream_state(0)).last_seq == 3

    acks = [await bus.publish_one(single) for single in overlapping]
    assert [ack.duplicate for ack in acks] == [True, False, False, False]
    assert [m.bus_id for m in await read(bus, 6)] == [m.bus_id for m in messages(0, 6)]


async def test_a_replay_of_an_event_is_no_duplicate_of_it(bus: Bus) -> None:
    await bus.publish_one(message(1))
    assert not (await bus.publish_one(message(1, bus_id="evt_00000001:rpl_7"))).duplicate


async def test_the_wire_carries_cloudevents_that_any_client_can_read(
    bus: Bus, nats_server: NatsServer
) -> None:
    sent = message(1, body=b"\x01\x02")
    await bus.publish_one(sent)

    stored = (await nats_server.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1}))["message"]

    assert stored["subject"] == f"tollway.events.0.{sent.tenant}.usage.reported"
    assert base64.b64decode(stored["data"]) == b"\x01\x02"
    lines = base64.b64decode(stored["hdrs"]).decode().strip().split("\r\n")
    assert lines[0] == "NATS/1.0"
    assert set(lines[1:]) == {
        f"Nats-Msg-Id: {sent.bus_id}",
        *[f"ce-{name}: {value}" for name, value in sent.headers.items()],
    }


async def test_streams_are_made_with_every_limit(bus: Bus, nats_server: NatsServer) -> None:
    config = (await nats_server.api(f"STREAM.INFO.{STREAM}"))["config"]

    assert config["subjects"] == ["tollway.events.0.>"]
    assert config["allow_atomic"] is True
    assert config["discard"] == "new"
    assert config["max_age"] == 0
    assert config["max_bytes"] == QUICK.stream_max_bytes
    assert config["max_msg_size"] == QUICK.message_max_bytes
    assert config["duplicate_window"] == 120 * 10**9


async def test_changed_settings_reach_streams_and_the_operators_own_stay(
    bus: Bus, nats_server: NatsServer
) -> None:
    config = (await nats_server.api(f"STREAM.INFO.{STREAM}"))["config"]
    await nats_server.api(f"STREAM.UPDATE.{STREAM}", config | {"description": "keep me"})
    await bus.publish_one(message(1))

    wider = await open_bus(nats_server, replace(QUICK, stream_max_bytes=80_000_000))
    await wider.ensure_streams(1)
    await wider.close()

    info = await nats_server.api(f"STREAM.INFO.{STREAM}")
    assert info["config"]["max_bytes"] == 80_000_000
    assert info["config"]["description"] == "keep me"
    assert info["state"]["last_seq"] == 1


async def test_a_full_stream_is_an_outage_and_drops_nothing(nats_server: NatsServer) -> None:
    bus = await open_bus(nats_server, replace(QUICK, stream_max_bytes=1_000_000))
    await bus.ensure_streams(1)
    large = [message(n, body=b"x" * 200_000) for n in range(6)]
    for single in large[:4]:
        await bus.publish_one(single)

    with pytest.raises(BusUnavailable):
        await bus.publish_one(large[4])
    with pytest.raises(BusUnavailable):
        await bus.publish_batch(0, large[4:])

    await bus.trim(0, 2)
    await bus.publish_batch(0, large[4:])
    assert [m.sequence for m in await read(bus, 4)] == [3, 4, 5, 6]
    await bus.close()


async def test_a_missing_stream_is_an_outage(bus: Bus) -> None:
    with pytest.raises(StreamMissing):
        await bus.publish_one(message(1, partition=7))
    with pytest.raises(StreamMissing):
        await bus.publish_batch(7, messages(0, 2))
    with pytest.raises(StreamMissing):
        await bus.stream_state(7)
    with pytest.raises(BusUnavailable):
        await bus.reader(7, 0).__aenter__()


async def test_more_replicas_than_servers_is_a_misconfiguration(nats_server: NatsServer) -> None:
    bus = await open_bus(nats_server, replace(QUICK, replicas=3))
    with pytest.raises(BusMisconfigured, match="TOLLWAY_EVENTS_0"):
        await bus.ensure_streams(1)
    await bus.close()


# --- hints, rights, connections


async def test_hints_reach_other_processes_and_a_reconnect_counts_as_one(
    bus: Bus, nats_server: NatsServer
) -> None:
    other = await open_bus(nats_server)
    woken = other.subscribe_hints("outbox.0")
    await other.stream_state(0)  # the subscription stands before the hint is sent

    here = bus.subscribe_hints("outbox.0")
    bus.hint("outbox.0")
    assert here.is_set()  # without the way over the server, which does not send it back
    here.clear()
    async with asyncio.timeout(10):
        await woken.wait()
    await bus.stream_state(0)
    assert not here.is_set()

    woken.clear()
    nats_server.kill()
    await nats_server.start()
    async with asyncio.timeout(10):
        await woken.wait()
    await other.close()


async def test_what_this_user_may_not_publish_is_refused_by_name(tmp_path: Path) -> None:
    users = (
        'authorization { users = [ { user: "tollway", password: "p w/1", '
        'permissions: { publish: { deny: ["tollway.events.*.*.custom.>"] } } } ] }'
    )
    denied = message(2)._replace(subject="custom.thing")
    async with running(NatsServer(tmp_path, extra=users)) as server:
        bus = await connect_bus(f"nats://tollway:p%20w%2F1@127.0.0.1:{server.port}", QUICK)
        await bus.ensure_streams(1)

        with pytest.raises(MessageRefused) as refused:
            await bus.publish_one(denied)
        with pytest.raises(BatchRefused):
            await bus.publish_batch(0, [message(1), denied, message(3)])

        assert refused.value.reason is RefusalReason.NOT_PERMITTED
        await bus.publish_one(message(1))
        assert (await bus.stream_state(0)).last_seq == 1
        await bus.close()


async def test_a_wrong_password_is_an_outage_that_names_itself(tmp_path: Path) -> None:
    users = 'authorization { user: "tollway", password: "right" }'
    async with running(NatsServer(tmp_path, extra=users)) as server:
        bus = await connect_bus(f"nats://tollway:wrong@127.0.0.1:{server.port}", QUICK)
        with pytest.raises(BusUnavailable, match=r"(?i)authorization"):
            await bus.publish_one(message(4))
        await bus.close()


async def test_a_bus_that_is_down_at_the_start_is_reached_when_it_comes(
    nats_server: NatsServer,
) -> None:
    nats_server.kill()
    bus = await connect_bus(nats_server.url, QUICK)
    assert not bus.connected
    with pytest.raises(BusUnavailable, match="cannot reach NATS"):
        await bus.ensure_streams(1)

    await nats_server.start()
    await until(lambda: bus.connected)
    await bus.ensure_streams(1)
    await bus.close()


async def test_a_frozen_server_is_noticed_by_its_missing_pongs(nats_server: NatsServer) -> None:
    bus = await open_bus(nats_server, replace(QUICK, ping_interval_s=0.1))
    nats_server.freeze()
    try:
        await until(lambda: not bus.connected)
    finally:
        nats_server.thaw()
    await until(lambda: bus.connected)
    await bus.close()


async def test_tls_is_used_when_the_address_says_so(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    async with running(NatsServer(tmp_path, extra=tls)) as server:
        bus = await connect_bus(f"tls://127.0.0.1:{server.port}?tls_ca={certificate}", QUICK)
        await bus.ensure_streams(1)
        await bus.publish_batch(0, messages(0, 100))
        assert len(await read(bus, 100)) == 100
        await bus.close()

        distrustful = await connect_bus(f"tls://127.0.0.1:{server.port}", QUICK)
        with pytest.raises(BusUnavailable, match=r"(?i)certificate"):
            await distrustful.publish_one(message(1))
        await distrustful.close()


async def test_a_password_meant_for_tls_never_goes_out_in_plain_text(
    nats_server: NatsServer,
) -> None:
    bus = await connect_bus(f"tls://user:secret@127.0.0.1:{nats_server.port}", QUICK)
    with pytest.raises(BusUnavailable, match="offers no TLS"):
        await bus.ensure_streams(1)
    await bus.close()


# In nats-server's configuration a bare 2m is the number 2,000,000, not two minutes.
@pytest.mark.parametrize(("sync", "warned"), [("always", False), ('"2m"', True)])
async def test_a_server_that_syncs_late_is_warned_of(
    tmp_path: Path, sync: str, warned: bool
) -> None:
    async with running(NatsServer(tmp_path, sync=sync)) as server:
        bus = await open_bus(server)
        warnings = await bus.durability_warnings()
        await bus.close()

    assert bool(warnings) is warned
    assert not warned or "every 120 s" in warnings[0]


async def test_a_monitor_that_does_not_answer_is_said(nats_server: NatsServer) -> None:
    settings = replace(QUICK, monitor_url="http://127.0.0.1:1")
    bus = await connect_bus(f"nats://127.0.0.1:{nats_server.port}", settings)
    (warning,) = await bus.durability_warnings()
    assert "could not be checked" in warning
    await bus.close()


async def test_a_durability_that_nobody_checks_is_said(nats_server: NatsServer) -> None:
    bus = await connect_bus(f"nats://127.0.0.1:{nats_server.port}", QUICK)
    (warning,) = await bus.durability_warnings()
    assert "add ?monitor=" in warning
    await bus.close()


@pytest.mark.parametrize(
    ("servers", "replicas", "warned"), [(None, 1, False), (3, 1, True), (3, 3, False), (5, 2, True)]
)
def test_fewer_replicas_than_a_cluster_could_keep_are_warned_of(
    servers: int | None, replicas: int, warned: bool
) -> None:
    told = {"config": {"sync_always": True}}
    if servers:
        told["meta_cluster"] = {"name": "c", "leader": "n1", "cluster_size": servers}  # type: ignore[dict-item]
    warnings = nats_streams.durability_warnings(told, replicas)
    assert bool(warnings) is warned
    assert not warned or "add replicas=3" in warnings[0]


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file
