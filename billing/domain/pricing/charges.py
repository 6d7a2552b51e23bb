"""Invoice path, rating: what each price model charges for a quantity, exactly.

Invariant: a charge returns steps whose exact amounts add up to its result; nothing is rounded
here but quantities, and those only into whole packages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Protocol

from billing.domain.errors import UsageNotRatable
from billing.domain.pricing.steps import Step

ZERO: Final = Fraction(0)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What of the usage is free by a percentage price: the amount, and how many events whole."""

    amount: Fraction
    events: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What is rated: a quantity (of percentage prices, the amount), or each event's value.

    `values` are the events' values in time order; only percentage prices need them, or else their
    `events_count` and `allowance`, where these were counted already. `dimensions` are the group's
    values, which a matrix price looks up.
    """

    quantity: Fraction
    values: Sequence[Fraction] | None = None
    events_count: int | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)
    allowance: Allowance | None = None

    @classmethod
    def of_values(cls, values: Sequence[Fraction]) -> Usage:
        """Events one by one; the quantity is their sum."""
        return cls(sum(values, ZERO), values, len(values))


class Charge(Protocol):
    """One price model with its numbers."""

    def steps(self, usage: Usage) -> list[Step]:
        """How the amount comes about; the amount is the sum of the steps'."""
        ...


def packages(paid: Fraction, size: Fraction) -> int:
    """How many packages: rounded up, none at zero and below."""
    if paid <= 0:
        return 0
    return -((-paid.numerator * size.denominator) // (paid.denominator * size.numerator))


def after_free(quantity: Fraction, free: Fraction) -> Fraction:
    """What is left to pay; free units never turn a negative quantity into a charge or credit."""
    return quantity if quantity < 0 or not free else max(quantity - free, ZERO)


@dataclass(frozen=True, slots=True)
class Flat:
    """A fee per licensed unit: of a plain fee the quantity is 1."""

    amount: Fraction

    def steps(self, usage: Usage) -> list[Step]:
        """Quantity x amount."""
        return [Step.of("fee", usage.quantity, self.amount)]


@dataclass(frozen=True, slots=True)
class PerUnit:
    """Every unit costs the same."""

    unit_amount: Fraction
    free_units: Fraction = ZERO

    def steps(self, usage: Usage) -> list[Step]:
        """(Quantity - free units) x unit amount."""
        paid = after_free(usage.quantity, self.free_units)
        step = Step.of("units", paid, self.unit_amount)
        return [*_free_step(usage.quantity - paid), step]


@dataclass(frozen=True, slots=True)
class Package:
    """Whole packages: one begun is one paid."""

    package_amount: Fraction
    package_size: Fraction
    free_units: Fraction = ZERO

    def steps(self, usage: Usage) -> list[Step]:
        """ceil((quantity - free units) / size) x package amount, 0 at 0."""
        paid = after_free(usage.quantity, self.free_units)
        count = Fraction(packages(paid, self.package_size))
        step = Step.of("packages", count, self.package_amount)
        return [*_free_step(min(self.free_units, usage.quantity)), step]


def _free_step(quantity: Fraction) -> list[Step]:
    return [Step("free units", quantity)] if quantity > 0 else []


@dataclass(frozen=True, slots=True)
class Percentage:
    """A rate on amounts, and a fixed fee per event; the first events or amounts may be free.

    Events come in time order. The allowance ends when either free events or free amount is used
    up; an event that crosses the free amount pays the rate on the part above it, and the fee.
    """

    rate_percent: Fraction
    fixed_amount: Fraction = ZERO
    free_events: int | None = None
    free_amount: Fraction | None = None

    @property
    def has_allowance(self) -> bool:
        """Whether something is free, so that the events' order counts."""
        return self.free_events is not None or self.free_amount is not None

    def steps(self, usage: Usage) -> list[Step]:
        """The free part, the rate on the rest, the fee for each event that pays."""
        free, paying = self._allowance(usage)
        paid = usage.quantity - free
        rated = Step("rate", paid, self.rate_percent, paid * self.rate_percent / 100, unit="%")
        steps = [*_free_step(free), rated]
        if self.fixed_amount:
            steps.append(Step.of("fixed fee", Fraction(paying), self.fixed_amount))
        return steps

    def _allowance(self, usage: Usage) -> tuple[Fraction, int]:
        """The amount that is free, and how many events pay the fee."""
        if usage.values is not None:
            return self._allowance_of(usage.values)
        if usage.allowance is not None and usage.events_count is not None:
            return usage.allowance.amount, usage.events_count - usage.allowance.events
        if self.free_events is None:
            free = max(min(usage.quantity, self.free_amount or ZERO), ZERO)
            if not self.fixed_amount:
                return free, 0
            if self.free_amount is None and usage.events_count is not None:
                return free, usage.events_count
        if self.has_allowance and self._all_free(usage):
            return usage.quantity, 0
        raise UsageNotRatable(
            "This price needs the single events in time order: its fixed fee or its free events"
            " depend on them. Give the value of each instead of their sum."
        )

    def _all_free(self, usage: Usage) -> bool:
        """Whether the sum alone shows that the allowance was not used up."""
        events_fit = self.free_events is None or (
            usage.events_count is not None and usage.events_count <= self.free_events
        )
        return events_fit and (self.free_amount is None or usage.quantity <= self.free_amount)

    def _allowance_of(self, values: Sequence[Fraction]) -> tuple[Fraction, int]:
        if self.free_events is None and self.free_amount is None:
            return ZERO, len(values)
        free = ZERO
        for index, value in enumerate(values):
            if index == self.free_events or free == self.free_amount:
                return free, len(values) - index
            if self.free_amount is not None and free + value > self.free_amount:
                return self.free_amount, len(values) - index
            free += value
        return free, 0


@dataclass(frozen=True, slots=True)
class Matrix:
    """A unit amount for each combination of dimension values."""

    dimensions: tuple[str, ...]
    cells: Mapping[tuple[str, ...], Fraction]
    default_unit_amount: Fraction | None = None

    def steps(self, usage: Usage) -> list[Step]:
        """Quantity x the amount of its cell."""
        key = tuple(usage.dimensions.get(name, "") for name in self.dimensions)
        amount = self.cells.get(key, self.default_unit_amount)
        if amount is None:
            named = ", ".join(f"{n}={v!r}" for n, v in zip(self.dimensions, key, strict=True))
            raise UsageNotRatable(
                f"The matrix has no cell for {named} and no default_unit_amount. Amend or void that usage; for what is"
                " to come, supersede the price by one that has it, and migrate the subscription.",
                metadata=dict(zip(self.dimensions, key, strict=True)),
            )
        return [Step.of(" / ".join(key), usage.quantity, amount)]
