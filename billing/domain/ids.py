"""Every path: the names of things. UUIDs within, TypeID strings at the rim.

Invariant: `decode(prefix, encode(prefix, id)) == id`, and a string of one kind is never taken for
an id of another. Ids are made in billing/runtime/ids.py, where there is a clock and chance.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

from typeid import TypeID
from typeid.core.errors import TypeIDException

from billing.domain.errors import InvalidId

ID_LENGTH_MAX: Final = 40
_SUFFIX_LENGTH: Final = 26
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [first + second for first in _LETTERS for second in _LETTERS]  # ten bits each


class Prefix(StrEnum):
    """What an id names, as the first three letters of its string."""

    TENANT = "tnt"
    API_KEY = "key"
    OPERATOR_KEY = "opr"
    METER = "mtr"
    PLAN = "pln"
    PRICE = "prc"
    CUSTOMER = "cus"
    SUBSCRIPTION = "sub"
    SUBSCRIPTION_ITEM = "sit"
    SCHEDULED_CHANGE = "sch"
    EVENT = "evt"
    CORRELATION = "cor"
    USAGE_BATCH = "bat"
    USAGE_RECORD = "rec"
    USAGE_PERIOD = "upd"
    BACKFILL = "bkf"
    THRESHOLD = "uth"
    THRESHOLD_CROSSING = "utc"
    CHARGE = "chg"
    CYCLE = "cyc"
    INVOICE = "inv"
    INVOICE_LINE = "lin"
    CREDIT_NOTE = "crn"
    CREDIT_ENTRY = "cre"
    PAYMENT = "pay"
    DISCOUNT = "dsc"
    INVOICE_ITEM = "itm"
    WEBHOOK_ENDPOINT = "whe"
    WEBHOOK_SECRET = "whs"  # noqa: S105 - a prefix, not a password
    DELIVERY = "dlv"
    RECOVERY = "wrc"
    DELIVERY_ATTEMPT = "att"
    DEAD_LETTER = "ded"
    REPLAY = "rpl"
    TEST_CLOCK = "clk"
    AUDIT_ENTRY = "aud"


def encode(prefix: Prefix, identity: UUID) -> str:
    """`sub_01j…`: 3 letters, an underscore and 26 letters of base32, as the library writes them."""
    # Written here, two letters at a time: an invoice's events hold dozens, and the library takes thirty times as long.
    bits, pairs = identity.int, _PAIRS
    return (
        f"{prefix.value}_{_first_letters(bits >> 80)}"
        f"{pairs[bits >> 70 & 1023]}{pairs[bits >> 60 & 1023]}{pairs[bits >> 50 & 1023]}{pairs[bits >> 40 & 1023]}"
        f"{pairs[bits >> 30 & 1023]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
    )


# What is made in one millisecond shares them.
@lru_cache(maxsize=4096)
def _first_letters(milliseconds: int) -> str:
    """The ten letters of a UUIDv7's time, its first 48 bits."""
    return "".join([_PAIRS[milliseconds >> shift & 1023] for shift in range(40, -1, -10)])


def decode(prefix: Prefix, text: str, *, path: str = "id") -> UUID:
    """The UUID in `text`, or InvalidId when it is not a canonical id of this kind."""
    if (
        not text.startswith(prefix.value + "_")
        or len(text) != len(prefix.value) + 1 + _SUFFIX_LENGTH
    ):
        raise _refuse(prefix, text, path)
    try:
        return UUID(bytes=TypeID.from_string(text).uuid_bytes)
    except TypeIDException as error:
        raise _refuse(prefix, text, path) from error


def _refuse(prefix: Prefix, text: str, path: str) -> InvalidId:
    kind = prefix.name.lower().replace("_", " ")
    shown = text[:ID_LENGTH_MAX]
    return InvalidId.field(
        path,
        f"{shown!r} does not name a thing of kind {kind}; give {prefix.value}_ and the"
        f" {_SUFFIX_LENGTH} letters that were answered with it.",
    )
