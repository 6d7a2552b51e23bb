"""The demo's proof, applied: every invoice against the raw file.

Invariant: totals, lines, numbers and the number of invoices are all compared; the first that is off fails the demo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tollway.invoice.v1 import invoice_service_pb2 as pb

from cli.demo.airline import DemoFailed
from cli.demo.recompute import MONTHLY_FEE_CENTS, Expected


@dataclass(frozen=True, slots=True)
class Totals:
    """What was billed and what the raw file says, in cents."""

    billed: int
    recomputed: int


def check_invoices(
    invoices: Sequence[pb.Invoice], code_of: Mapping[str, str], given: Expected
) -> Totals:
    """Compares each; `code_of` names a subscription's airline. Raises DemoFailed."""
    if len(invoices) != 2 * len(code_of):
        raise DemoFailed(
            f"{len(invoices)} invoices for {len(code_of)} subscriptions, not two for each"
        )
    recomputed = 0
    for bill in invoices:
        usage = (
            given.usage_cents(code_of[bill.subscription_id])
            if bill.kind == pb.INVOICE_KIND_PERIOD
            else 0
        )
        _check(bill, usage + MONTHLY_FEE_CENTS)
        recomputed += usage + MONTHLY_FEE_CENTS
    numbers = sorted(bill.number for bill in invoices)
    if numbers != [f"INV-{n:06d}" for n in range(1, len(numbers) + 1)]:
        raise DemoFailed(f"the invoice numbers have a gap: {numbers}")
    return Totals(sum(bill.total.minor_units for bill in invoices), recomputed)


def _check(bill: pb.Invoice, due: int) -> None:
    if bill.status != pb.INVOICE_STATUS_OPEN:
        raise DemoFailed(
            f"{bill.id} is {pb.InvoiceStatus.Name(bill.status)}: {bill.blocked_reason}"
        )
    if bill.total.minor_units != due:
        raise DemoFailed(f"{bill.number} says {bill.total.minor_units}, the raw file says {due}")
    if bill.total.minor_units != sum(line.amount.minor_units for line in bill.lines):
        raise DemoFailed(f"the lines of {bill.number} do not add up")
