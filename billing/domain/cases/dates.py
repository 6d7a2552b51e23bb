"""`tollway pricing check`: anchors and proration."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final

from billing.domain.cases.case import Case, NotSupported, Section, day_text, last_day_text
from billing.domain.cases.compare import Value
from billing.domain.cases.prices import ZERO, Got
from billing.domain.money import Money
from billing.domain.period import Interval, Period, Schedule, calendar_anchor
from billing.domain.proration import (
    ChangeLines,
    Granularity,
    cancel_cut,
    change_cut,
    change_lines,
    unused_credit,
    unused_share,
)
from billing.domain.totals import tax_of

NEXT_MAX: Final = 1000
_DAY: Final = timedelta(days=1)
_INSTANT: Final = timedelta(microseconds=1)
# The published cases write some facts in config and some in usage, and not always the same.
_FACTS: Final = frozenset(
    {
        "amount",
        "anchor_day",
        "behavior",
        "billing_time",
        "change",
        "fraction_remaining",
        "from",
        "granularity",
        "interval",
        "new_amount",
        "new_first_period",
        "new_period_days",
        "old_amount",
        "old_period",
        "pay",
        "period",
        "period_days",
        "period_end_inclusive",
        "start",
        "tax_percent",
        "to_exclusive",
        "to_inclusive",
        "trial_days",
    }
)
_BEHAVIORS: Final = {"create_prorations", "always_invoice", "prorate", "none"}


def _interval(config: Section) -> Interval:
    name = config.text("interval", "month")
    if name not in list(Interval):
        raise NotSupported(f"config.interval={name}")
    return Interval(name)


def _day_anchor(config: Section, interval: Interval, near: datetime) -> datetime:
    """An anchor on that day: of the months, January has them all; longer ones begin as `near`."""
    day = config.whole("anchor_day")
    if interval in (Interval.DAY, Interval.WEEK):
        raise NotSupported(f"config.anchor_day with interval={interval}")
    if interval is Interval.MONTH:
        return datetime(2000, 1, day, tzinfo=UTC)
    return near.replace(day=min(day, calendar.monthrange(near.year, near.month)[1]))


def billing_anchor(case: Case) -> Got:
    """The dates that follow an anchor, or the periods around a date."""
    config = case.config.only("interval", "anchor", "anchor_day")
    usage = case.usage.only("next_n", "around", "billing_at")
    interval = _interval(config)
    asked = usage.need("next_n", "around", "billing_at")
    if config.has("anchor") or asked == "next_n":
        schedule = Schedule(config.instant("anchor"), "UTC", interval)
    else:
        schedule = Schedule(_day_anchor(config, interval, usage.instant(asked)), "UTC", interval)
    match asked:
        case "next_n":
            count = min(usage.whole("next_n"), NEXT_MAX)
            return {"total": [day_text(schedule.boundary(n)) for n in range(1, count + 1)]}
        case "around":
            n = schedule.index_at(usage.instant("around"))
            return {"total": [_dates(schedule.nth(n - 1)), _dates(schedule.nth(n))]}
        case _:
            return {"total": _dates(schedule.containing(usage.instant("billing_at")))}


def _dates(period: Period) -> list[Value]:
    return [day_text(period.start), last_day_text(period)]


def proration(case: Case) -> Got:
    """All five: a part of a period at one price, or a change between two."""
    raw = {**case.config.only(*_FACTS).raw, **case.usage.only(*_FACTS).raw}
    facts = Section(raw, "case")
    if facts.text("behavior", "prorate") not in _BEHAVIORS:
        raise NotSupported(f"config.behavior={facts.text('behavior')}")
    if case.model == "proration_change_interval":
        return _interval_change(case, facts)
    if facts.need("amount", "old_amount") == "old_amount":
        return _change(case, facts)
    if case.model == "proration_termination" and facts.has("change"):
        return _termination(case, facts)
    line = Money.of_exact(facts.number("amount") * _share_of_part(facts), case.currency)
    return _sums(facts, case.currency, {"line": line})


def _termination(case: Case, facts: Section) -> Got:
    """What was used until the end, or what an advance fee gives back for the time after it."""
    change = _cut_at(facts, cancel_cut)
    nominal = _nominal(facts, change - _INSTANT, _end(facts))
    amount, currency = facts.number("amount"), case.currency
    if facts.text("pay", "in_advance") == "in_advance":
        unused = _share(facts, change, _end(facts) or nominal.end, nominal)
        credit = unused_credit(amount, unused, currency)
        return _sums(facts, currency, {"credit_line": credit})
    start = max(_begin(facts, nominal.start), nominal.start)
    line = Money.of_exact(amount * _share(facts, start, change, nominal), currency)
    return _sums(facts, currency, {"line": line})


def _change(case: Case, facts: Section) -> Got:
    """An old price and a new one, cut at the change."""
    currency, old, new = case.currency, facts.number("old_amount"), facts.number("new_amount")
    if facts.text("behavior", "prorate") == "none":
        nothing = Money.zero(currency)
        return _change_sums(facts, ChangeLines(nothing, nothing))
    remaining = _share_of_part(facts)
    if facts.text("pay", "in_advance") == "in_advance":
        return _change_sums(facts, change_lines(old, new, remaining, currency))
    # Nothing was paid in advance, so nothing is given back: each price pays for its part.
    lines = {
        "old_line": Money.of_exact(old * (1 - remaining), currency),
        "new_line": Money.of_exact(new * remaining, currency),
    }
    return _sums(facts, currency, lines)


def _interval_change(case: Case, facts: Section) -> Got:
    """A monthly price to a yearly one, say: the anchor's day stays."""
    change = _cut_at(facts, change_cut) if facts.has("change") else None
    if facts.has("fraction_remaining"):
        unused = facts.fraction("fraction_remaining")
    else:
        if change is None:
            raise NotSupported("usage without change")
        old = facts.period(facts.need("old_period", "period"))
        unused = unused_share(old, change)
    lines = change_lines(
        facts.number("old_amount"),
        facts.number("new_amount"),
        unused,
        case.currency,
        new_share=_new_share(facts, change),
    )
    return _change_sums(facts, lines)


