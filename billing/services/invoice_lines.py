"""Invoice path, step 4: the lines and totals of a draft.

Invariant: one function computes them, for the preview (in one snapshot) and for finalization (under the locks), so
the preview is exactly what finalizing would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from queries.models import Invoice

from billing.domain import totals
from billing.domain.errors import BillingError, Precondition
from billing.domain.money import Money
from billing.domain.totals import Totals
from billing.runtime.db import Connection
from billing.services.draft_facts import DraftFacts, read_facts
from billing.services.draft_periods import PeriodsByDraft, list_periods, share_out
from billing.services.fee_lines import fee_lines
from billing.services.invoice_line import Line
from billing.services.usage_lines import adjustment_lines, usage_lines


@dataclass(frozen=True, slots=True)
class Computed:
    """What a draft is to become."""

    lines: Sequence[Line]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Uncomputed:
    """Why a draft's lines cannot be computed now."""

    error: BillingError


class NegativeTotal(Precondition):
    """The invoice's lines sum to less than nothing, and there is no credit balance to take the rest."""

    reason = "RATING_FAILED"


async def preview(tx: Connection, drafts: Sequence[Invoice]) -> dict[UUID, Computed | Uncomputed]:
    """What finalizing each of the drafts alone would give now, by invoice id. `tx` must read one snapshot."""
    outcomes: dict[UUID, Computed | Uncomputed] = {}
    for draft in drafts:
        periods = share_out([draft], await list_periods(tx, [draft]))
        outcomes |= await compute(tx, [draft], periods)
    return outcomes


async def compute(
    tx: Connection, drafts: Sequence[Invoice], periods: PeriodsByDraft
) -> dict[UUID, Computed | Uncomputed]:
    """Lines and totals by invoice id, over the usage periods given.

    One draft that cannot be computed does not hold back the others.
    """
    try:
        facts = await read_facts(tx, drafts, periods)
    except BillingError as error:
        if len(drafts) == 1:
            return {drafts[0].id: Uncomputed(error)}
        alone = [await compute(tx, [draft], periods) for draft in drafts]
        return {identity: outcome for one in alone for identity, outcome in one.items()}
    return {draft.id: _computed(draft, facts) for draft in drafts}


def _computed(draft: Invoice, facts: DraftFacts) -> Computed | Uncomputed:
    try:
        lines = [
            *usage_lines(draft, facts),
            *adjustment_lines(draft, facts),
            *fee_lines(draft, facts),
        ]
        summed = totals.invoice_totals(
            [totals.Line(line.amount) for line in lines], (), Money.zero(draft.currency)
        )
        if summed.to_credit_balance:
            raise NegativeTotal()
    except BillingError as error:
        return Uncomputed(error)
    return Computed(lines, summed)
