"""Usage path, beside step 1: a record is corrected or voided by a further revision.

Invariant: what a revision says would have been accepted as a record; which is the next revision is decided under the
root's row lock, from what stands there then. A finalized invoice never changes: a later one has the difference.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage_revisions
from queries.usage_revisions import ListUsageRevisionsRow

from billing.domain.decimals import parse_decimal
from billing.domain.errors import Invalid, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.usage import BACKDATING_LIMIT
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.business_time import business_time
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_of, instant_us, refusals, with_values
from billing.services.usage_directory import look_up
from billing.services.usage_records import RecordHistory, get_history
from billing.services.usage_reported import usage_reported
from billing.services.usage_revisions import REVISIONS_MAX, Author, revision_key

AMENDABLE: Final = ("quantity", "timestamp", "properties", "subscription_id")


class UsageRecordVoided(Precondition):
    """The record is voided; record it anew under another key."""

    reason = "USAGE_RECORD_VOIDED"


class AmendmentInvalid(Invalid):
    """The record would not be accepted with this content."""

    reason = "USAGE_AMENDMENT_INVALID"


class UsageTooOld(Invalid):
    """The record is older than 35 days; send allow_backfill to change it all the same."""

    reason = "TIMESTAMP_TOO_OLD"


class TooManyRevisions(Precondition):
    """The record has as many revisions as it may have; void it and record it anew."""

    reason = "TOO_MANY_REVISIONS"


@dataclass(frozen=True, slots=True)
class Amendment:
    """What a record is to say: the fields that `changed` names, of AMENDABLE, take these values.

    `used_at_us` is None where the timestamp is not valid.
    """

    changed: Collection[str]
    quantity: str = ""
    used_at_us: int | None = None
    properties: Mapping[str, str] | None = None
    subscription_id: str = ""


@dataclass(frozen=True, slots=True)
class _Content:
    """What a revision says."""

    voided: bool
    quantity: str
    used_at_us: int
    properties: str | None
    subscription_id: UUID | None


async def amend_usage(
    tx: Connection,
    tenant_id: UUID,
    key: str,
    amendment: Amendment,
    author: Author,
    *,
    now: datetime,
) -> RecordHistory:
    """The record with a further revision, unless the amendment changes nothing; emits usage.reported.

    `now` is machine time. Raises UsageRecordNotFound, UsageRecordVoided, AmendmentInvalid, UsageTooOld,
    TooManyRevisions, Invalid.
    """
    unknown = sorted(set(amendment.changed) - set(AMENDABLE))
    if unknown or not amendment.changed:
        raise Invalid.field("update_mask", f"must name fields of: {', '.join(AMENDABLE)}.")
    history = await _locked(tx, tenant_id, key)
    today = await business_time(tx, tenant_id, now)
    _refuse_old(history.latest, today, author)
    if history.latest.voided:
        raise UsageRecordVoided(metadata={"idempotency_key": key[:64]})
    batch = _amended(history.latest, amendment, allow_backfill=author.allow_backfill)
    content = await _checked(tx, tenant_id, batch, history.latest, today)
    return await _revise(tx, history, content, author, today=today, now=now)


async def void_usage(
    tx: Connection,
    tenant_id: UUID,
    key: str,
    author: Author,
    *,
    now: datetime,
) -> RecordHistory:
    """The record with a revision that does not count, unless it is voided already; emits usage.reported.

    Raises UsageRecordNotFound, UsageTooOld.
    """
    history = await _locked(tx, tenant_id, key)
    today = await business_time(tx, tenant_id, now)
    if history.latest.voided:
        return history
    _refuse_old(history.latest, today, author)
    content = replace(_content(history.latest), voided=True)
    return await _revise(tx, history, content, author, today=today, now=now)


async def _locked(tx: Connection, tenant_id: UUID, key: str) -> RecordHistory:
    """The record with its revisions, which nobody else adds to now."""
    await queries.usage_revisions.lock_usage_roots(tx, tenant_id=tenant_id, idempotency_keys=[key])
    return await get_history(tx, tenant_id, key)


def _refuse_old(row: ListUsageRevisionsRow, today: datetime, author: Author) -> None:
    if today - row.used_at > BACKDATING_LIMIT and not author.allow_backfill:
        raise UsageTooOld(metadata={"timestamp": row.used_at.isoformat()})


def _amended(
    row: ListUsageRevisionsRow, amendment: Amendment, *, allow_backfill: bool
) -> UsageBatch:
    """The record as it is to be, as if it were sent."""
    changed = amendment.changed
    stored = json.loads(row.properties) if row.properties else None
    named = encode(Prefix.SUBSCRIPTION, row.subscription_id) if row.subscription_id else ""
    used_at_us = amendment.used_at_us if "timestamp" in changed else instant_us(row.used_at)
    return UsageBatch(
        idempotency_keys=[row.root_key or row.idempotency_key],
        meter_keys=[row.meter_key],
        customer_ids=[encode(Prefix.CUSTOMER, row.customer_id)],
        external_customer_ids=[""],
        used_at_us=[used_at_us],
        quantities=[amendment.quantity if "quantity" in changed else f"{row.quantity:f}"],
        subscription_ids=[amendment.subscription_id if "subscription_id" in changed else named],
        properties=[amendment.properties if "properties" in changed else stored],
        allow_backfill=allow_backfill,
    )


async def _checked(
    tx: Connection,
    tenant_id: UUID,
    batch: UsageBatch,
    row: ListUsageRevisionsRow,
    today: datetime,
) -> _Content:
    """What the revision says. Raises AmendmentInvalid; that a meter is archived by now is no reason."""
    names = await look_up(tx, tenant_id, batch)
    batch = with_values(batch, names)
    refusal = refusals(batch, names, today).get(0)
    if refusal is not None and refusal.reason != "METER_ARCHIVED":
        raise AmendmentInvalid(refusal.message, metadata={"cause": refusal.reason})
    (properties,), (subscription,) = batch.properties or [None], batch.subscription_ids or [""]
    (used_at_us,) = batch.used_at_us
    assert used_at_us is not None, "refused above"
    return _Content(
        voided=False,
        quantity=batch.quantities[0] or "1",  # of a count meter
        used_at_us=used_at_us,
        properties=json.dumps(dict(properties)) if properties else None,
        subscription_id=names.subscriptions[subscription][0] if subscription else None,
    )


def _content(row: ListUsageRevisionsRow) -> _Content:
    properties = json.dumps(json.loads(row.properties)) if row.properties else None
    return _Content(
        row.voided,
        f"{row.quantity:f}",
        instant_us(row.used_at),
        properties,
        row.subscription_id,
    )


async def _revise(
    tx: Connection,
    history: RecordHistory,
    content: _Content,
    author: Author,
    *,
    today: datetime,
    now: datetime,
) -> RecordHistory:
    latest = history.latest
    key = latest.root_key or latest.idempotency_key
    if _comparable(content) == _comparable(_content(latest)):
        return history
    if latest.revision >= REVISIONS_MAX and not content.voided:
        raise TooManyRevisions(metadata={"idempotency_key": key[:64], "limit": str(REVISIONS_MAX)})
    batch_id = new_id(now)
    await queries.usage_revisions.insert_usage_revision(
        tx,
        tenant_id=latest.tenant_id,
        idempotency_key=revision_key(now),
        batch_id=batch_id,
        root_key=key,
        revision=latest.revision + 1,
        voided=content.voided,
        meter_id=latest.meter_id,
        customer_id=latest.customer_id,
        subscription_id=content.subscription_id,
        used_at=instant_of(content.used_at_us),
        quantity=parse_decimal(content.quantity, path="quantity"),
        properties=content.properties,
        accepted_at=today,
        note=author.note or None,
    )
    owner = (latest.customer_id, latest.meter_id)
    event = usage_reported(latest.tenant_id, batch_id, [owner], author.cause, today)
    await events.emit(tx, [event], now=now)
    return await get_history(tx, latest.tenant_id, key)


def _comparable(content: _Content) -> tuple[object, ...]:
    """What tells two contents apart: 1.0 is 1, and properties have no order."""
    properties = json.loads(content.properties) if content.properties else {}
    return (
        content.voided,
        parse_decimal(content.quantity, path="quantity"),
        content.used_at_us,
        sorted(properties.items()),
        content.subscription_id,
    )
