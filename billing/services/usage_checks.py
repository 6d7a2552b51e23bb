"""Usage path, step 1: is each record sound?

Invariant: every record is judged alone and one bad record never fails its batch. Each check looks at a whole column at
once and goes through it record by record only when something in it is not plain: nearly every batch is sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from billing.domain.decimals import parse_decimal
from billing.domain.errors import InvalidDecimal
from billing.domain.usage import (
    BACKDATING_LIMIT,
    FUTURE_LIMIT,
    TimestampRefusal,
    refuse_timestamp,
)
from billing.services.usage_batch import Properties, UsageBatch, Verdict, rejected
from billing.services.usage_directory import Names

KEY_LENGTH_MAX: Final = 200
# One record can move an amount, and one absurd record must not make its whole period unpayable.
QUANTITY_LIMIT: Final = 10**15
PROPERTIES_MAX: Final = 20
PROPERTY_KEY_LENGTH_MAX: Final = 64
PROPERTY_VALUE_LENGTH_MAX: Final = 256

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# What needs no closer look: a plain decimal that is within every limit of billing.domain.decimals.
_PLAIN_DECIMAL: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,12})?").fullmatch
_NUL: Final = "\0"
# Of these a record without a quantity counts one.
_COUNTING: Final = ("count", "unique")

Refusals = Iterator[tuple[int, Verdict]]


def refusals(batch: UsageBatch, names: Names, now: datetime) -> dict[int, Verdict]:
    """The records that cannot be taken in, by place, with the first reason found. `now` is business time."""
    found: dict[int, Verdict] = {}
    checks: tuple[Callable[[], Refusals], ...] = (
        lambda: _keys(batch.idempotency_keys),
        lambda: _meters(batch, names),
        lambda: _customers(batch, names),
        lambda: _subscriptions(batch, names),
        lambda: _unnamed_subscriptions(batch, names),
        lambda: _timestamps(batch, now),
        lambda: _needed_properties(batch, names),
        lambda: _quantities(batch, names),
        lambda: _properties(batch.properties),
    )
    for check in checks:
        for place, verdict in check():
            found.setdefault(place, verdict)
    return found


def instant_us(instant: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def instant_of(us: int) -> datetime:
    """The instant so many microseconds after the beginning of 1970."""
    return _EPOCH + us * _MICROSECOND


def _keys(keys: Sequence[str]) -> Refusals:
    if all(keys) and max(map(len, keys)) <= KEY_LENGTH_MAX and _NUL not in "".join(keys):
        return
    for place, key in enumerate(keys):
        if not 1 <= len(key) <= KEY_LENGTH_MAX or _NUL in key:
            yield (
                place,
                rejected(
                    "IDEMPOTENCY_KEY_INVALID",
                    f"Give each record a key of 1 to {KEY_LENGTH_MAX} characters, without NUL.",
                ),
            )


def _meters(batch: UsageBatch, names: Names) -> Refusals:
    wrong = {}
    for key in set(batch.meter_keys):
        meter = names.meters.get(key)
        if meter is None:
            wrong[key] = rejected("METER_NOT_FOUND", f"There is no meter {key[:64]!r}; create it.")
        elif meter.archived:
            wrong[key] = rejected(
                "METER_ARCHIVED", f"The meter {key!r} is archived and takes no usage."
            )
    if wrong:
        yield from ((p, wrong[key]) for p, key in enumerate(batch.meter_keys) if key in wrong)


def _customers(batch: UsageBatch, names: Names) -> Refusals:
    external, internal = names.external_customers, names.customers
    pairs = list(zip(batch.external_customer_ids, batch.customer_ids, strict=True))
    if all([outer in external or inner in internal for outer, inner in pairs]):  # noqa: C419 - twice as fast as a generator
        return
    for place, (outer, inner) in enumerate(pairs):
        if outer in external or inner in internal:
            continue
        yield (
            place,
            names.malformed.get(inner)
            or rejected(
                "CUSTOMER_NOT_FOUND",
                f"There is no customer {(outer or inner)[:128]!r}; create it or correct the id.",
            ),
        )


def _subscriptions(batch: UsageBatch, names: Names) -> Refusals:
    for place, text in enumerate(batch.subscription_ids or ()):
        if not text:
            continue
        owner = names.customer(batch, place)
        found = names.subscriptions.get(text)
        if found is None or found[1] != owner:
            yield (
                place,
                names.malformed.get(text)
                or rejected(
                    "SUBSCRIPTION_NOT_FOUND",
                    f"The customer has no subscription {text[:40]!r}; leave it out or correct it.",
                ),
            )


def _unnamed_subscriptions(batch: UsageBatch, names: Names) -> Refusals:
    """Of customers whose items of the meter demand a name: which of their subscriptions is it for?"""
    if not names.naming:
        return
    given = batch.subscription_ids or [""] * len(batch)
    for place, (text, used_at_us) in enumerate(zip(given, batch.used_at_us, strict=True)):
        meter = names.meters.get(batch.meter_keys[place])
        owner = names.customer(batch, place)
        if text or meter is None or owner is None or used_at_us is None:
            continue
        for begin_us, end_us in names.naming.get((owner, meter.id), ()):
            if begin_us <= used_at_us < end_us:
                yield (
                    place,
                    rejected(
                        "SUBSCRIPTION_REQUIRED",
                        "Name the subscription: the customer's usage of this meter may be for several.",
                    ),
                )
                break


def _timestamps(batch: UsageBatch, now: datetime) -> Refusals:
    column = batch.used_at_us
    allow_backfill = batch.allow_backfill or batch.backfill_id is not None
    earliest = 0 if allow_backfill else max(instant_us(now - BACKDATING_LIMIT), 0)
    latest = instant_us(now + FUTURE_LIMIT)
    sound = [us for us in column if us is not None and earliest <= us <= latest]
    if len(sound) == len(column):
        return
    for place, us in enumerate(column):
        if us is None or not earliest <= us <= latest:
            yield place, _wrong_timestamp(us, now, allow_backfill=allow_backfill)


def _wrong_timestamp(us: int | None, now: datetime, *, allow_backfill: bool) -> Verdict:
    try:
        instant = _EPOCH + timedelta(microseconds=-1 if us is None else us)
    except OverflowError:
        instant = _EPOCH - _MICROSECOND
    if instant < _EPOCH:
        return rejected(
            "TIMESTAMP_INVALID", "Give each record the time it was used, from 1970 to 9999."
        )
    if refuse_timestamp(instant, now, allow_backfill=allow_backfill) is TimestampRefusal.IN_FUTURE:
        return rejected(
            "TIMESTAMP_IN_FUTURE",
            f"The timestamp is more than {FUTURE_LIMIT // timedelta(minutes=1)} minutes ahead"
            f" of the tenant's time, which is {now.isoformat()}.",
        )
    return rejected(
        "TIMESTAMP_TOO_OLD",
        f"The timestamp is older than {BACKDATING_LIMIT.days} days; send it with allow_backfill.",
    )


def with_values(batch: UsageBatch, names: Names) -> UsageBatch:
    """The batch with the quantities of meters that find them in a property; an absent one is left empty."""
    if all(meter.value_property is None for meter in names.meters.values()):
        return batch
    quantities = list(batch.quantities)
    for place, key in enumerate(batch.meter_keys):
        meter = names.meters.get(key)
        if meter is not None and meter.value_property is not None:
            quantities[place] = _properties_at(batch, place).get(meter.value_property, "")
    return replace(batch, quantities=quantities)


def _properties_at(batch: UsageBatch, place: int) -> Properties:
    return (batch.properties[place] if batch.properties is not None else None) or {}


def _needed_properties(batch: UsageBatch, names: Names) -> Refusals:
    needed = {
        key: [name for name in (meter.value_property, meter.unique_property) if name is not None]
        for key, meter in names.meters.items()
    }
    if not any(needed.values()):
        return
    for place, key in enumerate(batch.meter_keys):
        for name in needed.get(key, ()):
            if name not in _properties_at(batch, place):
                yield (
                    place,
                    rejected(
                        "PROPERTIES_INVALID", f"The meter {key!r} needs the property {name!r}."
                    ),
                )


def _quantities(batch: UsageBatch, names: Names) -> Refusals:
    if all(map(_PLAIN_DECIMAL, batch.quantities)):
        return
    for place, text in enumerate(batch.quantities):
        meter = names.meters.get(batch.meter_keys[place])
        aggregation = meter.aggregation if meter is not None else ""
        if not text and aggregation in _COUNTING:
            continue  # counts one
        if (message := _wrong_quantity(text, signed=aggregation == "weighted_sum")) is not None:
            yield place, rejected("QUANTITY_INVALID", message)


def _wrong_quantity(text: str, *, signed: bool) -> str | None:
    """`signed`: the quantity is a change of a level, which may go down."""
    try:
        quantity = parse_decimal(text, path="quantity")
        if quantity < 0 and not signed:
            return "quantity: it must not be negative."
        if abs(quantity) >= QUANTITY_LIMIT:
            return f"quantity: it must be below {QUANTITY_LIMIT}; use a larger unit."
    except InvalidDecimal as error:
        return error.message
    return None


def _properties(column: Sequence[Properties | None] | None) -> Refusals:
    for place, properties in enumerate(column or ()):
        if properties and (message := _wrong_properties(properties)) is not None:
            yield place, rejected("PROPERTIES_INVALID", message)


def _wrong_properties(properties: Properties) -> str | None:
    if len(properties) > PROPERTIES_MAX:
        return f"properties: give at most {PROPERTIES_MAX}, not {len(properties)}."
    for name, value in properties.items():
        if not 1 <= len(name) <= PROPERTY_KEY_LENGTH_MAX:
            return f"properties: a key has 1 to {PROPERTY_KEY_LENGTH_MAX} characters."
        if len(value) > PROPERTY_VALUE_LENGTH_MAX:
            return (
                f"properties[{name!r}]: a value has at most {PROPERTY_VALUE_LENGTH_MAX} characters."
            )
        if _NUL in name or _NUL in value:
            return f"properties[{name!r}]: NUL is not allowed."
    return None
