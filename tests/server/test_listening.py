"""Where and how a server listens: TLS, mutual TLS, plain text on loopback only, and a port that is free."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from billing.runtime.vault import Vault
from server.app import GrpcServer, PlainTextRefused, PortTaken, ServerSettings, start_grpc
from server.house import House
from server.tls import Tls, TlsRefused
from tests.conftest import Databases

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def identity(name: str, authority: Identity | None = None) -> Identity:
    """A certificate for 127.0.0.1, signed by `authority`, or an authority itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(authority.key if authority else key, hashes.SHA256())
    )
    return Identity(certificate, key)


AUTHORITY = identity("Authority")
SERVER = identity("server", AUTHORITY)


@asynccontextmanager
async def serving(databases: Databases, settings: ServerSettings) -> AsyncIterator[GrpcServer]:
    house = House(databases.api, databases.worker, databases.clock, Vault(bytes(32)))
    server = await start_grpc(house, settings, CollectorRegistry())
    try:
        yield server
    finally:
        await server.stop()


async def answers(channel: grpc.aio.Channel) -> bool:
    """Whether the server behind a channel answers. Closes the channel."""
    check: Any = channel.unary_unary(
        HEALTH_CHECK,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    async with channel:
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_tls_answers_who_trusts_its_authority_and_nobody_in_plain_text(
    databases: Databases,
) -> None:
    tls = Tls(SERVER.pem, SERVER.key_pem)
    async with serving(databases, ServerSettings(port=0, tls=tls)) as server:
        address = f"127.0.0.1:{server.port}"
        trusting = grpc.ssl_channel_credentials(AUTHORITY.pem)
        assert await answers(grpc.aio.secure_channel(address, trusting))
        doubting = grpc.ssl_channel_credentials(identity("Another authority").pem)
        assert not await answers(grpc.aio.secure_channel(address, doubting))
        assert not await answers(grpc.aio.insecure_channel(address))


async def test_mutual_tls_answers_only_who_shows_a_certificate_of_the_authority(
    databases: Databases,
) -> None:
    tls = Tls(SERVER.pem, SERVER.key_pem, client_ca=AUTHORITY.pem)
    ours, strange = identity("client", AUTHORITY), identity("client", identity("Another"))
    async with serving(databases, ServerSettings(port=0, tls=tls)) as server:
        address = f"127.0.0.1:{server.port}"
        for client, welcome in ((ours, True), (strange, False), (None, False)):
            credentials = grpc.ssl_channel_credentials(
                AUTHORITY.pem,
                client.key_pem if client else None,
                client.pem if client else None,
            )
            assert await answers(grpc.aio.secure_channel(address, credentials)) is welcome


@pytest.mark.parametrize(
    "tls",
    [
        Tls(b"", b""),
        Tls(b"no certificate", SERVER.key_pem),
        Tls(SERVER.pem, b"no key"),
        Tls(SERVER.pem, identity("another").key_pem),
        Tls(SERVER.pem, SERVER.key_pem, client_ca=b"no authority"),
    ],
)
async def test_a_certificate_that_cannot_be_used_stops_the_start(
    databases: Databases, tls: Tls
) -> None:
    with pytest.raises(TlsRefused):
        async with serving(databases, ServerSettings(port=0, tls=tls)):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "billing.example.com"])
async def test_plain_text_off_loopback_is_refused(databases: Databases, host: str) -> None:
    with pytest.raises(PlainTextRefused, match="TOLLWAY_TLS_CERT_FILE"):
        async with serving(databases, ServerSettings(host=host, port=0)):
            pass


async def test_tls_may_leave_loopback_and_loopback_has_two_families(databases: Databases) -> None:
    tls = Tls(SERVER.pem, SERVER.key_pem)
    async with serving(databases, ServerSettings(host="0.0.0.0", port=0, tls=tls)) as server:
        credentials = grpc.ssl_channel_credentials(AUTHORITY.pem)
        address = f"127.0.0.1:{server.port}"
        assert await answers(grpc.aio.secure_channel(address, credentials))
    async with serving(databases, ServerSettings(host="::1", port=0)) as server:
        assert await answers(grpc.aio.insecure_channel(f"[::1]:{server.port}"))


async def test_a_port_that_is_taken_is_refused_unless_it_is_shared(databases: Databases) -> None:
    async with serving(databases, ServerSettings(port=0)) as first:
        with pytest.raises(PortTaken, match=str(first.port)):
            async with serving(databases, ServerSettings(port=first.port)):
                pass
    async with serving(databases, ServerSettings(port=0, share_port=True)) as first:
        settings = ServerSettings(port=first.port, share_port=True)
        async with serving(databases, settings) as second:
            assert second.port == first.port
