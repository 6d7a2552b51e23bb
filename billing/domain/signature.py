"""Webhook path, step 2 of 2: Standard Webhooks 1.0.0 signatures.

Invariant: what is signed is `id.timestamp.body`, byte for byte as it is sent, with the bytes that
the base64 behind `whsec_` encodes; plain libraries verify every request. During a rotation the
header carries one signature per secret, newest first. `v1a` (Ed25519) would be a further Signer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from billing.domain.errors import InvalidSecret

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a prefix, not a secret
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
SIGNATURES_MAX: Final = 10
TOLERANCE: Final = timedelta(minutes=5)
HEADER_ID: Final = "webhook-id"
HEADER_TIMESTAMP: Final = "webhook-timestamp"
HEADER_SIGNATURE: Final = "webhook-signature"


class SignatureMismatch(Exception):
    """No signature matches: the receiver's side of the protocol, never an answer of an RPC."""


class Signer(Protocol):
    """One key that signs; its signature begins with its scheme, such as `v1,`."""

    def sign(self, signed: bytes) -> str:
        """The signature of `id.timestamp.body`."""
        ...


@dataclass(frozen=True, slots=True)
class Secret:
    """A symmetric signing secret: 24 to 64 bytes. It never shows itself in a repr or a log."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not SECRET_BYTES_MIN <= len(self.key) <= SECRET_BYTES_MAX:
            raise InvalidSecret

    @classmethod
    def parse(cls, text: str) -> Secret:
        """`whsec_…` as the tenant sees it."""
        if not text.startswith(SECRET_PREFIX):
            raise InvalidSecret
        try:
            return cls(base64.b64decode(text[len(SECRET_PREFIX) :], validate=True))
        except (binascii.Error, ValueError) as error:
            raise InvalidSecret from error

    def to_text(self) -> str:
        """`whsec_…`, to be shown once and to be encrypted at rest."""
        return SECRET_PREFIX + base64.b64encode(self.key).decode("ascii")

    def sign(self, signed: bytes) -> str:
        """`v1,` and the base64 of the HMAC-SHA256."""
        digest = hmac.digest(self.key, signed, hashlib.sha256)
        return "v1," + base64.b64encode(digest).decode("ascii")


def signed_content(message_id: str, timestamp_s: int, body: bytes) -> bytes:
    """The bytes under the signature."""
    return b"%s.%d.%s" % (message_id.encode(), timestamp_s, body)


def sign(message_id: str, timestamp_s: int, body: bytes, signers: Sequence[Signer]) -> str:
    """The webhook-signature header: one signature per signer, in the order given."""
    signed = signed_content(message_id, timestamp_s, body)
    return " ".join(signer.sign(signed) for signer in signers)


def headers(
    message_id: str, now: datetime, body: bytes, signers: Sequence[Signer]
) -> dict[str, str]:
    """The three headers of one attempt. The id stays across attempts, the timestamp does not."""
    timestamp_s = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return {
        HEADER_ID: message_id,
        HEADER_TIMESTAMP: str(timestamp_s),
        HEADER_SIGNATURE: sign(message_id, timestamp_s, body, signers),
    }


def verify(
    received: Mapping[str, str],
    body: bytes,
    secrets: Iterable[Secret],
    now: datetime,
    *,
    tolerance: timedelta = TOLERANCE,
) -> None:
    """Raise SignatureMismatch unless one v1 signature is by one of `secrets` and recent."""
    lowered = {name.lower(): value for name, value in received.items()}
    stamp = lowered.get(HEADER_TIMESTAMP, "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise SignatureMismatch("webhook-timestamp must be whole seconds since 1970.")
    sent_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(int(stamp), 2**37))
    if abs(now - sent_at) > tolerance:
        raise SignatureMismatch(
            f"The timestamp is more than {int(tolerance.total_seconds())} s away from the clock;"
            " check the clock, or refuse the replayed request."
        )
    signed = signed_content(lowered.get(HEADER_ID, ""), int(stamp), body)
    given = lowered.get(HEADER_SIGNATURE, "").split(" ")[:SIGNATURES_MAX]
    # Every pair is compared, and each in constant time: nothing is learned from the duration.
    matches = [
        hmac.compare_digest(secret.sign(signed).encode(), signature.encode())
        for secret in secrets
        for signature in given
    ]
    if not any(matches):
        raise SignatureMismatch("Check the secret, and that the body is read unchanged.")
