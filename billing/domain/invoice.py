"""Invoice path: draft -> open -> paid | void.

Invariant: only an open invoice is paid or voided. A draft is not voided: it is the only claim on
its key (subscription, kind, boundary), and a period must not stay unbilled; it is finalized and
then voided. Paid and void are final; corrections of them are credit notes.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from billing.domain.errors import InvoicePartlyPaid
from billing.domain.lifecycle import Machine, StatusChanged
from billing.domain.money import Money


class InvoiceStatus(StrEnum):
    """Where an invoice stands."""

    DRAFT = "draft"
    OPEN = "open"  # finalized: numbered and immutable but for status and amounts paid
    PAID = "paid"
    VOID = "void"


class InvoiceAction(StrEnum):
    """What moves an invoice."""

    FINALIZE = "finalize"
    SETTLE = "settle"  # nothing is due any more: paid, credited, or a total of zero
    VOID = "void"


class InvoiceKind(StrEnum):
    """Why an invoice exists; all but manual are unique per subscription, kind and boundary."""

    ACTIVATION = "activation"
    PERIOD = "period"
    CHANGE = "change"
    FINAL = "final"
    ADJUSTMENT = "adjustment"
    MANUAL = "manual"  # has no subscription and stands outside that key


MACHINE: Final = Machine(
    "invoice",
    InvoiceStatus.DRAFT,
    MappingProxyType(
        {
            (InvoiceStatus.DRAFT, InvoiceAction.FINALIZE): InvoiceStatus.OPEN,
            (InvoiceStatus.OPEN, InvoiceAction.SETTLE): InvoiceStatus.PAID,
            (InvoiceStatus.OPEN, InvoiceAction.VOID): InvoiceStatus.VOID,
        }
    ),
)


def apply_lifecycle(
    status: InvoiceStatus, action: InvoiceAction, now: datetime
) -> tuple[InvoiceStatus, StatusChanged]:
    """The next status and its event, or InvalidTransition."""
    return MACHINE.apply(status, action, now)


def void(
    status: InvoiceStatus, amount_settled: Money, now: datetime
) -> tuple[InvoiceStatus, StatusChanged]:
    """VOID of an invoice that nothing was paid or credited of; any other can only be credited."""
    moved = apply_lifecycle(status, InvoiceAction.VOID, now)
    if amount_settled:
        raise InvoicePartlyPaid(metadata={"amount_settled": str(amount_settled)})
    return moved


def counts_as_billed(status: InvoiceStatus, *, waived: bool) -> bool:
    """Whether an invoice's lines count when a period's amount is compared with what was billed.

    Finalized invoices that are not void, or are waived (voided without a reissue).
    """
    return status in (InvoiceStatus.OPEN, InvoiceStatus.PAID) or waived
