"""Invoice path, beside its steps: how a tenant appears on its invoices.

Invariant: a change shows on drafts and on invoices that become final after it; final ones keep what they say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.profiles
from queries.models import TenantProfile
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services import events
from billing.services.actor import Cause

CHANGEABLE: Final = (
    "legal_name", "address", "tax_number", "email", "website", "accent_color", "payment_instructions", "footer",
    "payment_terms_days",
)  # fmt: skip
_COLOR: Final = re.compile(r"(#[0-9a-f]{6})?")


async def update_profile(
    tx: Connection,
    tenant_id: UUID,
    values: Mapping[str, str | int | None],
    cause: Cause,
    *,
    now: datetime,
) -> TenantProfile:
    """The changed profile; `values` by field, of CHANGEABLE. Emits tenant.profile.updated. Raises Invalid."""
    given = dict(values)
    color = given.get("accent_color")
    if isinstance(color, str):
        given["accent_color"] = color.lower()
        if not _COLOR.fullmatch(color.lower()):
            raise Invalid.field("accent_color", "write six hexadecimal digits, such as #1d4ed8")
    await queries.profiles.make_tenant_profile(tx, tenant_id=tenant_id, now=now)
    before = await queries.profiles.lock_tenant_profile(tx, tenant_id=tenant_id)
    assert before is not None, "it was just made"
    wanted = replace(before, **given)  # type: ignore[arg-type] # each by its field's name
    after = await queries.profiles.update_tenant_profile(
        tx,
        tenant_id=tenant_id,
        legal_name=wanted.legal_name,
        address=wanted.address,
        tax_number=wanted.tax_number,
        email=wanted.email,
        website=wanted.website,
        accent_color=wanted.accent_color,
        payment_instructions=wanted.payment_instructions,
        footer=wanted.footer,
        payment_terms_days=wanted.payment_terms_days,
        now=now,
    )
    assert after is not None, "it is locked"
    resource = encode(Prefix.TENANT, tenant_id)
    payload = tenant_events_pb2.TenantProfileUpdated(tenant_id=resource, fields=sorted(given))
    event = events.NewEvent(tenant_id, resource, after.version, payload, now, cause)
    await events.emit(tx, [event], now=now)
    return after


async def get_profile(tx: Connection, tenant_id: UUID) -> TenantProfile | None:
    """The profile; None before the first change."""
    return await queries.profiles.get_tenant_profile(tx, tenant_id=tenant_id)
