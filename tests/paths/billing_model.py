"""What invoices, payments and credit must come to: plain Python, exact fractions, no database and none of our code.

It knows nothing of marks, locks, claims or events. A usage period that was billed is adjusted by whichever invoice of
its subscription becomes final next, whenever its amount by the records is not what final invoices carry for it; of a
subscription that is over, by an adjustment of its own.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

FEE = Fraction("49.90")
PER_MINUTE = Fraction("0.0733")
MINIMUM = Fraction(2)
# What usage and fees of a full period come to at least: above the fee of one seat and little usage, below that of two.
COMMITMENT = Fraction("75.55")
TAX_PERCENT = Fraction(20)
GRACE = timedelta(hours=1)
LATE = timedelta(days=35)
USED, PROMISED = ("usage", "true_up", "adjustment"), ("commitment",)


def half_away(value: Fraction) -> int:
    """The nearest whole number; a half goes away from zero."""
    size = int(abs(value) + Fraction(1, 2))
    return -size if value < 0 else size


def months_later(anchor: datetime, months: int) -> datetime:
    """The same day of a later month, or its last."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


@dataclass(slots=True)
class Use:
    """A usage record in its last revision."""

    key: str
    customer: str
    at: datetime
    quantity: Fraction
    voided: bool = False


@dataclass(slots=True)
class Line:
    """A line in minor units; what credit notes took of it."""

    kind: str
    start: datetime
    amount: int
    tax: int
    credited: int = 0
    credited_tax: int = 0


@dataclass(slots=True)
class Period:
    """A usage period and the key of the invoice that bills it."""

    start: datetime
    end: datetime
    full: timedelta
    key: tuple[str, datetime]
    is_billed: bool = False
    is_marked: bool = False
    # What was charged and given back for it, on whatever invoice.
    fees: list[int] = field(default_factory=list)

    @property
    def share(self) -> Fraction:
        return Fraction((self.end - self.start) // timedelta(microseconds=1)) / (
            self.full // timedelta(microseconds=1)
        )


@dataclass(slots=True)
class Bill:
    """An invoice."""

    customer: str
    kind: str
    boundary: datetime
    finalize_at: datetime
    fees: list[Line]
    status: str = "draft"
    waived: bool = False
    lines: list[Line] = field(default_factory=list)
    total: int = 0
    to_balance: int = 0
    applied: int = 0
    paid: int = 0
    credited: int = 0

    @property
    def key(self) -> tuple[str, datetime]:
        return self.kind, self.boundary

    @property
    def due(self) -> int:
        if self.status == "void":
            return 0
        return self.total - self.applied - self.paid - self.credited

    @property
    def counts(self) -> bool:
        return self.status in ("open", "paid") or self.waived


@dataclass(slots=True)
class Subscription:
    """A monthly subscription, in its n-th period."""

    anchor: datetime
    periods: list[Period]
    n: int = 0
    quantity: int = 1
    # The charge that pays for the time from now on, and since when it does.
    charge: Line | None = None
    charged_from: datetime | None = None
    canceled_at: datetime | None = None
    # When late usage is billed without a further invoice to wait for; None when it is, as it comes.
    late_at: datetime | None = None

    @property
    def start(self) -> datetime:
        return months_later(self.anchor, self.n)

    @property
    def end(self) -> datetime:
        return months_later(self.anchor, self.n + 1)


