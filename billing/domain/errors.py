"""Every path: the closed vocabulary in which the house says no.

Invariant: each error has one kind (how a client reacts) and one reason (what happened). The reason
equals a value of the proto enum ErrorReason without its prefix; server/errors.py is the only place
that turns either into a gRPC status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, Self

_REASON: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


class Kind(StrEnum):
    """What a client can do about an error; server/errors.py maps each to one gRPC code."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    CONFLICT = "conflict"  # ABORTED: read again, then try again
    PRECONDITION = "precondition"
    PERMISSION = "permission"
    UNAUTHENTICATED = "unauthenticated"
    EXHAUSTED = "exhausted"
    OUT_OF_RANGE = "out_of_range"
    UNAVAILABLE = "unavailable"
    UNIMPLEMENTED = "unimplemented"


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: `path` as in the request (`tiers[2].up_to`), and what to write instead."""

    path: str
    description: str


class BillingError(Exception):
    """The request could not be carried out."""

    kind: ClassVar[Kind]
    reason: ClassVar[str]

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: int | None = None,
    ) -> None:
        if not hasattr(self, "reason"):
            name = type(self).__name__
            raise TypeError(f"{name} is a kind without a reason; raise a subclass that has one.")
        # An error that needs no particulars says what its class says.
        self.message = message or (type(self).__doc__ or "").strip().split("\n")[0]
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        # A kind may leave the reason to its subclasses; then it cannot be raised itself.
        reason = getattr(cls, "reason", "" if "kind" not in vars(cls) else "KIND")
        if not _REASON.fullmatch(reason) or not isinstance(getattr(cls, "kind", None), Kind):
            raise TypeError(f"{cls.__name__} needs a kind and a reason in UPPER_SNAKE.")


class Invalid(BillingError):
    """The request is wrong in itself; correct the named fields."""

    kind = Kind.INVALID
    reason = "INVALID_ARGUMENT"

    @classmethod
    def field(cls, path: str, description: str) -> Self:
        """One wrong field."""
        return cls(f"{path}: {description}", violations=[Violation(path, description)])


class NotFound(BillingError):
    """There is no such object in this tenant."""

    kind = Kind.NOT_FOUND


class AlreadyExists(BillingError):
    """An object with this identity exists already."""

    kind = Kind.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class Conflict(BillingError):
    """Somebody else changed it first; read it again and retry."""

    kind = Kind.CONFLICT


class Precondition(BillingError):
    """The object is not in a state that allows this."""

    kind = Kind.PRECONDITION


class EtagMismatch(Conflict):
    """It was changed since its etag was read; read it again."""

    reason = "ETAG_MISMATCH"


class PermissionDenied(BillingError):
    """The key lacks the scope that this call needs."""

    kind = Kind.PERMISSION


class Unauthenticated(BillingError):
    """Send a valid API key as `authorization: Bearer`."""

    kind = Kind.UNAUTHENTICATED


class Exhausted(BillingError):
    """A limit is used up; slow down or ask for a higher one."""

    kind = Kind.EXHAUSTED


class OutOfRange(BillingError):
    """The value lies outside the range that can be answered."""

    kind = Kind.OUT_OF_RANGE


class Unavailable(BillingError):
    """A part of the house is not reachable now; retry with backoff."""

    kind = Kind.UNAVAILABLE
    reason = "UNAVAILABLE"


class InvalidTransition(Precondition):
    """The state machine has no such step from the present state."""

    reason = "INVALID_TRANSITION"


class CurrencyMismatch(Invalid):
    """Amounts of different currencies cannot be combined; use one currency."""

    reason = "CURRENCY_MISMATCH"


class UnknownCurrency(Invalid):
    """The currency is not an ISO 4217 code in use; give one such as EUR."""

    reason = "UNKNOWN_CURRENCY"


class AmountOutOfRange(OutOfRange):
    """The amount does not fit into 64 bits of minor units."""

    reason = "AMOUNT_OUT_OF_RANGE"


class InvalidDecimal(Invalid):
    """A decimal is digits with an optional point, such as 12.5, within the stated limits."""

    reason = "INVALID_DECIMAL"


class InvalidPrice(Invalid):
    """The price cannot be used as it is written; correct the named fields."""

    reason = "INVALID_PRICE"


class InvalidMeter(Invalid):
    """The meter cannot be used as it is written; correct the named fields."""

    reason = "INVALID_METER"


class InvalidPeriod(Invalid):
    """A period is a start and a later end, both with a time zone."""

    reason = "INVALID_PERIOD"


class InvalidTimeZone(Invalid):
    """The time zone is not in the IANA database; give one such as Europe/Vienna."""

    reason = "INVALID_TIME_ZONE"


class InvalidId(Invalid):
    """The id is not one of this kind; give it as it was answered, with its prefix."""

    reason = "INVALID_ID"


class UsageNotRatable(Invalid):
    """The usage lacks what this price needs to be rated."""

    reason = "USAGE_NOT_RATABLE"


class CreditExceedsLine(Precondition):
    """A credit note cannot take more from a line than earlier notes left on it."""

    reason = "CREDIT_EXCEEDS_LINE"


class CreditExceedsInvoice(Precondition):
    """A credit note cannot take more from an invoice than its total, less what earlier notes took."""

    reason = "CREDIT_EXCEEDS_INVOICE"


class InvoicePartlyPaid(Precondition):
    """An invoice with a payment or a credit note cannot be voided; issue a credit note for the rest instead."""

    reason = "INVOICE_PARTLY_PAID"


class InvalidSecret(Invalid):
    """A signing secret is `whsec_` and the base64 of 24 to 64 bytes."""

    reason = "INVALID_SECRET"


def error_types() -> Iterator[type[BillingError]]:
    """Every error class with a reason, as imported so far; a house test compares with the proto."""
    waiting = list(BillingError.__subclasses__())
    while waiting:
        error = waiting.pop()
        if hasattr(error, "reason"):
            yield error
        waiting.extend(error.__subclasses__())
