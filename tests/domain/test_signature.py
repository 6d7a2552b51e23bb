"""Signatures: Standard Webhooks 1.0.0, by published answers and by the plain libraries."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from billing.domain.errors import InvalidSecret
from billing.domain.signature import TOLERANCE, Secret, SignatureMismatch, headers, sign, verify

FACTS = json.loads((Path(__file__).parent / "cases" / "webhook_signatures.json").read_text())
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def body_of(fact: dict[str, Any]) -> bytes:
    if "payload_repeat" in fact:
        return bytes(fact["payload_repeat"]["char"] * fact["payload_repeat"]["count"], "utf-8")
    return bytes(fact["payload"], "utf-8")


@pytest.mark.parametrize("fact", FACTS["v1"], ids=lambda fact: fact["name"])
def test_a_published_payload_has_its_published_signature(fact: dict[str, Any]) -> None:
    secret = Secret.parse(fact["secret"])
    assert sign(fact["id"], fact["timestamp"], body_of(fact), [secret]) == fact["signature"]


@pytest.mark.parametrize("fact", FACTS["traps"], ids=lambda fact: fact["wrong"][:40])
def test_a_wrong_derivation_is_not_produced(fact: dict[str, Any]) -> None:
    secret = Secret.parse(fact["secret"])
    signature = sign(fact["id"], fact["timestamp"], body_of(fact), [secret])
    assert signature != fact["must_not_equal"]


@pytest.mark.parametrize("fact", FACTS["rotation"], ids=lambda fact: fact["name"])
def test_during_a_rotation_both_secrets_verify(fact: dict[str, Any]) -> None:
    secrets = [Secret.parse(text) for text in fact["secrets"]]
    at = datetime.fromtimestamp(fact["timestamp"], UTC)
    made = headers(fact["id"], at, body_of(fact), secrets)
    assert made["webhook-signature"] == fact["header"]
    for secret in secrets:
        verify(made, body_of(fact), [secret], at)


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200))
def test_the_plain_library_verifies_what_is_signed(key: bytes, noise: bytes) -> None:
    body = json.dumps({"data": base64.b64encode(noise).decode()}).encode()
    now = datetime.now(UTC)  # the library reads the clock itself
    made = headers("evt_1", now, body, [Secret(bytes(24)), Secret(key)])
    assert Webhook(Secret(key).to_text()).verify(body.decode(), made) == json.loads(body)
    verify({k.title(): v for k, v in made.items()}, body, [Secret(key)], now)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature", "body"])
def test_any_change_breaks_the_signature(name: str) -> None:
    secret, body = Secret(b"k" * 32), b'{"a":1}'
    made = headers("evt_1", NOW, body, [secret])
    if name == "body":
        body = b'{"a": 1}'
    else:
        made[name] = made[name][:-2] + "17"
    with pytest.raises(SignatureMismatch):
        verify(made, body, [secret], NOW + timedelta(seconds=30))
    with pytest.raises(SignatureMismatch):
        verify({k: v for k, v in made.items() if k != name}, b"", [secret], NOW)


def test_an_old_or_early_timestamp_is_refused() -> None:
    secret = Secret(b"k" * 32)
    made = headers("evt_1", NOW, b"", [secret])
    for at in (NOW - TOLERANCE, NOW + TOLERANCE):
        verify(made, b"", [secret], at)
    for at in (NOW - TOLERANCE, NOW + TOLERANCE):
        with pytest.raises(SignatureMismatch, match="300 s"):
            verify(made, b"", [secret], at + (at - NOW) / 100)


@pytest.mark.parametrize("stamp", ["", "now", "1.5", "-1", "٣", "9" * 12, "9" * 5000])
def test_a_timestamp_is_whole_seconds(stamp: str) -> None:
    made = headers("evt_1", NOW, b"", [Secret(b"k" * 32)]) | {"webhook-timestamp": stamp}
    with pytest.raises(SignatureMismatch):
        verify(made, b"", [Secret(b"k" * 32)], NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_!!!!",
        "whsec_é",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_a_secret_is_whsec_and_24_to_64_bytes(text: str) -> None:
    with pytest.raises(InvalidSecret):
        Secret.parse(text)


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_the_same_after_text_and_back_and_never_shows_itself(key: bytes) -> None:
    secret = Secret(key)
    assert Secret.parse(secret.to_text()) == secret
    assert repr(secret) == "Secret()"