class Books:
    """All that a tenant's customers should find on their invoices; one subscription each."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.uses: dict[str, Use] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.bills: list[Bill] = []
        self.ledger: dict[str, list[tuple[str, int]]] = {}

    # What a tenant does.

    def subscribe(self, customer: str) -> None:
        self.ledger[customer] = []
        made = Subscription(self.now, [])
        made.periods.append(_period(made.start, made.end))
        self.subscriptions[customer] = made
        self._draft(customer, "activation", made.start, [_fee(made)])

    def change(self, customer: str, quantity: int) -> None:
        """Another quantity from now on: what is left of the old charge is given back, and the new one made."""
        changed = self.subscriptions[customer]
        fees = self._given_back(customer)
        changed.quantity = quantity
        changed.charge = Line("fee", self.now, half_away(FEE * quantity * self._left(changed)), 0)
        changed.charged_from = self.now
        changed.periods[-1].fees.append(changed.charge.amount)
        self._draft(customer, "change", self.now, [*fees, changed.charge])

    def cancel(self, customer: str) -> None:
        """Ends the subscription now; what is left of the period's fee is given back, if anybody owes or paid it."""
        ended = self.subscriptions[customer]
        period = ended.periods[-1]
        fees = self._given_back(customer)
        period.end, period.key = self.now, ("final", self.now)
        ended.canceled_at, ended.late_at = self.now, self.now + LATE
        self._draft(customer, "final", self.now, fees)

    def record(self, use: Use) -> None:
        self.uses[use.key] = use
        self.touch(use)

    def touch(self, use: Use) -> None:
        """Something was recorded where the use is now: a billed period has to be looked at again."""
        for period in self.subscriptions[use.customer].periods:
            if period.start <= use.at < period.end and period.is_billed:
                period.is_marked = True

    def void(self, bill: Bill, *, reissue: bool) -> None:
        bill.status, bill.waived = "void", not reissue
        self._credit(bill.customer, "void_return", bill.applied)
        if reissue:
            carried = {line.start for line in bill.lines if line.kind != "fee"}
            for period in self.subscriptions[bill.customer].periods:
                if period.key == bill.key:
                    period.is_billed = period.is_marked = False
                elif period.start in carried and period.is_billed:
                    period.is_marked = True
            self._draft(bill.customer, bill.kind, bill.boundary, bill.fees)

    def pay(self, bill: Bill, amount: int) -> None:
        applied = min(bill.due, amount)
        bill.paid += applied
        self._credit(bill.customer, "payment_excess", amount - applied)
        self._settle(bill)

    def note(self, bill: Bill, line: Line, amount: int) -> None:
        """A credit note of a line, before tax; the tax in proportion to all that was credited of it."""
        line.credited += amount
        tax = half_away(Fraction(line.tax * line.credited, line.amount)) - line.credited_tax
        line.credited_tax += tax
        lowers = min(bill.due, amount + tax)
        bill.credited += lowers
        self._credit(bill.customer, "credit_note", amount + tax - lowers)
        self._settle(bill)

    def advance(self, to: datetime) -> None:
        self._bill_late()
        while True:
            closing = [
                (due, name)
                for name, sub in self.subscriptions.items()
                if (due := sub.late_at if sub.canceled_at else sub.end) and due <= to
            ]
            drafts = [bill for bill in self.bills if bill.status == "draft"]
            ready = [
                (bill.finalize_at, n) for n, bill in enumerate(drafts) if bill.finalize_at <= to
            ]
            if closing and (not ready or min(closing)[0] <= min(ready)[0]):
                self._close(min(closing)[1])
            elif ready:
                self.finalize(drafts[min(ready)[1]])
            else:
                break
        self.now = to

    def finalize(self, bill: Bill) -> None:
        bill.lines = self.preview(bill)
        for period in self._own(bill):
            period.is_billed = True
        for period in self.subscriptions[bill.customer].periods:
            period.is_marked = period.is_marked and not period.is_billed
        signed = sum(line.amount + line.tax for line in bill.lines)
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
            carried = list(self._carried(bill.customer, period))
            lines += self._difference(bill, period) if carried else self._cost(bill, period)
        for period in self.subscriptions[bill.customer].periods:
            if period.is_billed and period not in own:
                lines += self._difference(bill, period)
        lines += [Line("fee", fee.start, fee.amount, 0) for fee in bill.fees]
        billed = [one for one in self.subscriptions[bill.customer].periods if one.is_billed]
        for period in sorted({one.key: one for one in [*own, *billed]}.values(), key=by_key):
            lines += self._promised(bill, period)
        for line in lines:
            line.tax = half_away(line.amount * TAX_PERCENT / 100)
        return lines

    def _cost(self, bill: Bill, period: Period) -> list[Line]:
        used = sum(
            (
                use.quantity
                for use in self.uses.values()
                if use.customer == bill.customer
                and not use.voided
                and period.start <= use.at < period.end
            ),
            Fraction(0),
        )
        amount = half_away(used * PER_MINUTE * 100)
        least = half_away(MINIMUM * period.share * 100)
        lines = [Line("usage", period.start, amount, 0)]
        if amount < least:
            lines.append(Line("true_up", period.start, least - amount, 0))
        return lines

    def _difference(self, bill: Bill, period: Period) -> list[Line]:
        owed = sum(line.amount for line in self._cost(bill, period))
        left = self._left_to_bill(owed, list(self._carried(bill.customer, period)))
        return [Line("adjustment", period.start, left, 0)] if left else []

    def _promised(self, bill: Bill, period: Period) -> list[Line]:
        """What usage and fees of a billing period lack to the commitment."""
        reached = sum(line.amount for line in self._cost(bill, period)) + sum(period.fees)
        owed = max(half_away(COMMITMENT * period.share * 100) - reached, 0)
        left = self._left_to_bill(owed, list(self._carried(bill.customer, period, PROMISED)))
        return [Line("commitment", period.start, left, 0)] if left else []

    def _left_to_bill(self, owed: int, carried: list[tuple[Bill, Line]]) -> int:
        waived = sum(line.amount for other, line in carried if other.waived)
        billed = sum(line.amount for other, line in carried if not other.waived)
        return (max(owed - waived, 0) if waived else owed) - billed

    def _carried(
        self, customer: str, period: Period, kinds: tuple[str, ...] = USED
    ) -> Iterator[tuple[Bill, Line]]:
        for bill in self.bills:
            if bill.customer == customer and bill.counts:
                yield from (
                    (bill, line)
                    for line in bill.lines
                    if line.kind in kinds and line.start == period.start
                )

    def _given_back(self, customer: str) -> list[Line]:
        """What is left of the present charge, if anybody owes or paid it."""
        ended = self.subscriptions[customer]
        charge = ended.charge
        is_charged = any(
            fee is charge and bill.status != "void" for bill in self.bills for fee in bill.fees
        )
        if not is_charged:
            return []
        back = Line("fee", self.now, -half_away(FEE * ended.quantity * self._left(ended)), 0)
        ended.periods[-1].fees.append(back.amount)
        return [back]

    def _left(self, sub: Subscription) -> Fraction:
        """The share of the current period that is to come, in cents of a whole."""
        period, unit = sub.periods[-1], timedelta(microseconds=1)
        return Fraction((period.end - self.now) // unit, period.full // unit) * 100

    def _own(self, bill: Bill) -> list[Period]:
        periods = self.subscriptions[bill.customer].periods
        return [period for period in periods if period.key == bill.key]

    def _bill_late(self) -> None:
        """Late usage of subscriptions that are long over is billed as it comes."""
        for customer, sub in self.subscriptions.items():
            waits = any(
                b.customer == customer and b.kind == "adjustment" and b.status == "draft"
                for b in self.bills
            )
            if sub.canceled_at and not sub.late_at and not waits:
                sub.late_at = self.now
                self._close(customer)

    def _close(self, customer: str) -> None:
        closed = self.subscriptions[customer]
        if closed.late_at:
            self.now, closed.late_at = closed.late_at, None
            if any(period.is_marked for period in closed.periods):
                self._draft(customer, "adjustment", self.now, [])
            return
        self.now = closed.end
        boundary = closed.end
        closed.n += 1
        closed.periods.append(_period(closed.start, closed.end))
        self._draft(customer, "period", boundary, [_fee(closed)])

    def _draft(self, customer: str, kind: str, boundary: datetime, fees: list[Line]) -> None:
        self.bills.append(Bill(customer, kind, boundary, self.now + GRACE, fees))

    def _settle(self, bill: Bill) -> None:
        if bill.due == 0:
            bill.status = "paid"

    def _credit(self, customer: str, kind: str, amount: int) -> None:
        if amount:
            self.ledger[customer].append((kind, amount))


def _period(start: datetime, end: datetime) -> Period:
    return Period(start, end, end - start, ("period", end))


def by_key(period: Period) -> tuple[str, datetime]:
    return period.key


def _fee(sub: Subscription) -> Line:
    """The charge of the period that begins."""
    sub.charge = Line("fee", sub.start, half_away(FEE * sub.quantity * 100), 0)
    sub.charged_from = sub.start
    sub.periods[-1].fees.append(sub.charge.amount)
    return sub.charge
