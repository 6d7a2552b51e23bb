"""Webhook path, beside it: the books.

Invariant: matched, counted when rows are made, equals the rows by state, at every moment. Both sides come from one
snapshot: the count and the rows are committed together, so nobody sees one without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import queries.webhook_history as statements
from queries.webhook_history import ListBalancesRow

from billing.runtime.db import Connection
from billing.services.webhooks import get_endpoint

FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Balance:
    """The books of some endpoints, and what matched and was filtered in the whole tenant."""

    endpoints: Sequence[ListBalancesRow]
    matched: int
    filtered: int


async def get_balance(
    tx: Connection, tenant_id: UUID, webhook_id: UUID | None, *, after: UUID, most: int
) -> Balance:
    """At most `most` endpoints above `after`; `tx` reads one snapshot. Raises EndpointNotFound."""
    if webhook_id is not None:
        await get_endpoint(tx, tenant_id, webhook_id)
    rows = await statements.list_balances(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, after=after, most=most
    )
    sums = await statements.sum_matches(tx, tenant_id=tenant_id)
    assert sums is not None, "sums are always a row"
    return Balance(rows, sums.matched, sums.filtered)


def is_balanced(row: ListBalancesRow) -> bool:
    """Whether what was counted equals what is there."""
    return row.matched == row.delivered + row.pending + row.parked + row.dead + row.canceled
