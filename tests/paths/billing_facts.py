"""What the plain model of billing keeps: plans, usage, periods, fees, discounts, invoices and their lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Literal

from tests.paths.billing_sums import half_away, share

Proration = Literal["at_once", "next_invoice", "none"]
USED, PROMISED = ("usage", "true_up", "adjustment"), ("commitment",)


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """Of a seat and a full period, or of a unit of usage, with what that costs at least in a full period.

    `tax` is that of customers who have none of their own.
    """

    amount: Fraction
    minimum: Fraction = Fraction(0)
    tax: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A fee per seat and a price of a meter's usage, as they stand in a plan at one time; a commitment for both."""

    key: str
    meter: str
    fee: Price
    usage: Price
    commitment: Fraction = Fraction(0)
    months: int = 1
    by_day: bool = False


@dataclass(slots=True)
class Use:
    """A usage record in its last revision, and the instants that earlier ones had."""

    key: str
    customer: str
    meter: str
    at: datetime
    quantity: Fraction
    voided: bool = False
    was_at: list[datetime] = field(default_factory=list, repr=False)


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
    """What is charged in advance for a stretch of time, or given back of such a charge.

    `rate` is for a full period; `until` is the end, or since when a charge is given back.
    """

    rate: Fraction
    tax: Fraction
    start: datetime
    end: datetime
    full: timedelta
    gives_back: Fee | None = None
    until: datetime = field(init=False)
    # In the order in which they came about they stand on an invoice.
    number: int = field(init=False, default_factory=itertools.count().__next__)

    def __post_init__(self) -> None:
        self.until = self.end

    @property
    def amount(self) -> int:
        whole = half_away(self.rate * share(self.end - self.start, self.full) * 100)
        return -whole if self.gives_back else whole


@dataclass(slots=True, eq=False)
class Line:
    """A line in minor units; what credit notes took of it.

    One that corrects another takes its share of discount and its tax over; the invoice's discounts pass it over.
    """

    kind: str
    start: datetime
    amount: int
    price_tax: Fraction
    own_discount: Fraction | None = None
    own_tax: Fraction | None = None
    fee: Fee | None = None
    discount: int = 0
    tax_percent: Fraction = Fraction(0)
    tax: int = 0
    credited: int = 0
    credited_tax: int = 0

    @property
    def net(self) -> int:
        return self.amount - self.discount


@dataclass(slots=True, eq=False)
class Cycle:
    """A billing period, the key of the invoice that ends it, and the plans that it owes a commitment.

    `charged_from` is its start or, by day, the midnight before; `plans` has each from when on; `fees` is what was
    charged and given back for it, on whatever invoice; `waiting` is what the invoice at its end is to charge and give
    back.
    """

    start: datetime
    charged_from: datetime
    end: datetime
    full: timedelta
    key: tuple[str, datetime]
    plans: list[tuple[datetime, Plan]]
    fees: list[Fee] = field(default_factory=list)
    waiting: list[Fee] = field(default_factory=list)

    @property
    def promised(self) -> Fraction:
        """What usage and fees come to at least: of each plan, for its share of the full period."""
        ends = [start for start, _ in self.plans[1:]] + [self.end]
        return sum(
            (
                plan.commitment * share(end - start, self.full)
                for (start, plan), end in zip(self.plans, ends, strict=True)
            ),
            Fraction(0),
        )


@dataclass(slots=True, eq=False)
class Period:
    """The usage of one price in a billing period."""

    start: datetime
    end: datetime
    price: Price
    cycle: Cycle
    is_billed: bool = False
    is_marked: bool = False

    @property
    def key(self) -> tuple[str, datetime]:
        return self.cycle.key


@dataclass(slots=True, eq=False)
class Bill:
    """An invoice; `discounts` are those that lowered it, with what they took. `within`: it ends no period."""

    sub: Subscription
    kind: str
    boundary: datetime
    finalize_at: datetime
    fees: list[Fee]
    within: bool = False
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
    """A subscription with its billing periods, and the usage periods that tile them."""

    customer: str
    zone: str
    plan: Plan
    anchor: datetime
    cycles: list[Cycle] = field(default_factory=list)
    periods: list[Period] = field(default_factory=list)
    quantity: int = 1
    canceled_at: datetime | None = None
    # When late usage is billed without a further invoice to wait for; None when it is, as it comes.
    late_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.plan.key} of {self.customer} since {self.anchor}"

    @property
    def cycle(self) -> Cycle:
        return self.cycles[-1]

    @property
    def charges(self) -> Iterator[Fee]:
        """All that it was ever charged in advance."""
        return (fee for cycle in self.cycles for fee in cycle.fees if not fee.gives_back)


@dataclass(frozen=True, slots=True)
class Change:
    """Another quantity, other prices, another plan; what is not given stays as it is."""

    quantity: int = 0
    plan: str = ""
    fee: Price | None = None
    usage: Price | None = None
    proration: Proration = "at_once"


@dataclass(frozen=True, slots=True)
class End:
    """A cancellation, with or without credit for what is charged beyond it."""

    credit: bool = True


@dataclass(slots=True, eq=False)
class Scheduled:
    """What is put off."""

    sub: Subscription
    due_at: datetime
    what: Change | End
    status: str = "pending"

    @property
    def is_pending(self) -> bool:
        return self.status == "pending"


@dataclass(slots=True)
class Facts:
    """All that is known of a tenant. `plans` has the prices that are offered now; `taxes` are customers' own."""

    now: datetime
    plans: dict[str, Plan]
    uses: dict[str, Use] = field(default_factory=dict)
    subscriptions: list[Subscription] = field(default_factory=list)
    scheduled: list[Scheduled] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    discounts: list[Discount] = field(default_factory=list)
    taxes: dict[str, Fraction | None] = field(default_factory=dict)
    ledger: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
