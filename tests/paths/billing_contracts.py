"""The plain model of billing: subscriptions begin, change, renew and end, and what is charged and given back for that.

A fee is charged in advance for the period that begins. A change gives back what is left of the charge and charges what
comes instead: to the second, or by day. By day the day of a change belongs to the new price, and that of an end is
billed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tests.paths.billing_facts import (
    Bill,
    Change,
    Cycle,
    End,
    Facts,
    Fee,
    Period,
    Plan,
    Scheduled,
    Subscription,
)
from tests.paths.billing_sums import full_period, midnight_after, midnight_before

GRACE = timedelta(hours=1)
LATE = timedelta(days=35)


def subscribe(facts: Facts, customer: str, zone: str, plan: Plan) -> Subscription:
    """Active at once: the first invoice charges the fee of the period that begins."""
    facts.ledger.setdefault(customer, [])
    made = Subscription(customer, zone, plan, facts.now)
    facts.subscriptions.append(made)
    draft(facts, made, "activation", facts.now, [begin(made, facts.now)])
    return made


def begin(sub: Subscription, start: datetime, charged_from: datetime | None = None) -> Fee:
    """A billing period from `start` to where the next one begins by the calendar; its charge."""
    full_start, end = full_period(sub.anchor, sub.plan.months, sub.zone, start)
    charged_from = charged_from or start
    key, plans = ("period", end), [(start, sub.plan)]
    sub.cycles.append(Cycle(start, charged_from, end, end - full_start, key, plans))
    sub.periods.append(Period(start, end, sub.plan.usage, sub.cycle))
    return _charge(sub, charged_from)


def renew(facts: Facts, sub: Subscription) -> None:
    """The period has ended, and the next begins."""
    ended = sub.cycle
    draft(facts, sub, "period", ended.end, [*ended.waiting, begin(sub, ended.end)])


def change(facts: Facts, sub: Subscription, wanted: Change) -> bool:
    """Changes a subscription now; False when that cannot be, and nothing happened."""
    plan, at, cycle = leads_to(facts, sub, wanted), free_instant(facts, sub), sub.cycle
    # At the very end of a period nothing is cut: the next one begins with what the change leaves.
    inside = at < cycle.end
    moves = plan is not None and plan.months != sub.plan.months
    if plan is None or (moves and inside and wanted.proration != "at_once"):
        return False
    old, quantity = sub.plan, wanted.quantity or sub.quantity
    has_other_fee = (plan.fee, quantity) != (old.fee, sub.quantity)
    sub.plan, sub.quantity = plan, quantity
    from_day = midnight_before(at, sub.zone) if plan.by_day else at
    cut = max(from_day, cycle.charged_from)
    if inside and moves:
        _end_period(facts, sub, "change", at, _give_back(facts, sub, cut), charged_from=cut)
    elif inside:
        if plan.usage is not old.usage:
            _cut_usage(sub, at)
        if plan.key != old.key and wanted.proration != "none":
            since = max(cut, cycle.start)
            cycle.plans = [one for one in cycle.plans if one[0] < since] + [(since, plan)]
        if has_other_fee and wanted.proration != "none":
            _prorate(facts, sub, at, cut, wanted)
    return True


def present(facts: Facts, sub: Subscription) -> datetime:
    """Now, and never before the period that it is in."""
    return max(facts.now, sub.cycle.start)


def free_instant(facts: Facts, sub: Subscription) -> datetime:
    """Now, or the next microsecond for which there is no invoice of a change that takes no more lines."""
    at = present(facts, sub)
    taken = [bill.key for bill in facts.bills if bill.sub is sub and bill.status != "draft"]
    while at < sub.cycle.end and ("change", at) in taken:
        at += timedelta(microseconds=1)
    return at


def leads_to(facts: Facts, sub: Subscription, wanted: Change) -> Plan | None:
    """The plan with the prices that a change leaves.

    None when one is not offered any more, or is not of the plan.
    """
    offered = facts.plans[wanted.plan or sub.plan.key]
    fee, usage = wanted.fee or sub.plan.fee, wanted.usage or sub.plan.usage
    new = {fee, usage} - {sub.plan.fee, sub.plan.usage}
    if not new <= {offered.fee, offered.usage}:
        return None
    if offered.key != sub.plan.key and len(new) < 2:
        return None
    return replace(offered, fee=fee, usage=usage)


def end(facts: Facts, sub: Subscription, *, credit: bool) -> None:
    """Ends it now; what is charged for the time behind is given back, unless nobody owes or paid it."""
    at, cycle = free_instant(facts, sub), sub.cycle
    cut = min(midnight_after(at, sub.zone) if sub.plan.by_day else at, cycle.end)
    sub.canceled_at, sub.late_at = at, at + LATE
    _end_period(facts, sub, "final", at, _give_back(facts, sub, cut, credit=credit))
    for one in facts.scheduled:
        if one.sub is sub and one.is_pending:
            one.status = "canceled"


def put_off(facts: Facts, sub: Subscription, due_at: datetime, what: Change | End) -> Scheduled:
    """Stores it; of ends the last one counts."""
    if isinstance(what, End):
        for one in facts.scheduled:
            if one.sub is sub and one.is_pending and isinstance(one.what, End):
                one.status = "canceled"
    made = Scheduled(sub, due_at, what)
    facts.scheduled.append(made)
    return made


def execute(facts: Facts, one: Scheduled) -> None:
    """Does what was put off."""
    one.status = "executed"
    if isinstance(one.what, End):
        end(facts, one.sub, credit=one.what.credit)
    elif not change(facts, one.sub, one.what):
        one.status = "failed"


def is_waived(facts: Facts, fee: Fee) -> bool:
    """Whether nobody owes or paid it."""
    return any(bill.waived and fee in bill.fees for bill in facts.bills)


def forget_credits(facts: Facts, sub: Subscription) -> None:
    """What is waived is not given back: what drafts and the next invoice were to give back of it goes."""
    final = [fee for bill in facts.bills if bill.counts for fee in bill.fees]
    to_come = [bill.fees for bill in facts.bills if bill.status == "draft"]
    to_come += [cycle.waiting for cycle in sub.cycles]
    for cycle in sub.cycles:
        for fee in list(cycle.fees):
            if fee.gives_back and fee not in final and is_waived(facts, fee.gives_back):
                cycle.fees.remove(fee)
                for fees in to_come:
                    if fee in fees:
                        fees.remove(fee)


def draft(
    facts: Facts,
    sub: Subscription,
    kind: str,
    boundary: datetime,
    fees: list[Fee],
    *,
    closed_at: datetime | None = None,
    within: bool = False,
) -> None:
    """An invoice that becomes final after its grace; what comes at its very instant joins it."""
    for bill in facts.bills:
        if bill.sub is sub and bill.key == (kind, boundary) and bill.status == "draft":
            bill.fees += fees
            bill.fees.sort(key=lambda fee: fee.number)
            bill.within &= within
            return
    finalize_at = (closed_at or facts.now) + GRACE
    facts.bills.append(Bill(sub, kind, boundary, finalize_at, fees, within))


def _prorate(facts: Facts, sub: Subscription, at: datetime, cut: datetime, wanted: Change) -> None:
    fees = [*_give_back(facts, sub, cut), _charge(sub, cut)]
    if wanted.proration == "next_invoice":
        sub.cycle.waiting += fees
    else:
        draft(facts, sub, "change", at, fees, closed_at=present(facts, sub), within=True)


def _end_period(
    facts: Facts,
    sub: Subscription,
    kind: str,
    at: datetime,
    given_back: list[Fee],
    *,
    charged_from: datetime | None = None,
) -> None:
    """The billing period ends now, by an invoice of its own; with `charged_from` another one begins.

    One that has only just begun ends nothing.
    """
    ended, closed_at = sub.cycle, present(facts, sub)
    ended.key, ended.end = (kind, at), at
    _cut_usage(sub, at)
    del sub.periods[-1]
    fees = [*ended.waiting, *given_back]
    if charged_from is not None:
        fees.append(begin(sub, at, charged_from))
    within = kind == "change" and ended.start == at
    draft(facts, sub, kind, at, fees, closed_at=closed_at, within=within)


def _cut_usage(sub: Subscription, at: datetime) -> None:
    """What is used from now on has another price."""
    old = sub.periods[-1]
    sub.periods.append(Period(at, old.end, sub.plan.usage, old.cycle))
    old.end = at
    if old.start == at:
        sub.periods.remove(old)


def _charge(sub: Subscription, start: datetime) -> Fee:
    cycle, price = sub.cycle, sub.plan.fee
    made = Fee(price.amount * sub.quantity, price.tax, start, cycle.end, cycle.full)
    cycle.fees.append(made)
    return made


def _give_back(facts: Facts, sub: Subscription, cut: datetime, *, credit: bool = True) -> list[Fee]:
    """What is charged for the time from `cut` on is not any more; what comes back of it."""
    given_back = []
    for charge in list(sub.charges):
        start = max(cut, charge.start)
        if charge.until > start:
            if credit and not is_waived(facts, charge):
                rate, tax = charge.rate, charge.tax
                given_back.append(Fee(rate, tax, start, charge.until, charge.full, charge))
            charge.until = cut
    sub.cycle.fees += given_back
    if cut <= sub.cycle.start and len(sub.cycles) > 1:
        # What is left, of a day that was charged from its midnight on, is of the time before.
        sub.cycles[-2].fees += sub.cycle.fees
        sub.cycle.fees.clear()
    return given_back
