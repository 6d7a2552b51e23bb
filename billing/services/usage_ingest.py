"""Usage path, step 1: record a batch, each record once, and tell it by one event.

Invariant: a record is there once per tenant and idempotency key, for ever; the batch's event is committed with its
records, and only when there are any. Which of two twins is first the unique key decides, not a look beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage

from billing.domain.errors import Invalid
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import audit, events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.usage_backfills import hold_open, note_batch
from billing.services.usage_batch import (
    BATCH_RECORDS_MAX,
    DUPLICATE,
    BatchAnswer,
    Outcome,
    UsageBatch,
    Verdict,
)
from billing.services.usage_checks import refusals, with_values
from billing.services.usage_directory import Names, look_up
from billing.services.usage_reported import usage_reported

_CONFLICT: Final = Verdict(
    Outcome.CONFLICT,
    "IDEMPOTENCY_KEY_REUSED",
    "Another record has this key; the earlier one stands. Give this one a key of its own.",
)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Sound records as the database takes them; `places` are their places in the batch."""

    places: Sequence[int]
    keys: Sequence[str]
    meter_ids: Sequence[UUID]
    customer_ids: Sequence[UUID]
    subscription_ids: Sequence[UUID | None] | None
    used_at_us: Sequence[int]
    quantities: Sequence[str]
    properties: Sequence[str | None] | None

    def only(self, chosen: Sequence[int]) -> _Columns:
        """The records at these places of the columns."""
        subscriptions, properties = self.subscription_ids, self.properties
        return _Columns(
            [self.places[n] for n in chosen],
            [self.keys[n] for n in chosen],
            [self.meter_ids[n] for n in chosen],
            [self.customer_ids[n] for n in chosen],
            subscriptions and [subscriptions[n] for n in chosen],
            [self.used_at_us[n] for n in chosen],
            [self.quantities[n] for n in chosen],
            properties and [properties[n] for n in chosen],
        )


async def record_usage(
    tx: Connection, tenant_id: UUID, batch: UsageBatch, cause: Cause, *, now: datetime
) -> BatchAnswer:
    """Records the sound records of the batch and answers for each; emits usage.reported if any was accepted.

    `now` is machine time. Raises Invalid when the batch is empty or has more than 1000 records, BackfillNotFound and
    BackfillClosed.
    """
    if not 1 <= len(batch) <= BATCH_RECORDS_MAX:
        raise Invalid.field("records", f"send 1 to {BATCH_RECORDS_MAX} records, not {len(batch)}.")
    if batch.backfill_id is not None:
        await hold_open(tx, tenant_id, batch.backfill_id)
    names = await look_up(tx, tenant_id, batch)
    batch = with_values(batch, names)
    today = await business_time(tx, tenant_id, now)
    verdicts = refusals(batch, names, today)
    sound = _columns(batch, names, verdicts)
    batch_id = new_id(now)
    verdicts |= await _write(tx, tenant_id, batch_id, sound, accepted_at=today)
    if len(verdicts) == len(batch):
        return BatchAnswer(len(batch), None, verdicts)
    owners = list(zip(sound.customer_ids, sound.meter_ids, strict=True))
    if verdicts:
        owners = [owners[n] for n, place in enumerate(sound.places) if place not in verdicts]
    event = usage_reported(tenant_id, batch_id, owners, cause, today)
    await events.emit(tx, [event], now=now)
    await audit.record(tx, tenant_id, audit.Change(event.resource), cause, now=now)
    if batch.backfill_id is not None:
        await note_batch(tx, tenant_id, batch.backfill_id, batch_id, len(owners))
    return BatchAnswer(len(batch), batch_id, verdicts)


def _columns(batch: UsageBatch, names: Names, refused: dict[int, Verdict]) -> _Columns:
    places: Sequence[int] = range(len(batch))
    if refused:
        places = [place for place in places if place not in refused]
        batch = _without(batch, places)
    external, internal = names.external_customers, names.customers
    quantities = batch.quantities
    if "" in quantities:  # of meters that count
        quantities = [text or "1" for text in quantities]
    subscriptions, properties = batch.subscription_ids, batch.properties
    return _Columns(
        places,
        batch.idempotency_keys,
        [names.meters[key].id for key in batch.meter_keys],
        [
            external.get(outer) or internal[inner]
            for outer, inner in zip(batch.external_customer_ids, batch.customer_ids, strict=True)
        ],
        None
        if subscriptions is None
        else [names.subscriptions[text][0] if text else None for text in subscriptions],
        [us for us in batch.used_at_us if us is not None],
        quantities,
        None
        if properties is None
        else [json.dumps(dict(one)) if one else None for one in properties],
    )


def _without(batch: UsageBatch, places: Sequence[int]) -> UsageBatch:
    """The records at `places` alone."""
    subscriptions, properties = batch.subscription_ids, batch.properties
    return UsageBatch(
        [batch.idempotency_keys[n] for n in places],
        [batch.meter_keys[n] for n in places],
        [batch.customer_ids[n] for n in places],
        [batch.external_customer_ids[n] for n in places],
        [batch.used_at_us[n] for n in places],
        [batch.quantities[n] for n in places],
        subscriptions and [subscriptions[n] for n in places],
        properties and [properties[n] for n in places],
    )


async def _write(
    tx: Connection, tenant_id: UUID, batch_id: UUID, sound: _Columns, *, accepted_at: datetime
) -> dict[int, Verdict]:
    """Inserts what is new; answers, by place in the batch, for what is not."""
    if not sound.keys:
        return {}
    fresh = sound
    if len(set(sound.keys)) < len(sound.keys):
        # The first of several with one key is the record; dict keeps the first place of each.
        firsts: dict[str, int] = {}
        for n, key in enumerate(sound.keys):
            firsts.setdefault(key, n)
        fresh = sound.only(list(firsts.values()))
    inserted = await queries.usage.insert_usage_records(
        tx,
        tenant_id=tenant_id,
        batch_id=batch_id,
        accepted_at=accepted_at,
        idempotency_keys=fresh.keys,
        meter_ids=fresh.meter_ids,
        customer_ids=fresh.customer_ids,
        subscription_ids=fresh.subscription_ids,
        used_at_us=fresh.used_at_us,
        quantities=fresh.quantities,
        properties=fresh.properties,
    )
    if inserted == len(sound.keys):
        return {}
    return await _compare(tx, tenant_id, batch_id, sound, set(fresh.places))


async def _compare(
    tx: Connection, tenant_id: UUID, batch_id: UUID, sound: _Columns, firsts: set[int]
) -> dict[int, Verdict]:
    """Duplicate or conflict, for each record whose key stands with another one.

    A statement of its own, after the insert has waited for any concurrent twin: so it sees what the twin committed.
    """
    rows = await queries.usage.compare_usage_records(
        tx,
        tenant_id=tenant_id,
        idempotency_keys=sound.keys,
        meter_ids=sound.meter_ids,
        customer_ids=sound.customer_ids,
        subscription_ids=sound.subscription_ids,
        used_at_us=sound.used_at_us,
        quantities=sound.quantities,
        properties=sound.properties,
    )
    verdicts = {}
    for row in rows:
        place = sound.places[row.place - 1]
        if row.batch_id != batch_id or place not in firsts:
            verdicts[place] = DUPLICATE if row.same else _CONFLICT
    return verdicts
