"""The rim: TLS and mutual TLS.

Invariant: a certificate that cannot be used stops the start and says so; gRPC itself would only say that it could not
listen.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key


class TlsRefused(Exception):
    """The TLS files are no PEM certificates with the unencrypted private key that belongs to the first of them."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts. With `client_ca` every client must show a certificate of that authority."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes | None = None


def credentials(tls: Tls) -> grpc.ServerCredentials:
    """What the server shows, and asks of its clients. Raises TlsRefused."""
    _check(tls)
    return grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def http_context(certificate_file: str, key_file: str, client_ca: bytes | None) -> ssl.SSLContext:
    """The same for HTTP. A client may come without a certificate, so that probes and metrics need none; the API refuses
    it then.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.decode("ascii"))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _check(tls: Tls) -> None:
    try:
        certificate = x509.load_pem_x509_certificates(tls.certificate)[0]
        private_key = load_pem_private_key(tls.private_key, password=None)
        if tls.client_ca is not None:
            x509.load_pem_x509_certificates(tls.client_ca)
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise TlsRefused(TlsRefused.__doc__) from error
    if private_key.public_key() != certificate.public_key():
        raise TlsRefused("The private key is not that of the certificate.")
