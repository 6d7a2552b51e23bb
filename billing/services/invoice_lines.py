"""Invoice path, step 4: the lines and totals of a draft.

Invariant: one function computes them, for the preview (in one snapshot) and for finalization (under the locks), so
the preview is exactly what finalizing would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from uuid import UUID

from queries.models import FeePeriod, Invoice

from billing.domain.errors import BillingError
from billing.runtime.db import Connection
from billing.services.commitment_lines import commitment_lines
from billing.services.draft_facts import DraftFacts, read_facts
from billing.services.draft_money import Computed, DraftMoney, in_order, read_money
from billing.services.draft_periods import PeriodsByDraft, list_periods, share_out
from billing.services.fee_lines import fee_lines
from billing.services.usage_lines import adjustment_lines, usage_lines

NONE_TO_COME: Final[Mapping[UUID, Sequence[FeePeriod]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Uncomputed:
    """Why a draft's lines cannot be computed now."""

    error: BillingError


async def preview(
    tx: Connection, draft: Invoice, to_come: Sequence[FeePeriod] = ()
) -> Computed | Uncomputed:
    """What finalizing the draft alone would give now. `tx` must read one snapshot.

    The draft need not be stored, and neither the fees `to_come`.
    """
    periods = share_out([draft], await list_periods(tx, [draft]))
    return (await compute(tx, [draft], periods, {draft.id: to_come}))[draft.id]


async def compute(
    tx: Connection,
    drafts: Sequence[Invoice],
    periods: PeriodsByDraft,
    to_come: Mapping[UUID, Sequence[FeePeriod]] = NONE_TO_COME,
) -> dict[UUID, Computed | Uncomputed]:
    """Lines and totals by invoice id, over the usage periods given.

    One draft that cannot be computed does not hold back the others.
    """
    money = await read_money(tx, drafts)
    of_subscriptions = [draft for draft in drafts if draft.subscription_id]
    facts = await _read_facts(tx, of_subscriptions, periods, to_come)
    return {draft.id: _computed(draft, facts.get(draft.id), money) for draft in in_order(drafts)}


async def _read_facts(
    tx: Connection,
    drafts: Sequence[Invoice],
    periods: PeriodsByDraft,
    to_come: Mapping[UUID, Sequence[FeePeriod]],
) -> Mapping[UUID, DraftFacts | BillingError]:
    """The facts of subscriptions' drafts; read for each alone where those of one cannot be had."""
    if not drafts:
        return {}
    try:
        facts = await read_facts(tx, drafts, periods, to_come)
    except BillingError as error:
        if len(drafts) == 1:
            return {drafts[0].id: error}
        alone = [await _read_facts(tx, [draft], periods, to_come) for draft in drafts]
        return {identity: found for one in alone for identity, found in one.items()}
    return {draft.id: facts for draft in drafts}


def _computed(
    draft: Invoice, facts: DraftFacts | BillingError | None, money: DraftMoney
) -> Computed | Uncomputed:
    """`facts` are None for a manual invoice, which has items alone."""
    if isinstance(facts, BillingError):
        return Uncomputed(facts)
    try:
        lines = money.item_lines(draft)
        if facts is None:
            return money.settle(draft, lines, {})
        billed = [
            *usage_lines(draft, facts),
            *adjustment_lines(draft, facts),
            *fee_lines(draft, facts),
            *commitment_lines(draft, facts),
        ]
        return money.settle(draft, billed + lines, facts.prices)
    except BillingError as error:
        return Uncomputed(error)
