"""Subscription path, step 3: a subscription's items are added, changed and removed, and their usage follows.

Invariant: another price of a metered item ends its usage period and begins another; a removed item's usage ends, an
added one's begins; whatever was folded behind the instant is sent to the fold again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import queries.subscription_changes
from queries.models import Subscription, SubscriptionItem, UsagePeriod

from billing.domain.pricing import BillingTiming
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.fee_changes import LicensedItem
from billing.services.subscription_edits import Edit, refuse_priced_elsewhere
from billing.services.subscription_hold import Moment
from billing.services.usage_coverage import begin_usage, end_usage, reprice_usage
from billing.services.usage_reassign import reassign_usage


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that was made, and the item's row: as it is now, or as it was when it was removed."""

    edit: Edit
    item: SubscriptionItem

    @property
    def licensed(self) -> LicensedItem | None:
        """The licensed item as it is now; None for a metered or removed one."""
        price = self.edit.price
        if price is None or price.meter_id:
            return None
        timing = BillingTiming(price.billing_timing)
        return LicensedItem(self.item.id, price.id, self.edit.quantity, timing)


async def edit_items(
    tx: Connection, row: Subscription, edits: Sequence[Edit], moment: Moment
) -> list[Edited]:
    """Writes the items, removals first. Raises MeterAlreadyPriced."""
    ordered = sorted(edits, key=lambda edit: edit.price is not None)
    added = [edit.price.meter_id for edit in edits if edit.item is None and edit.price]
    done = [await _edit_item(tx, row, edit, moment) for edit in ordered if edit.item]
    meters = [meter for meter in added if meter]
    if meters:
        await refuse_priced_elsewhere(tx, row, meters, moment.at)
    return done + [await _edit_item(tx, row, edit, moment) for edit in ordered if not edit.item]


async def follow_with_usage(
    tx: Connection,
    row: Subscription,
    edited: Sequence[Edited],
    held: Sequence[UsagePeriod],
    moment: Moment,
) -> None:
    """Cuts, begins and ends the usage periods of metered items. `held` are the locked rows."""
    metered = [one for one in edited if one.edit.is_metered]
    removed = [one.item.id for one in metered if one.edit.price is None]
    await end_usage(tx, row, removed, moment.at)
    for one in metered:
        if one.edit.item is None:
            await begin_usage(tx, row, one.item, moment.at)
        elif one.edit.price is not None:
            await reprice_usage(tx, held, one.item, one.edit.price.id, moment.at)
    await reassign_usage(
        tx,
        row,
        item_ids=[one.item.id for one in metered],
        meter_ids=[one.item.meter_id for one in metered if one.item.meter_id],
        at=moment.at,
        moment=moment,
    )


async def _edit_item(tx: Connection, row: Subscription, edit: Edit, moment: Moment) -> Edited:
    item, price = edit.item, edit.price
    if item is None:
        assert price is not None, "an item is added with a price"
        made = await queries.subscription_changes.insert_item(
            tx,
            tenant_id=row.tenant_id,
            id=new_id(moment.now),
            subscription_id=row.id,
            customer_id=row.customer_id,
            price_id=price.id,
            meter_id=price.meter_id,
            quantity=edit.quantity,
            subscription_required=edit.subscription_required,
            created_at=moment.today,
            started_at=moment.at,
        )
        assert made is not None, "an insert without conflict answers its row"
        return Edited(edit, made)
    if price is None:
        await queries.subscription_changes.end_item(
            tx, tenant_id=row.tenant_id, id=item.id, ended_at=moment.at
        )
        return Edited(edit, item)
    await queries.subscription_changes.update_item(
        tx, tenant_id=row.tenant_id, id=item.id, price_id=price.id, quantity=edit.quantity
    )
    return Edited(edit, replace(item, price_id=price.id, quantity=edit.quantity))
