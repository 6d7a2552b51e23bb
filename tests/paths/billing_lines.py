"""The plain model of billing: which lines a draft has now, with their discounts and taxes.

A usage period that was billed is adjusted by whichever invoice of its subscription becomes final next, whenever its
amount by the records is not what final invoices carry for it. What corrects or gives back has the discount and the tax
of what it corrects: nothing comes back but what was billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tests.paths.billing_facts import (
    PROMISED,
    USED,
    Bill,
    Cycle,
    Discount,
    Facts,
    Fee,
    Line,
    Period,
    Subscription,
)
from tests.paths.billing_sums import half_away, share, spread


def lines_of(facts: Facts, bill: Bill) -> tuple[list[Line], list[tuple[Discount, int]]]:
    """The lines that a draft has now, and what each discount takes off them."""
    own = own_periods(bill)
    billed = [period for period in bill.sub.periods if period.is_billed]
    lines: list[Line] = []
    for period in own:
        carried = list(_carried(facts, bill.sub, period))
        lines += _difference(facts, bill, period) if carried else _cost(facts, bill, period)
    for period in billed:
        if period not in own:
            lines += _difference(facts, bill, period)
    lines += [_fee_line(facts, fee) for fee in bill.fees]
    cycles = {period.cycle.key: period.cycle for period in [*own, *billed]}
    for key in sorted(cycles):
        lines += _promised(facts, bill, cycles[key])
    return lines, _lower(facts, bill, lines)


def own_periods(bill: Bill) -> list[Period]:
    """The usage that a bill is the first to charge: of each price of the billing period that it ends."""
    return [period for period in bill.sub.periods if period.key == bill.key]


def is_left(facts: Facts, offer: Discount) -> bool:
    """Whether a discount may lower a further invoice."""
    return not offer.ended and (offer.periods is None or times_used(facts, offer) < offer.periods)


def times_used(facts: Facts, offer: Discount) -> int:
    """In how many periods: a change within one does not count."""
    return sum(
        bill.counts and not bill.within
        for bill in facts.bills
        for used, _ in bill.discounts
        if used is offer
    )


def _lower(facts: Facts, bill: Bill, lines: list[Line]) -> list[tuple[Discount, int]]:
    for line in lines:
        line.discount = half_away(line.amount * (line.own_discount or Fraction(0)))
    lowered = [line for line in lines if line.own_discount is None]
    taken = []
    for offer in facts.discounts:
        if (
            is_left(facts, offer)
            and bill.customer == offer.customer
            and offer.sub in (None, bill.sub)
        ):
            nets = [line.net for line in lowered]
            parts = spread(nets, _share_of(offer, sum(nets)))
            for line, part in zip(lowered, parts, strict=True):
                line.discount += part
            taken.append((offer, sum(parts)))
    for line in lines:
        given = (line.own_tax, facts.taxes[bill.customer], line.price_tax)
        line.tax_percent = next(one for one in given if one is not None)
        line.tax = half_away(line.net * line.tax_percent / 100)
    return taken


def _share_of(offer: Discount, net: int) -> Fraction:
    if offer.percent is not None:
        return offer.percent / 100
    return Fraction(min(offer.amount, net), net) if net > 0 else Fraction(0)


def _fee_line(facts: Facts, fee: Fee) -> Line:
    """One that gives back has the discount and the tax that its charge has on a final invoice."""
    charged = [
        line
        for bill in facts.bills
        if bill.counts
        for line in bill.lines
        if line.fee is not None and line.fee is fee.gives_back
    ]
    line = Line("fee", fee.start, fee.amount, fee.tax, fee=fee)
    if charged and charged[0].amount and fee.amount:
        line.own_discount = Fraction(charged[0].discount, charged[0].amount)
        line.own_tax = charged[0].tax_percent
    return line


def _cost(facts: Facts, bill: Bill, period: Period) -> list[Line]:
    used = sum(
        (
            use.quantity
            for use in facts.uses.values()
            if (use.customer, use.meter) == (bill.customer, bill.sub.plan.meter)
            and not use.voided
            and period.start <= use.at < period.end
        ),
        Fraction(0),
    )
    amount = half_away(used * period.price.amount * 100)
    scaled = period.price.minimum * share(period.end - period.start, period.cycle.full)
    least = half_away(scaled * 100)
    tax = period.price.tax
    lines = [Line("usage", period.start, amount, tax)]
    if amount < least:
        lines.append(Line("true_up", period.start, least - amount, tax))
    return lines


def _difference(facts: Facts, bill: Bill, period: Period) -> list[Line]:
    owed = sum(line.amount for line in _cost(facts, bill, period))
    line = Line("adjustment", period.start, owed, period.price.tax)
    return _correction(line, list(_carried(facts, bill.sub, period)))


def _promised(facts: Facts, bill: Bill, cycle: Cycle) -> list[Line]:
    """What usage and fees of a billing period lack to the commitments of its plans; with their tax, if it is one."""
    if not cycle.promised:
        return []
    parts = [period for period in bill.sub.periods if period.cycle is cycle]
    reached = sum(line.amount for part in parts for line in _cost(facts, bill, part))
    fees = [fee for fee in cycle.fees if _has_time(fee.gives_back or fee)]
    reached += sum(fee.amount for fee in fees)
    owed = max(half_away(cycle.promised * 100) - reached, 0)
    taxes = {part.price.tax for part in parts} | {fee.tax for fee in fees}
    line = Line("commitment", cycle.start, owed, taxes.pop() if len(taxes) == 1 else Fraction(0))
    return _correction(line, list(_carried(facts, bill.sub, cycle, PROMISED)))


def _has_time(charge: Fee) -> bool:
    """Whether a charge is for some time still, not replaced from its very begin on."""
    return charge.until > charge.start


def _correction(line: Line, carried: list[tuple[Bill, Line]]) -> list[Line]:
    """What final invoices lack of what is owed, or carry too much; of a waived amount nothing is given back."""
    waived = sum(one.amount for bill, one in carried if bill.waived)
    charged = [one for bill, one in carried if not bill.waived]
    billed = sum(one.amount for one in charged)
    line.amount = (max(line.amount - waived, 0) if waived else line.amount) - billed
    if line.amount == 0:
        return []
    if carried:
        first, its_line = min(carried, key=lambda one: one[0].number)
        line.own_tax = its_line.tax_percent
        kept = Fraction(1)
        for offer, _ in first.discounts:
            kept *= 1 - (offer.percent or Fraction(0)) / 100
        line.own_discount = 1 - kept
    if line.amount < 0:
        line.own_discount = Fraction(sum(one.discount for one in charged), billed)
    return [line]


def _carried(
    facts: Facts, sub: Subscription, part: Period | Cycle, kinds: tuple[str, ...] = USED
) -> Iterator[tuple[Bill, Line]]:
    """What invoices that count carry for it."""
    for bill in facts.bills:
        if bill.sub is sub and bill.counts:
            yield from (
                (bill, line)
                for line in bill.lines
                if line.kind in kinds and line.start == part.start
            )
