"""Webhook path and the rim: secrets at rest.

Invariant: a secret is stored only under authenticated encryption (AES-256-GCM) with the house's key, and that key
is in no table.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class VaultError(Exception):
    """The house's secret key is malformed, or is not the one that this was encrypted with."""


class Vault:
    """Encrypts and decrypts with one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError(f"the secret key must have {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self._key = key

    @classmethod
    def parse(cls, text: str) -> Vault:
        """From base64. Raises VaultError."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise VaultError("the secret key must be base64") from error

    def encrypt(self, plain: bytes) -> bytes:
        """A nonce and the ciphertext with its tag."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, None)

    def decrypt(self, encrypted: bytes) -> bytes:
        """What was encrypted. Raises VaultError for another key or a changed text."""
        try:
            return self._cipher.decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise VaultError(VaultError.__doc__) from error

    def derive(self, label: str) -> bytes:
        """A key of 32 bytes for one other purpose, which tells nothing of the house's key. Source: RFC 5869, HKDF."""
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=label.encode()).derive(self._key)


def new_key_text() -> str:
    """A new key, as base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
