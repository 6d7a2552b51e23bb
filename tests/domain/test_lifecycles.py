"""State machines: every state and every action, by the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest

from billing.domain import invoice, subscription, usage, webhook
from billing.domain.errors import InvalidTransition, InvoicePartlyPaid
from billing.domain.invoice import InvoiceStatus
from billing.domain.lifecycle import Machine, StatusChanged, mermaid
from billing.domain.money import Money
from billing.domain.usage import TimestampRefusal, refuse_timestamp

NOW = datetime(2024, 5, 1, tzinfo=UTC)

# What is allowed, written once more by hand: "state action state".
MACHINES: dict[str, tuple[Machine[Any, Any], type[StrEnum], type[StrEnum], str]] = {
    "subscription": (
        subscription.MACHINE,
        subscription.SubscriptionStatus,
        subscription.SubscriptionAction,
        """created start_trial trialing
        created activate active
        created cancel canceled
        trialing activate active
        trialing cancel canceled
        active cancel canceled""",
    ),
    "invoice": (
        invoice.MACHINE,
        InvoiceStatus,
        invoice.InvoiceAction,
        """draft finalize open
        open settle paid
        open void void""",
    ),
    "usage period": (
        usage.MACHINE,
        usage.UsagePeriodStatus,
        usage.UsagePeriodAction,
        """reported rate rated
        reported bill billed
        rated bill billed
        billed reopen reported""",
    ),
    "webhook endpoint": (
        webhook.ENDPOINT,
        webhook.EndpointStatus,
        webhook.EndpointAction,
        """enabled disable disabled
        disabled enable enabled
        enabled delete deleted
        disabled delete deleted""",
    ),
    "webhook delivery": (
        webhook.DELIVERY,
        webhook.DeliveryStatus,
        webhook.DeliveryAction,
        """pending succeed delivered
        pending exhaust dead
        pending park parked
        pending cancel canceled
        parked succeed delivered
        parked unpark pending
        parked cancel canceled
        dead redrive pending
        dead cancel canceled""",
    ),
}
STEPS = [
    pytest.param(machine, state, action, allowed, id=f"{kind}: {state} {action}")
    for kind, (machine, states, actions, allowed) in MACHINES.items()
    for state in states
    for action in actions
]


@pytest.mark.parametrize(("machine", "state", "action", "allowed"), STEPS)
def test_an_action_moves_a_state_by_the_table_or_is_refused(
    machine: Machine[Any, Any], state: StrEnum, action: StrEnum, allowed: str
) -> None:
    rows = {(a, b): c for a, b, c in (line.split() for line in allowed.splitlines())}
    expected = rows.get((state.value, action.value))
    if expected is None:
        with pytest.raises(InvalidTransition) as refusal:
            machine.apply(state, action, NOW)
        assert refusal.value.metadata["status"] == state
        return
    moved, event = machine.apply(state, action, NOW)
    assert moved == expected
    assert event == StatusChanged(machine.resource_kind, state, moved, action, NOW)
    assert state in machine.sources(action)


@pytest.mark.parametrize("kind", MACHINES)
def test_every_state_can_be_reached_and_is_drawn(kind: str) -> None:
    machine, states, _, allowed = MACHINES[kind]
    reached = {machine.initial} | set(machine.table.values())
    assert reached == set(states)
    drawing = mermaid(machine).splitlines()
    assert drawing[:2] == ["stateDiagram-v2", f"    [*] --> {machine.initial}"]
    for line in allowed.splitlines():
        state, action, to = line.split()
        assert f"    {state} --> {to} : {action}" in drawing
    final = [state for state in states if not machine.allowed(state)]
    assert all(f"    {state} --> [*]" in drawing for state in final)


def test_a_refusal_says_what_is_possible() -> None:
    with pytest.raises(InvalidTransition, match=r"possible is: settle, void\."):
        invoice.apply_lifecycle(InvoiceStatus.OPEN, invoice.InvoiceAction.FINALIZE, NOW)
    with pytest.raises(InvalidTransition, match="the state is final"):
        invoice.apply_lifecycle(InvoiceStatus.PAID, invoice.InvoiceAction.VOID, NOW)


def test_an_invoice_with_a_payment_can_only_be_credited() -> None:
    nothing = Money.zero("EUR")
    assert invoice.void(InvoiceStatus.OPEN, nothing, NOW)[0] is InvoiceStatus.VOID
    with pytest.raises(InvoicePartlyPaid):
        invoice.void(InvoiceStatus.OPEN, Money(1, "EUR"), NOW)
    with pytest.raises(InvalidTransition):
        invoice.void(InvoiceStatus.DRAFT, nothing, NOW)


@pytest.mark.parametrize(
    ("status", "waived", "counts"),
    [
        ("draft", False, False),
        ("open", False, True),
        ("paid", False, True),
        ("void", False, False),
        ("void", True, True),
    ],
)
def test_lines_of_void_invoices_count_as_billed_only_when_waived(
    status: str, waived: bool, counts: bool
) -> None:
    assert invoice.counts_as_billed(InvoiceStatus(status), waived=waived) is counts


def test_a_record_is_at_most_35_days_old_and_5_minutes_ahead() -> None:
    old, ahead, tick = timedelta(days=35), timedelta(minutes=5), timedelta(microseconds=1)
    assert refuse_timestamp(NOW - old, NOW) is None
    assert refuse_timestamp(NOW - old - tick, NOW) is TimestampRefusal.TOO_OLD
    assert refuse_timestamp(NOW - old - tick, NOW, allow_backfill=True) is None
    assert refuse_timestamp(NOW + ahead, NOW) is None
    assert refuse_timestamp(NOW + ahead + tick, NOW, allow_backfill=True) == "in_future"


@pytest.mark.parametrize(
    ("status_code", "failing_for", "disables"),
    [
        (410, None, True),
        (500, None, False),
        (500, timedelta(days=5) - timedelta(seconds=1), False),
        (500, timedelta(days=5), True),
        (302, timedelta(days=5), True),
        (None, timedelta(days=5), True),
        (204, timedelta(days=50), False),
    ],
)
def test_an_endpoint_is_disabled_by_a_410_or_5_days_of_only_failures(
    status_code: int | None, failing_for: timedelta | None, disables: bool
) -> None:
    since = NOW - failing_for if failing_for is not None else None
    assert webhook.should_disable(status_code, since, NOW) is disables
