"""What of an invoice the service and the model must agree on."""

from __future__ import annotations

from typing import Any

from billing.services.invoice_line import Line
from tests.paths.billing_model import Bill
from tests.paths.billing_model import Line as ExpectedLine


def summary(row: Any) -> tuple[Any, ...]:
    amounts = ("total", "to_credit_balance", "credit_applied", "amount_paid", "amount_credited")
    return (
        (row["kind"], row["boundary"]),
        row["status"],
        row["waived"],
        row["finalize_at"],
        *[row[name] for name in amounts],
        row["amount_due"],
    )


def expected_summary(bill: Bill) -> tuple[Any, ...]:
    amounts = (bill.total, bill.to_balance, bill.applied, bill.paid, bill.credited)
    return (bill.key, bill.status, bill.waived, bill.finalize_at, *amounts, bill.due)


def shown_line(line: Line) -> tuple[Any, ...]:
    assert line.period is not None
    assert line.tax is not None
    return (str(line.kind), line.period.start, line.amount.minor_units, line.tax.minor_units)


def expected_line(line: ExpectedLine) -> tuple[Any, ...]:
    return (line.kind, line.start, line.amount, line.tax)
