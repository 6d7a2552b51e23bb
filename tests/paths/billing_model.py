"""What invoices, payments and credit must come to: plain Python, exact fractions, no database and none of our code.

It knows nothing of marks, locks, claims or events, and is told as a tenant would tell it: what happens to
subscriptions is in billing_contracts.py, what stands on an invoice in billing_lines.py. Late usage of a subscription
that is over is billed by an adjustment of its own.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

from tests.paths import billing_contracts as contracts
from tests.paths.billing_facts import (
    USED,
    Bill,
    Facts,
    Line,
    Plan,
    Price,
    Subscription,
    Use,
)
from tests.paths.billing_lines import is_left, lines_of, own_periods
from tests.paths.billing_sums import half_away

# Commitments lie above the fee of one seat with little usage and below that of two.
PLANS = (
    Plan(
        "talking",
        "minutes",
        Price(Fraction("49.90"), tax=Fraction(19)),
        Price(Fraction("0.0733"), Fraction(2), Fraction(19)),
        Fraction("75.55"),
    ),
    Plan(
        "chatting",
        "minutes",
        Price(Fraction("29.95"), tax=Fraction(19)),
        Price(Fraction("0.11"), Fraction(5), Fraction(7)),
        Fraction("60.10"),
        by_day=True,
    ),
    Plan(
        "talking-for-years",
        "minutes",
        Price(Fraction("499.00")),
        Price(Fraction("0.0611"), Fraction(20)),
        Fraction(777),
        months=12,
    ),
    Plan("calling", "calls", Price(Fraction("9.99")), Price(Fraction("0.015"))),
    Plan(
        "calling-for-years",
        "calls",
        Price(Fraction("99.90")),
        Price(Fraction("0.012")),
        months=12,
        by_day=True,
    ),
)


class Books(Facts):
    """All that a tenant's customers should find on their invoices, of as many subscriptions as they have."""

    def record(self, use: Use) -> None:
        self.uses[use.key] = use
        self.touch(use)

    def touch(self, use: Use) -> None:
        """Something was recorded where the use is or was: a billed period has to be looked at again."""
        for sub in self.subscriptions:
            if (sub.customer, sub.plan.meter) == (use.customer, use.meter):
                for period in sub.periods:
                    is_in = any(period.start <= at < period.end for at in (*use.was_at, use.at))
                    period.is_marked |= period.is_billed and is_in

    def is_covered(self, customer: str, meter: str, at: datetime) -> bool:
        """Whether a subscription bills what a customer uses of a meter at an instant."""
        return any(
            sub.anchor <= at and (sub.canceled_at is None or at < sub.canceled_at)
            for sub in self.subscriptions
            if (sub.customer, sub.plan.meter) == (customer, meter)
        )

    # What happens to invoices.

    def preview(self, bill: Bill) -> list[Line]:
        """The lines that a draft has now."""
        return lines_of(self, bill)[0]

    def finalize(self, bill: Bill) -> None:
        bill.lines, lowered = lines_of(self, bill)
        bill.discounts = [(offer, taken) for offer, taken in lowered if taken]
        bill.number = max(other.number for other in self.bills) + 1
        for period in own_periods(bill):
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

    def void(self, bill: Bill, *, reissue: bool) -> None:
        """Made again, its own usage is unbilled; what it adjusted, or others did of it, is looked at again."""
        bill.status, bill.waived = "void", not reissue
        self._credit(bill.customer, "void_return", bill.applied)
        mine = {line.start for line in bill.lines if line.kind in USED}
        others = {
            line.start
            for other in self.bills
            if other.sub is bill.sub and other.counts and not other.waived
            for line in other.lines
            if line.kind in USED
        }
        for period in bill.sub.periods:
            is_own = period.key == bill.key
            if reissue and is_own:
                period.is_billed = period.is_marked = False
            elif period.is_billed and (is_own or period.start in mine):
                period.is_marked |= reissue or period.start in others
        if reissue:
            contracts.draft(self, bill.sub, bill.kind, bill.boundary, bill.fees, within=bill.within)
        contracts.forget_credits(self, bill.sub)

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

    def balance(self, customer: str) -> int:
        return sum(amount for _, amount in self.ledger[customer])

    def live_discounts(self, customer: str) -> int:
        """How many there are that may lower an invoice."""
        return sum(one.customer == customer and is_left(self, one) for one in self.discounts)

    # What time brings.

    def advance(self, to: datetime) -> None:
        """Instant by instant: periods end, then what was put off is done, then drafts become final."""
        self._bill_late()
        while self.now < to:
            drafts = [bill for bill in self.bills if bill.status == "draft"]
            coming = [due for sub in self.subscriptions if (due := _due(sub))]
            coming += [one.due_at for one in self.scheduled if one.is_pending]
            coming += [bill.finalize_at for bill in drafts]
            self.now = min([*coming, to])
            self._end_periods()
            for bill in sorted(drafts, key=lambda one: one.finalize_at):
                if bill.status == "draft" and bill.finalize_at <= self.now:
                    self.finalize(bill)

    def _end_periods(self) -> None:
        """Of those first that have nothing put off until then; else what was put off comes first."""
        changing = [one for one in self.scheduled if one.is_pending and one.due_at <= self.now]
        for sub in self.subscriptions:
            if all(one.sub is not sub for one in changing):
                self._end_period(sub)
        for sub in self.subscriptions:
            for one in sorted(changing, key=lambda one: one.due_at):
                if one.sub is sub and one.is_pending:
                    contracts.execute(self, one)
            if any(one.sub is sub for one in changing):
                self._end_period(sub)

    def _end_period(self, sub: Subscription) -> None:
        due = _due(sub)
        if due is None or due > self.now:
            return
        if sub.canceled_at is None:
            contracts.renew(self, sub)
        else:
            sub.late_at = None
            if any(period.is_marked for period in sub.periods):
                contracts.draft(self, sub, "adjustment", self.now, [])

    def _bill_late(self) -> None:
        """Late usage of subscriptions that are long over is billed as it comes."""
        for sub in self.subscriptions:
            waits = any(
                b.sub is sub and b.kind == "adjustment" and b.status == "draft" for b in self.bills
            )
            if sub.canceled_at and not sub.late_at and not waits:
                sub.late_at = self.now
                self._end_period(sub)

    def _settle(self, bill: Bill) -> None:
        if bill.due == 0:
            bill.status = "paid"

    def _credit(self, customer: str, kind: str, amount: int) -> None:
        if amount:
            self.ledger[customer].append((kind, amount))


def _due(sub: Subscription) -> datetime | None:
    """When its period ends, or late usage of it is billed."""
    return sub.late_at if sub.canceled_at else sub.cycle.end