def _new_share(facts: Section, change: datetime | None) -> Fraction:
    """The first new period's share of a full new one."""
    if facts.has("new_first_period"):
        first = facts.period("new_first_period")
        if facts.has("new_period_days"):
            return _days(first.start, first.end) / facts.number("new_period_days")
        return Fraction(1)
    if change is None or not facts.has("anchor_day"):
        raise NotSupported("config without new_first_period")
    interval = _interval(facts)
    schedule = Schedule(_day_anchor(facts, interval, change), "UTC", interval)
    return unused_share(schedule.containing(change), change)


def _share_of_part(facts: Section) -> Fraction:
    """The share of the full period that is charged: from the start or change to the end."""
    if facts.has("fraction_remaining"):
        return facts.fraction("fraction_remaining")
    match facts.need("change", "from", "start"):
        case "change":
            start = _cut_at(facts, change_cut)
        case "from":
            start = facts.instant("from")
        case _:
            start = _begin(facts, facts.instant("start"))
    end = _end(facts)
    nominal = _nominal(facts, start, end)
    return _share(facts, max(start, nominal.start), end or nominal.end, nominal)


def _share(facts: Section, start: datetime, end: datetime, nominal: Period) -> Fraction:
    if start >= end:
        return ZERO
    if facts.has("period_days"):
        return _days(start, end) / facts.number("period_days")
    return Period(start, end).share_of(nominal)


def _days(start: datetime, end: datetime) -> Fraction:
    return Fraction((end - start) // _INSTANT, _DAY // _INSTANT)


def _cut_at(facts: Section, cut: Callable[[datetime, Granularity, str], datetime]) -> datetime:
    """Where the change cuts, by the plan's granularity."""
    name = facts.text("granularity", "second")
    if name not in list(Granularity):
        raise NotSupported(f"config.granularity={name}")
    return cut(facts.instant("change"), Granularity(name), "UTC")


def _begin(facts: Section, default: datetime) -> datetime:
    """Where the paid time begins: the start, after the trial."""
    if not facts.has("start"):
        return default
    return facts.instant("start") + facts.whole("trial_days", 0) * _DAY


def _end(facts: Section) -> datetime | None:
    for key, extra in (("to_exclusive", 0), ("to_inclusive", 1), ("period_end_inclusive", 1)):
        if facts.has(key):
            return facts.instant(key) + extra * _DAY
    return None


def _nominal(facts: Section, start: datetime, end: datetime | None) -> Period:
    """The full period that the part is cut from: the one that holds its last moment."""
    if facts.has("period"):
        return facts.period("period")
    inside = end - _INSTANT if end is not None else start
    interval = _interval(facts)
    if facts.has("anchor_day"):
        anchor = _day_anchor(facts, interval, end or start)
    else:
        match facts.text("billing_time", "calendar"):
            case "calendar":
                anchor = calendar_anchor(inside, "UTC", interval)
            case "anniversary":
                anchor = _begin(facts, start)
            case other:
                raise NotSupported(f"config.billing_time={other}")
    return Schedule(anchor, "UTC", interval).containing(inside)


def _change_sums(facts: Section, lines: ChangeLines) -> Got:
    got = _sums(facts, lines.net.currency, {"credit_line": lines.credit, "debit_line": lines.debit})
    owed = max(-lines.net, Money.zero(lines.net.currency))
    return {
        **got,
        "repair_line": lines.credit,
        "recurring_line": lines.debit,
        "net": lines.net,
        "account_credit": owed,
    }


def _sums(facts: Section, currency: str, lines: dict[str, Money]) -> dict[str, Value]:
    """The lines and their total, with tax per line if the case has a tax."""
    percent = facts.number("tax_percent", ZERO)
    net = tax = Money.zero(currency)
    for line in lines.values():
        net += line
        tax += tax_of(line, percent)
    return {**lines, "net": net, "tax": tax, "total": net + tax}
