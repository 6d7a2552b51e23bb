"""Invoices and credit notes: every sum follows from the lines, and nothing is lost on the way."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.credit_note import CreditableLine, credit_note
from billing.domain.errors import CreditExceedsInvoice, CreditExceedsLine, CurrencyMismatch, Invalid
from billing.domain.money import Money
from billing.domain.totals import (
    LINES_MAX,
    AmountDiscount,
    Discount,
    Line,
    PercentDiscount,
    commitment_true_up,
    invoice_totals,
    split_payment,
)


def eur(minor_units: int) -> Money:
    return Money(minor_units, "EUR")


percents = st.integers(0, 10_000).map(lambda n: Fraction(n, 100))
lines = st.builds(Line, st.integers(-(10**6), 10**7).map(eur), percents, st.none() | percents)
discounts: st.SearchStrategy[Discount] = st.builds(PercentDiscount, percents) | st.builds(
    AmountDiscount, st.integers(0, 10**7).map(eur)
)


@given(st.lists(lines, max_size=8), st.lists(discounts, max_size=3), st.integers(0, 10**7))
def test_all_sums_follow_from_the_lines(
    rows: list[Line], reductions: list[Discount], credit: int
) -> None:
    totals = invoice_totals(rows, reductions, eur(credit))
    assert totals.subtotal == eur(sum(row.amount.minor_units for row in rows))
    assert totals.discount == eur(sum(line.discount.minor_units for line in totals.lines))
    assert totals.tax == eur(sum(line.tax.minor_units for line in totals.lines))
    balance = totals.subtotal - totals.discount + totals.tax
    assert balance == totals.total - totals.to_credit_balance
    assert totals.total >= eur(0)
    assert not (totals.total and totals.to_credit_balance)
    assert eur(0) <= totals.credit_applied <= eur(credit)
    assert totals.amount_due == totals.total - totals.credit_applied >= eur(0)
    for row, line in zip(rows, totals.lines, strict=True):
        exact = line.net.exact * row.tax_percent / 100
        assert abs(line.tax.exact - exact) <= Fraction(1, 200)


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    st.lists(discounts, max_size=3),
)
def test_a_discount_never_makes_a_line_negative_nor_takes_more_than_there_is(
    amounts: list[int], reductions: list[Discount]
) -> None:
    totals = invoice_totals([Line(eur(a)) for a in amounts], reductions, eur(0))
    assert all(eur(0) <= line.net <= line.amount for line in totals.lines)


@given(st.lists(lines, max_size=8), st.lists(percents.map(PercentDiscount), max_size=2))
def test_opposite_invoices_net_to_zero(rows: list[Line], reductions: list[PercentDiscount]) -> None:
    there = invoice_totals(rows, reductions, eur(0))
    opposite = [Line(-r.amount, r.tax_percent, r.own_discount_percent) for r in rows]
    back = invoice_totals(opposite, reductions, eur(0))
    assert there.discount + back.discount == eur(0)
    assert there.total - there.to_credit_balance == back.to_credit_balance - back.total


def test_discounts_come_before_tax_and_credit_after() -> None:
    rows = [Line(eur(10_000), Fraction(10)), Line(eur(5_000)), Line(eur(5_000), Fraction(20))]
    totals = invoice_totals(rows, [AmountDiscount(eur(1_000))], eur(50_000))
    assert [line.discount.minor_units for line in totals.lines] == [500, 250, 250]
    assert [line.tax.minor_units for line in totals.lines] == [950, 0, 950]
    assert (totals.total, totals.amount_due) == (eur(20_900), eur(0))


def test_an_adjustment_carries_the_discount_of_its_own_period() -> None:
    rows = [Line(eur(1000)), Line(eur(-1000), own_discount_percent=Fraction(10))]
    totals = invoice_totals(rows, [PercentDiscount(Fraction(50))], eur(0))
    assert [line.net.minor_units for line in totals.lines] == [500, -900]
    assert (totals.total, totals.to_credit_balance) == (eur(0), eur(400))


def test_an_invoice_has_one_currency_and_limits() -> None:
    with pytest.raises(CurrencyMismatch):
        invoice_totals([Line(Money(1, "USD"))], [], eur(0))
    with pytest.raises(Invalid, match="10000 lines"):
        invoice_totals([Line(eur(1))] * (LINES_MAX + 1), [], eur(0))
    with pytest.raises(Invalid):
        PercentDiscount(Fraction(101))
    with pytest.raises(Invalid):
        AmountDiscount(eur(-1))


def test_a_commitment_tops_up_and_a_partial_period_scales_it() -> None:
    assert commitment_true_up(Fraction(1000), eur(80_000)) == eur(20_000)
    assert commitment_true_up(Fraction(1000), eur(130_000)) == eur(0)
    assert commitment_true_up(Fraction(1000), eur(0), scale=Fraction(1, 3)) == eur(33_333)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_payment_pays_what_is_due_and_the_rest_is_kept(due: int, paid: int) -> None:
    applied, excess = split_payment(eur(due), eur(paid))
    assert applied + excess == eur(paid)
    assert applied == eur(min(due, paid))


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    st.integers(0, 10**6),
)
def test_notes_of_a_line_never_exceed_it_and_end_at_exactly_its_tax(
    net: int, tax: int, wanted: list[int], due: int
) -> None:
    credited, credited_tax, given_back = 0, 0, 0
    for asked in [*wanted, net]:
        amount = min(asked, net - credited)
        if not amount:
            break
        line = CreditableLine(eur(net), eur(tax), eur(credited), eur(credited_tax))
        note = credit_note({1: line}, {1: eur(amount)}, total=eur(net + tax), due=eur(due))
        assert note.lowers_due + note.to_credit_balance == note.total
        assert note.lowers_due == eur(min(due, note.total.minor_units))
        assert note.tax >= eur(0)
        credited += amount
        credited_tax += note.tax.minor_units
        given_back += note.total.minor_units
        due -= note.lowers_due.minor_units
    if credited == net:
        assert given_back == net + tax


def test_a_note_above_what_is_left_is_refused() -> None:
    line = CreditableLine(eur(100), eur(20), eur(60), eur(12))
    with pytest.raises(CreditExceedsLine, match=r"0\.40 EUR left"):
        credit_note({1: line}, {1: eur(41)}, total=eur(120), due=eur(0))
    for amounts in ({}, {2: eur(1)}, {1: eur(0)}, {1: eur(-5)}):
        with pytest.raises(Invalid):
            credit_note({1: line}, amounts, total=eur(120), due=eur(0))


def test_a_note_never_takes_more_than_the_invoice_however_large_a_line_is() -> None:
    none = eur(0)
    lines = {
        1: CreditableLine(eur(100), none, eur(30), none),
        2: CreditableLine(eur(-60), none, none, none),
    }
    with pytest.raises(CreditExceedsInvoice, match=r"0\.10 EUR left"):
        credit_note(lines, {1: eur(11)}, total=eur(40), due=eur(10))
    assert credit_note(lines, {1: eur(10)}, total=eur(40), due=eur(10)).lowers_due == eur(10)
