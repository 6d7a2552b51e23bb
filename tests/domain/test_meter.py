"""Meters: the answer depends on the records alone, not on their order or batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.errors import InvalidMeter
from billing.domain.filters import Filter, FilterOperator, filters_config, parse_filters
from billing.domain.meter import (
    Aggregation,
    Bucket,
    Meter,
    UsageRecord,
    Window,
    measure,
    measure_groups,
    weighted_sum,
)
from billing.domain.period import Period

START = datetime(2024, 1, 1, tzinfo=UTC)
MONTH = Period(START, START + timedelta(days=31))
values = st.fractions(-1000, 1000, max_denominator=10**6)
properties = st.dictionaries(st.sampled_from(["region", "user"]), st.sampled_from(["a", "b", "c"]))
meters = st.sampled_from(list(Aggregation)).map(
    lambda kind: Meter(kind, "user" if kind is Aggregation.UNIQUE else None, (), ("region",))
)


@st.composite
def records(draw: st.DrawFn) -> list[UsageRecord]:
    rows = draw(st.lists(st.tuples(st.integers(-40, 40 * 24), values, properties), max_size=20))
    return [
        UsageRecord(f"k{i}", START + timedelta(hours=hour), value, found)
        for i, (hour, value, found) in enumerate(rows)
    ]


@given(records(), st.randoms(use_true_random=False), meters)
def test_no_aggregation_depends_on_the_order(
    rows: list[UsageRecord], random: st.DataObject, meter: Meter
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a Random, which hypothesis types late
    window = Window(MONTH, opening={("a",): Fraction(3)})
    assert measure(meter, shuffled, window) == measure(meter, rows, window)
    assert measure_groups(meter, shuffled, window) == measure_groups(meter, rows, window)


@given(st.lists(st.lists(values, max_size=5), max_size=6))
def test_buckets_do_not_depend_on_how_records_came_in_batches(
    batches: list[list[Fraction]],
) -> None:
    everything = [value for batch in batches for value in batch]
    merged = reduce(Bucket.merge, map(Bucket.of, batches), Bucket())
    assert merged == Bucket.of(everything)
    rows = [UsageRecord(str(i), START, value) for i, value in enumerate(everything)]
    for kind in Aggregation:
        if kind.from_buckets:
            assert merged.quantity(kind) == measure(Meter(kind), rows, Window(MONTH))
        else:
            with pytest.raises(InvalidMeter):
                merged.quantity(kind)


@given(records(), meters)
def test_groups_part_the_records_and_the_additive_ones_add_up(
    rows: list[UsageRecord], meter: Meter
) -> None:
    groups = measure_groups(meter, rows, Window(MONTH))
    if meter.aggregation in (Aggregation.COUNT, Aggregation.SUM, Aggregation.WEIGHTED_SUM):
        assert sum(groups.values(), Fraction(0)) == measure(meter, rows, Window(MONTH))


@given(records(), values, st.integers(1, 31 * 24 - 1))
def test_a_weighted_sum_is_the_same_when_its_period_is_cut(
    rows: list[UsageRecord], opening: Fraction, hour: int
) -> None:
    deltas = [(r.timestamp, r.value) for r in rows]
    whole = weighted_sum(deltas, MONTH, opening)
    cut = START + timedelta(hours=hour)
    first, second = Period(START, cut), Period(cut, MONTH.end)
    level = opening + sum((d for at, d in deltas if first.contains(at)), Fraction(0))
    parts = weighted_sum(deltas, first, opening, nominal=MONTH) + weighted_sum(
        deltas, second, level, nominal=MONTH
    )
    assert parts == whole


@given(records(), values)
def test_a_weighted_sum_is_the_integral_of_the_level(
    rows: list[UsageRecord], opening: Fraction
) -> None:
    inside = sorted((r.timestamp, r.value) for r in rows if MONTH.contains(r.timestamp))
    level, last, area = opening, START, Fraction(0)
    for at, delta in [*inside, (MONTH.end, Fraction(0))]:
        area += level * int((at - last).total_seconds())
        level, last = level + delta, at
    assert weighted_sum(inside, MONTH, opening) == area / (31 * 86400)


def test_an_opening_level_counts_without_any_record() -> None:
    meter = Meter(Aggregation.WEIGHTED_SUM, group_by=("region",))
    groups = measure_groups(meter, [], Window(MONTH, opening={("eu",): Fraction(5)}))
    assert groups == {("eu",): 5}


def test_the_latest_of_equal_times_is_decided_by_the_key() -> None:
    rows = [UsageRecord(key, START, Fraction(n)) for n, key in enumerate(["b", "c", "a"])]
    assert measure(Meter(Aggregation.LATEST), rows, Window(MONTH)) == 1
    assert measure(Meter(Aggregation.LATEST), [], Window(MONTH)) == 0


def test_filters_choose_and_an_absent_property_is_in_no_list() -> None:
    rows = [
        UsageRecord("1", START, Fraction(1), {"region": "eu"}),
        UsageRecord("2", START, Fraction(1), {"region": "us"}),
        UsageRecord("3", START, Fraction(1)),
    ]
    for operator, values_, expected in [("in", ["eu"], 1), ("not_in", ["eu"], 2)]:
        chosen = parse_filters([{"property": "region", "operator": operator, "values": values_}])
        assert measure(Meter(Aggregation.COUNT, None, chosen), rows, Window(MONTH)) == expected
    exists = (Filter("region", FilterOperator.EXISTS),)
    assert measure(Meter(Aggregation.COUNT, None, exists), rows, Window(MONTH)) == 2


@given(
    st.lists(
        st.builds(
            Filter,
            st.sampled_from(["region", "user"]),
            st.sampled_from([FilterOperator.IN, FilterOperator.NOT_IN]),
            st.frozensets(st.sampled_from(["a", "b"]), min_size=1),
        ),
        max_size=3,
    )
)
def test_filters_are_the_same_after_storing_and_reading_them(filters: list[Filter]) -> None:
    assert list(parse_filters(filters_config(filters))) == filters


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({}, "filters"),
        ([{}] * 21, "filters"),
        ([{"operator": "in"}], "filters[0].property"),
        ([{"property": "a", "operator": "like"}], "filters[0].operator"),
        ([{"property": "a", "operator": "in", "values": []}], "filters[0].values"),
        ([{"property": "a", "operator": "exists", "values": ["x"]}], "filters[0].values"),
    ],
)
def test_a_wrong_filter_names_the_field(raw: object, path: str) -> None:
    with pytest.raises(InvalidMeter) as refusal:
        parse_filters(raw)
    assert refusal.value.violations[0].path == path


def test_only_unique_names_a_property_to_count() -> None:
    for kind, name in [(Aggregation.UNIQUE, None), (Aggregation.SUM, "user")]:
        with pytest.raises(InvalidMeter, match="unique_property"):
            Meter(kind, name)
    with pytest.raises(InvalidMeter, match="group_by"):
        Meter(Aggregation.SUM, None, (), ("a", "a"))
