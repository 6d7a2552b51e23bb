"""What of an invoice the service and the model must agree on."""

from __future__ import annotations

from typing import Any

from billing.services.invoice_line import Line
from tests.paths.billing_facts import Bill
from tests.paths.billing_facts import Line as ExpectedLine


def summary(row: Any) -> tuple[Any, ...]:
    amounts = (
        "discount",
        "tax",
        "total",
        "to_credit_balance",
        "credit_applied",
        "amount_paid",
        "amount_credited",
    )
    return (
        (row["kind"], row["boundary"]),
        row["status"],
        row["waived"],
        row["number"],
        row["finalize_at"],
        *[row[name] for name in amounts],
        row["amount_due"],
    )


def expected_summary(bill: Bill) -> tuple[Any, ...]:
    number = f"INV-{bill.number:06}" if bill.number else None
    sums = (sum(line.discount for line in bill.lines), sum(line.tax for line in bill.lines))
    amounts = (*sums, bill.total, bill.to_balance, bill.applied, bill.paid, bill.credited)
    return (bill.key, bill.status, bill.waived, number, bill.finalize_at, *amounts, bill.due)


def shown_line(line: Line) -> tuple[Any, ...]:
    assert line.period is not None
    assert line.discount is not None
    assert line.tax is not None
    amounts = (line.amount, line.discount, line.tax)
    return (str(line.kind), line.period.start, *[amount.minor_units for amount in amounts])


def expected_line(line: ExpectedLine) -> tuple[Any, ...]:
    return (line.kind, line.start, line.amount, line.discount, line.tax)
