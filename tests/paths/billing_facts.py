"""What the plain model of billing keeps: usage, periods, fees, discounts, invoices and their lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from tests.paths.billing_sums import months_later


@dataclass(frozen=True, slots=True)
class Plan:
    """A fee per seat and month, and what usage of a meter costs; a minimum of the usage, a commitment for both."""

    key: str
    meter: str
    fee: Fraction
    per_unit: Fraction
    minimum: Fraction
    commitment: Fraction


@dataclass(slots=True)
class Use:
    """A usage record in its last revision."""

    key: str
    customer: str
    meter: str
    at: datetime
    quantity: Fraction
    voided: bool = False


@dataclass(slots=True, eq=False)
class Discount:
    """So many percent, or so much off, for so many periods or until it is ended; of one subscription or of all."""

    customer: str
    sub: Subscription | None
    percent: Fraction | None
    amount: int
    periods: int | None
    ended: bool = False


@dataclass(slots=True, eq=False)
class Fee:
    """What is charged for a stretch of time, or given back of an earlier charge."""

    start: datetime
    amount: int
    gives_back: Fee | None = None


@dataclass(slots=True, eq=False)
class Line:
    """A line in minor units; what credit notes took of it.

    One that corrects another takes its share of discount over, and the invoice's discounts pass it over.
    """

    kind: str
    start: datetime
    amount: int
    own_discount: Fraction | None = None
    fee: Fee | None = None
    discount: int = 0
    tax: int = 0
    credited: int = 0
    credited_tax: int = 0

    @property
    def net(self) -> int:
        return self.amount - self.discount


@dataclass(slots=True, eq=False)
class Period:
    """A usage period, its plan and the key of the invoice that bills it: one for each plan of a billing period."""

    start: datetime
    end: datetime
    full: timedelta
    key: tuple[str, datetime]
    plan: Plan
    is_billed: bool = False
    is_marked: bool = False
    # What was charged and given back for it, on whatever invoice.
    fees: list[Fee] = field(default_factory=list)

    @property
    def share(self) -> Fraction:
        return Fraction((self.end - self.start) // timedelta(microseconds=1)) / (
            self.full // timedelta(microseconds=1)
        )


@dataclass(slots=True, eq=False)
class Bill:
    """An invoice; `discounts` are those that lowered it, with what they took."""

    sub: Subscription
    kind: str
    boundary: datetime
    finalize_at: datetime
    fees: list[Fee]
    status: str = "draft"
    waived: bool = False
    number: int = 0
    lines: list[Line] = field(default_factory=list)
    discounts: list[tuple[Discount, int]] = field(default_factory=list)
    total: int = 0
    to_balance: int = 0
    applied: int = 0
    paid: int = 0
    credited: int = 0

    @property
    def customer(self) -> str:
        return self.sub.customer

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


@dataclass(slots=True, eq=False)
class Subscription:
    """A monthly subscription, in its n-th period."""

    customer: str
    plan: Plan
    anchor: datetime
    periods: list[Period]
    n: int = 0
    quantity: int = 1
    # The charge that pays for the time from now on, and since when it does.
    charge: Fee | None = None
    charged_from: datetime | None = None
    canceled_at: datetime | None = None
    # When late usage is billed without a further invoice to wait for; None when it is, as it comes.
    late_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.plan.key} of {self.customer} since {self.anchor}"

    @property
    def start(self) -> datetime:
        return months_later(self.anchor, self.n)

    @property
    def end(self) -> datetime:
        return months_later(self.anchor, self.n + 1)
