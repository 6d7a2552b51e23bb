"""The rim, step 4: fields that requests may leave out, and what update masks name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from tollway.type.v1 import money_pb2

from billing.domain.decimals import parse_decimal
from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode
from billing.domain.money import Money
from server.convert import from_timestamp


def instant(request: Message, name: str) -> datetime | None:
    """The instant in a field of a request; None where it is unset. Raises Invalid."""
    if not request.HasField(name):
        return None
    return from_timestamp(getattr(request, name), path=name)


def from_money(amount: money_pb2.Money, *, path: str = "amount") -> Money:
    """An amount from the wire. Raises UnknownCurrency, or Invalid beyond 64 bits."""
    if amount.minor_units == -(2**63):
        raise Invalid.field(path, "must be within 64 bits of minor units")
    return Money(amount.minor_units, amount.currency_code)


def named_or_none(prefix: Prefix, text: str, *, path: str) -> UUID | None:
    """The id that a request may give; None for an empty text. Raises InvalidId."""
    return decode(prefix, text, path=path) if text else None


def decimal_or_none(text: str, *, path: str) -> Decimal | None:
    """A decimal from the wire; None for an empty text. Raises InvalidDecimal."""
    return parse_decimal(text, path=path) if text else None


def given(request: Message, name: str) -> Any:
    """A field's value; None for an optional one that is unset."""
    optional = bool(request.DESCRIPTOR.fields_by_name[name].has_presence)
    return None if optional and not request.HasField(name) else getattr(request, name)


def masked(mask: FieldMask, changeable: Sequence[str]) -> list[str]:
    """The fields that an update names, of those that it may. Raises Invalid."""
    names = ", ".join(changeable)
    if not mask.paths:
        raise Invalid.field("update_mask", f"must name a field: {names}")
    unknown = sorted(set(mask.paths) - set(changeable))
    if unknown:
        raise Invalid.field(
            "update_mask", f"{unknown[0]!r} cannot be changed; possible is: {names}"
        )
    return sorted(set(mask.paths))
