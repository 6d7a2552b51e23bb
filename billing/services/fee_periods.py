"""Invoice path, step 1, and subscription path: who writes what an invoice charges for licensed items.

Invariant: a fee is charged for each item and instant of a billed period once, less what was given back; what an invoice
charges is written with its cycle, under the subscription's lock, and computed from these rows alone, so it does not
move when the subscription changes afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import queries.fee_periods
from queries.models import Subscription

from billing.domain.period import Period
from billing.runtime.db import Connection

# The invoice of another system, which has charged the period that an imported subscription is in.
IMPORTED: Final = "imported"


class FeeReason(StrEnum):
    """Why a fee period is there: a billing period began, or a change charges or gives back a part of one."""

    PERIOD = "period"
    DEBIT = "debit"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class FeesOf:
    """A billing period whose fees are to be charged; `start_kind` is the invoice at its start.

    `boundary` is that invoice's, and differs from the period's start where a change by day charges from midnight on.
    """

    row: Subscription
    period: Period
    nominal: Period
    start_kind: str
    boundary: datetime
    reason: FeeReason = FeeReason.PERIOD


async def make_fee_periods(tx: Connection, begun: Sequence[FeesOf]) -> None:
    """The charges of billing periods for every licensed item; those that are there stay as they are."""
    if not begun:
        return
    await queries.fee_periods.insert_fee_periods(
        tx,
        tenant_ids=[one.row.tenant_id for one in begun],
        subscription_ids=[one.row.id for one in begun],
        reasons=[one.reason for one in begun],
        start_kinds=[one.start_kind for one in begun],
        start_boundaries=[one.boundary for one in begun],
        period_starts=[one.period.start for one in begun],
        period_ends=[one.period.end for one in begun],
        nominal_starts=[one.nominal.start for one in begun],
        nominal_ends=[one.nominal.end for one in begun],
    )
