"""What invoices, payments and credit must come to: plain Python, exact fractions, no database and none of our code.

It knows nothing of marks, locks, claims or events. A usage period that was billed is adjusted by whichever invoice of
its subscription becomes final next, whenever its amount by the records is not what final invoices carry for it; of a
subscription that is over, by an adjustment of its own. What corrects or gives back has the discount of what it
corrects: nothing comes back but what was billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction

from tests.paths.billing_facts import Bill, Discount, Fee, Line, Period, Plan, Subscription, Use
from tests.paths.billing_sums import half_away, spread

# What usage and fees of a full period come to at least: above the fee of one seat and little usage, below that of two.
TALKING = Plan(
    "talking", "minutes", Fraction("49.90"), Fraction("0.0733"), Fraction(2), Fraction("75.55")
)
CALLING = Plan("calling", "calls", Fraction("9.99"), Fraction("0.015"), Fraction(0), Fraction(0))
CHATTING = Plan(
    "chatting", "minutes", Fraction("29.95"), Fraction("0.11"), Fraction(5), Fraction("60.10")
)
PLANS = (TALKING, CALLING, CHATTING)
TAX_PERCENT = Fraction(20)
GRACE = timedelta(hours=1)
LATE = timedelta(days=35)
USED, PROMISED = ("usage", "true_up", "adjustment"), ("commitment",)


class Books:
    """All that a tenant's customers should find on their invoices, of as many subscriptions as they have."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.uses: dict[str, Use] = {}
        self.subscriptions: list[Subscription] = []
        self.bills: list[Bill] = []
        self.discounts: list[Discount] = []
        self.ledger: dict[str, list[tuple[str, int]]] = {}

    # What a tenant does.

    def subscribe(self, customer: str, plan: Plan) -> Subscription:
        self.ledger.setdefault(customer, [])
        made = Subscription(customer, plan, self.now, [])
        made.periods.append(_period(made))
        self.subscriptions.append(made)
        self._draft(made, "activation", made.start, [_fee(made)])
        return made

    def migrate(self, moved: Subscription, plan: Plan) -> None:
        """Another plan from now on: usage has its prices, and the period owes each plan's commitment for its time."""
        old = moved.periods[-1]
        moved.periods.append(Period(self.now, old.end, old.full, old.key, plan))
        old.end = self.now
        self.change(moved, moved.quantity, plan)

    def change(self, changed: Subscription, quantity: int, plan: Plan) -> None:
        """Another quantity or plan from now on: what is left of the old charge is given back, and the new one made."""
        fees = self._given_back(changed)
        changed.quantity, changed.plan = quantity, plan
        changed.charge = Fee(self.now, half_away(changed.plan.fee * quantity * self._left(changed)))
        changed.charged_from = self.now
        changed.periods[-1].fees.append(changed.charge)
        self._draft(changed, "change", self.now, [*fees, changed.charge])

    def cancel(self, ended: Subscription) -> None:
        """Ends the subscription now; what is left of the period's fee is given back, if anybody owes or paid it."""
        fees = self._given_back(ended)
        last = ended.periods[-1]
        for period in _of_key(ended, last.key):
            period.key = ("final", self.now)
        last.end = self.now
        ended.canceled_at, ended.late_at = self.now, self.now + LATE
        self._draft(ended, "final", self.now, fees)

    def record(self, use: Use) -> None:
        self.uses[use.key] = use
        self.touch(use)

    def touch(self, use: Use) -> None:
        """Something was recorded where the use is now: a billed period has to be looked at again."""
        for sub in self.subscriptions:
            if (sub.customer, sub.plan.meter) == (use.customer, use.meter):
                for period in sub.periods:
                    if period.start <= use.at < period.end and period.is_billed:
                        period.is_marked = True

    def void(self, bill: Bill, *, reissue: bool) -> None:
        bill.status, bill.waived = "void", not reissue
        self._credit(bill.customer, "void_return", bill.applied)
        if reissue:
            carried = {line.start for line in bill.lines if line.kind != "fee"}
            for period in bill.sub.periods:
                if period.key == bill.key:
                    period.is_billed = period.is_marked = False
                elif period.start in carried and period.is_billed:
                    period.is_marked = True
            self._draft(bill.sub, bill.kind, bill.boundary, bill.fees)

    def pay(self, bill: Bill, amount: int) -> None:
        applied = min(bill.due, amount)
        bill.paid += applied
        self._credit(bill.customer, "payment_excess", amount - applied)
        self._settle(bill)

    def note(self, bill: Bill, line: Line, amount: int) -> None:
        """A credit note of a line, before tax; the tax in proportion to all that was credited of it."""
        line.credited += amount
        tax = half_away(Fraction(line.tax * line.credited, line.net)) - line.credited_tax
        line.credited_tax += tax
        lowers = min(bill.due, amount + tax)
        bill.credited += lowers
        self._credit(bill.customer, "credit_note", amount + tax - lowers)
        self._settle(bill)

    def is_covered(self, customer: str, meter: str, at: datetime) -> bool:
        """Whether a subscription bills what a customer uses of a meter at an instant."""
        return any(
            sub.anchor <= at and (sub.canceled_at is None or at < sub.canceled_at)
            for sub in self.subscriptions
            if (sub.customer, sub.plan.meter) == (customer, meter)
        )

    def advance(self, to: datetime) -> None:
        self._bill_late()
        while True:
            closing = [
                (due, n)
                for n, sub in enumerate(self.subscriptions)
                if (due := sub.late_at if sub.canceled_at else sub.end) and due <= to
            ]
            drafts = [bill for bill in self.bills if bill.status == "draft"]
            ready = [
                (bill.finalize_at, n) for n, bill in enumerate(drafts) if bill.finalize_at <= to
            ]
            if closing and (not ready or min(closing)[0] <= min(ready)[0]):
                self._close(self.subscriptions[min(closing)[1]])
            elif ready:
                self.finalize(drafts[min(ready)[1]])
            else:
                break
        self.now = to

    def finalize(self, bill: Bill) -> None:
        bill.lines = self.preview(bill)
        bill.discounts = [(offer, taken) for offer, taken in self._lower(bill, bill.lines) if taken]
        bill.number = max(other.number for other in self.bills) + 1
        for period in self._own(bill):
            period.is_billed = True
        for period in bill.sub.periods:
            period.is_marked = period.is_marked and not period.is_billed
        signed = sum(line.net + line.tax for line in bill.lines)
        bill.total, bill.to_balance = max(signed, 0), max(-signed, 0)
        bill.applied = min(bill.total, self.balance(bill.customer))
        self._credit(bill.customer, "negative_total", bill.to_balance)
        self._credit(bill.customer, "applied", -bill.applied)
        bill.status = "open"
        self._settle(bill)

    # What follows.

    def balance(self, customer: str) -> int:
        return sum(amount for _, amount in self.ledger[customer])

    def preview(self, bill: Bill) -> list[Line]:
        """The lines that the draft has now."""
        own = self._own(bill)
        lines: list[Line] = []
        for period in own:
            carried = list(self._carried(bill.sub, period))
            lines += self._difference(bill, period) if carried else self._cost(bill, period)
        for period in bill.sub.periods:
            if period.is_billed and period not in own:
                lines += self._difference(bill, period)
        lines += [self._fee_line(fee) for fee in bill.fees]
        billed = [one for one in bill.sub.periods if one.is_billed]
        for key in sorted({one.key for one in [*own, *billed]}):
            lines += self._promised(bill, _of_key(bill.sub, key))
        self._lower(bill, lines)
        return lines

    def _lower(self, bill: Bill, lines: list[Line]) -> list[tuple[Discount, int]]:
        """Discounts and tax of a draft's lines; what each discount took."""
        for line in lines:
            line.discount = half_away(line.amount * (line.own_discount or Fraction(0)))
        lowered = [line for line in lines if line.own_discount is None]
        taken = []
        for offer in self.discounts:
            if (
                self._is_left(offer)
                and bill.customer == offer.customer
                and offer.sub in (None, bill.sub)
            ):
                nets = [line.net for line in lowered]
                parts = spread(nets, self._share_of(offer, sum(nets)))
                for line, part in zip(lowered, parts, strict=True):
                    line.discount += part
                taken.append((offer, sum(parts)))
        for line in lines:
            line.tax = half_away(line.net * TAX_PERCENT / 100)
        return taken

    def _share_of(self, offer: Discount, net: int) -> Fraction:
        if offer.percent is not None:
            return offer.percent / 100
        return Fraction(min(offer.amount, net), net) if net > 0 else Fraction(0)

    def _is_left(self, offer: Discount) -> bool:
        return not offer.ended and (offer.periods is None or self.times_used(offer) < offer.periods)

    def live_discounts(self, customer: str) -> int:
        """How many there are that may lower an invoice."""
        return sum(one.customer == customer and self._is_left(one) for one in self.discounts)

    def times_used(self, offer: Discount) -> int:
        """In how many periods: a change within one does not count."""
        return sum(
            bill.counts and bill.kind != "change"
            for bill in self.bills
            for used, _ in bill.discounts
            if used is offer
        )

    def _fee_line(self, fee: Fee) -> Line:
        """One that gives back has the discount that its charge has on a final invoice."""
        charged = [
            line
            for bill in self.bills
            if bill.counts
            for line in bill.lines
            if line.fee is not None and line.fee is fee.gives_back
        ]
        own = None
        if charged and charged[0].amount and fee.amount:
            own = Fraction(charged[0].discount, charged[0].amount)
        return Line("fee", fee.start, fee.amount, own, fee)

    def _cost(self, bill: Bill, period: Period) -> list[Line]:
        plan = period.plan
        used = sum(
            (
                use.quantity
                for use in self.uses.values()
                if (use.customer, use.meter) == (bill.customer, plan.meter)
                and not use.voided
                and period.start <= use.at < period.end
            ),
            Fraction(0),
        )
        amount = half_away(used * plan.per_unit * 100)
        least = half_away(plan.minimum * period.share * 100)
        lines = [Line("usage", period.start, amount)]
        if amount < least:
            lines.append(Line("true_up", period.start, least - amount))
        return lines

    def _difference(self, bill: Bill, period: Period) -> list[Line]:
        owed = sum(line.amount for line in self._cost(bill, period))
        carried = list(self._carried(bill.sub, period))
        return self._correction("adjustment", period, owed, carried)

    def _promised(self, bill: Bill, parts: list[Period]) -> list[Line]:
        """What usage and fees of a billing period lack to the commitments of its plans."""
        reached = sum(line.amount for part in parts for line in self._cost(bill, part))
        reached += sum(fee.amount for part in parts for fee in part.fees)
        promised = sum((part.plan.commitment * part.share for part in parts), Fraction(0))
        owed = max(half_away(promised * 100) - reached, 0)
        carried = list(self._carried(bill.sub, parts[0], PROMISED))
        return self._correction("commitment", parts[0], owed, carried)

    def _correction(
        self, kind: str, period: Period, owed: int, carried: list[tuple[Bill, Line]]
    ) -> list[Line]:
        """What final invoices lack, or carry too much of; of a waived amount nothing is given back."""
        waived = sum(line.amount for other, line in carried if other.waived)
        charged = [line for other, line in carried if not other.waived]
        billed = sum(line.amount for line in charged)
        left = (max(owed - waived, 0) if waived else owed) - billed
        if left == 0:
            return []
        own = None
        if left < 0:
            own = Fraction(sum(line.discount for line in charged), billed)
        elif carried:
            first = min((other for other, _ in carried), key=lambda other: other.number)
            kept = Fraction(1)
            for offer, _ in first.discounts:
                kept *= 1 - (offer.percent or Fraction(0)) / 100
            own = 1 - kept
        return [Line(kind, period.start, left, own)]

    def _carried(
        self, sub: Subscription, period: Period, kinds: tuple[str, ...] = USED
    ) -> Iterator[tuple[Bill, Line]]:
        for bill in self.bills:
            if bill.sub is sub and bill.counts:
                yield from (
                    (bill, line)
                    for line in bill.lines
                    if line.kind in kinds and line.start == period.start
                )

    def _given_back(self, ended: Subscription) -> list[Fee]:
        """What is left of the present charge, if anybody owes or paid it."""
        charge = ended.charge
        is_charged = any(
            fee is charge and bill.status != "void" for bill in self.bills for fee in bill.fees
        )
        if not is_charged:
            return []
        amount = -half_away(ended.plan.fee * ended.quantity * self._left(ended))
        back = Fee(self.now, amount, charge)
        ended.periods[-1].fees.append(back)
        return [back]

    def _left(self, sub: Subscription) -> Fraction:
        """The share of the current period that is to come, in cents of a whole."""
        period, unit = sub.periods[-1], timedelta(microseconds=1)
        return Fraction((period.end - self.now) // unit, period.full // unit) * 100

    def _own(self, bill: Bill) -> list[Period]:
        return _of_key(bill.sub, bill.key)

    def _bill_late(self) -> None:
        """Late usage of subscriptions that are long over is billed as it comes."""
        for sub in self.subscriptions:
            waits = any(
                b.sub is sub and b.kind == "adjustment" and b.status == "draft" for b in self.bills
            )
            if sub.canceled_at and not sub.late_at and not waits:
                sub.late_at = self.now
                self._close(sub)

    def _close(self, closed: Subscription) -> None:
        if closed.late_at:
            self.now, closed.late_at = closed.late_at, None
            if any(period.is_marked for period in closed.periods):
                self._draft(closed, "adjustment", self.now, [])
            return
        self.now = closed.end
        boundary = closed.end
        closed.n += 1
        closed.periods.append(_period(closed))
        self._draft(closed, "period", boundary, [_fee(closed)])

    def _draft(self, sub: Subscription, kind: str, boundary: datetime, fees: list[Fee]) -> None:
        self.bills.append(Bill(sub, kind, boundary, self.now + GRACE, fees))

    def _settle(self, bill: Bill) -> None:
        if bill.due == 0:
            bill.status = "paid"

    def _credit(self, customer: str, kind: str, amount: int) -> None:
        if amount:
            self.ledger[customer].append((kind, amount))


def _period(sub: Subscription) -> Period:
    return Period(sub.start, sub.end, sub.end - sub.start, ("period", sub.end), sub.plan)


def _of_key(sub: Subscription, key: tuple[str, datetime]) -> list[Period]:
    """The parts of a billing period."""
    return [period for period in sub.periods if period.key == key]


def _fee(sub: Subscription) -> Fee:
    """The charge of the period that begins."""
    sub.charge = Fee(sub.start, half_away(sub.plan.fee * sub.quantity * 100))
    sub.charged_from = sub.start
    sub.periods[-1].fees.append(sub.charge)
    return sub.charge
