"""Webhook path, step 2: whose turn it is. Time is a number that the tests choose."""

from __future__ import annotations

import random
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from workers.webhooks.schedule import Exchange, Schedule
from workers.webhooks.settings import SenderSettings

SETTINGS = SenderSettings()
TENANT = UUID(int=2**64)


def name(number: int) -> UUID:
    return UUID(int=number)


class Model:
    """Endpoints with backlogs, a schedule, and the exchanges that it began."""

    def __init__(self, settings: SenderSettings = SETTINGS) -> None:
        self.schedule = Schedule(settings)
        self.backlog: dict[UUID, int] = {}
        self.rates: dict[UUID, int] = {}
        self.open: list[Exchange] = []
        self.at = 0.0

    def add(self, webhook_id: UUID, count: int, tenant: UUID = TENANT) -> None:
        self.backlog[webhook_id] = self.backlog.get(webhook_id, 0) + count
        self.schedule.arrive(tenant, webhook_id, self.at)

    def claim(self) -> dict[UUID, int]:
        self.schedule.age(self.at)
        chosen = self.schedule.choose()
        got = {w: min(room, self.backlog.get(w, 0)) for w, room in chosen.items()}
        rates = {w: self.rates.get(w, 0) for w in got}
        self.schedule.settle(chosen, got, self.at, rates)
        for webhook_id, count in got.items():
            self.backlog[webhook_id] -= count
            self.open += [self.schedule.begin(webhook_id, self.at) for _ in range(count)]
        return {w: count for w, count in got.items() if count}

    def answer(self, exchange: Exchange, *, success: bool) -> None:
        self.open.remove(exchange)
        self.schedule.age(self.at)
        self.schedule.end(exchange)
        self.schedule.commit(exchange, self.at, success=success)


def test_the_cap_grows_with_each_success_to_its_limit_and_halves_on_a_failure() -> None:
    model, caps = Model(), []
    model.add(name(1), 10_000)
    for _ in range(8):
        caps.append(model.claim()[name(1)])
        for exchange in list(model.open):
            model.answer(exchange, success=True)
    assert caps == [1, 2, 4, 8, 16, 32, 32, 32]
    model.claim()
    model.answer(model.open[0], success=False)
    assert model.open[0].lane.cap == 16
    assert model.open[0].lane.bad


def test_bad_endpoints_get_two_rows_of_a_claim_until_one_answers() -> None:
    model = Model()
    for number in range(50):
        model.add(name(number), 100)
    assert sum(model.claim().values()) == 50
    for exchange in list(model.open):
        model.answer(exchange, success=False)
    assert sum(model.claim().values()) == 2
    recovered = model.open[0].lane
    model.answer(model.open[0], success=True)
    assert not recovered.bad
    assert model.claim()[recovered.webhook_id] == recovered.cap == 2


def test_an_exchange_gives_its_slot_back_after_50_ms_and_makes_its_endpoint_bad_after_half_a_second() -> (
    None
):
    model = Model(SenderSettings(slots=4))
    for number in range(10):
        model.add(name(number), 10)
    assert sum(model.claim().values()) == 4
    assert not model.claim()
    model.at = 0.051
    assert sum(model.claim().values()) == 4
    assert not any(exchange.lane.bad for exchange in model.open)
    model.at = 0.56
    model.schedule.age(model.at)
    assert all(exchange.lane.bad for exchange in model.open)


def test_the_newest_arrival_is_served_in_the_next_claim_whatever_the_backlog() -> None:
    model = Model(SenderSettings(claim_rows_max=3, slots=100_000, open_max=100_000))
    for number in range(1000):
        model.add(name(number), 100)
    model.claim()
    for newcomer in range(5000, 5050):
        model.add(name(newcomer), 1)
        assert name(newcomer) in model.claim()


def test_the_oldest_is_served_though_newer_ones_keep_arriving() -> None:
    model = Model(SenderSettings(claim_rows_max=3, slots=100_000, open_max=100_000))
    for number in range(10):
        model.add(name(number), 1)
    for newcomer in range(5000, 5020):
        model.add(name(newcomer), 1)
        model.claim()
    assert not any(model.backlog[name(number)] for number in range(10))


def test_hanging_endpoints_stop_at_their_bound_and_the_healthy_go_on() -> None:
    model = Model(SenderSettings(bad_open_max=20))
    for number in range(100):
        model.add(name(number), 1000)
    for step in range(100):
        model.at = step * 0.6
        model.claim()
    hung = len(model.open)
    assert hung <= 100 + 20
    model.add(name(999), 100)
    served = 0
    for _ in range(20):
        served += model.claim().get(name(999), 0)
        for exchange in [e for e in model.open if e.lane.webhook_id == name(999)]:
            model.answer(exchange, success=True)
    assert served == 100


def test_what_arrives_while_a_claim_is_under_way_is_not_forgotten() -> None:
    schedule = Schedule(SETTINGS)
    schedule.arrive(TENANT, name(1), 0.0)
    chosen = schedule.choose()
    schedule.arrive(TENANT, name(1), 0.0)
    schedule.settle(chosen, {}, 0.0)
    assert schedule.choose() == {name(1): 1}


def test_after_a_claim_that_failed_everything_is_as_before() -> None:
    schedule = Schedule(SETTINGS)
    schedule.arrive(TENANT, name(1), 0.0)
    chosen = schedule.choose()
    schedule.abandon(chosen, 0.0)
    assert schedule.free_slots == SETTINGS.slots
    assert schedule.choose() == chosen


def test_idle_endpoints_are_forgotten_and_others_are_not() -> None:
    model = Model()
    model.add(name(1), 1)
    model.claim()
    model.add(name(2), 1)
    model.schedule.forget(10_000.0)
    assert set(model.schedule._lanes) == {name(1), name(2)}
    model.answer(model.open[0], success=True)
    model.claim()
    model.claim()
    for exchange in list(model.open):
        model.answer(exchange, success=True)
    model.claim()
    model.schedule.forget(10_000.0)
    assert not model.schedule._lanes


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 8))
def test_whatever_happens_caps_and_slots_hold_and_everything_is_served(
    seed: int, endpoints: int, slots: int
) -> None:
    chance = random.Random(seed)
    model = Model(SenderSettings(slots=slots, claim_rows_max=8))
    for number in range(endpoints):
        model.add(name(number), chance.randint(0, 10))
    for _ in range(2000):
        model.at += chance.choice([0.0, 0.01, 0.06, 0.6])
        model.claim()
        for exchange in model.open:
            assert exchange.lane.open <= SETTINGS.per_endpoint_max
        assert len(model.schedule._young) <= slots
        for exchange in chance.sample(model.open, chance.randint(0, len(model.open))):
            model.answer(exchange, success=chance.random() < 0.7)
        if not any(model.backlog.values()) and not model.open:
            break
    assert not any(model.backlog.values())
    assert model.schedule.free_slots == min(slots, SETTINGS.slots)


def test_an_endpoint_that_asked_for_time_is_not_chosen_before_it_is_over() -> None:
    model = Model()
    model.add(name(1), 5)
    model.claim()
    [exchange] = model.open
    model.schedule.hold(exchange, model.at, 10.0)
    model.answer(exchange, success=False)
    model.schedule.hold(exchange, model.at, 2.0)
    model.at = 9.9
    model.add(name(1), 1)
    assert not model.claim()
    model.schedule.forget(model.at + 1_000_000)
    model.at = 10.0
    assert model.claim() == {name(1): 1}


def test_nobody_is_left_alone_for_longer_than_the_limit() -> None:
    model = Model()
    model.add(name(1), 5)
    model.claim()
    [exchange] = model.open
    model.schedule.hold(exchange, model.at, 1e9)
    model.answer(exchange, success=False)
    model.at = SETTINGS.hold_max_s
    assert model.claim() == {name(1): 1}


def test_a_tenant_with_thousands_of_endpoints_has_no_more_turns_than_one_with_a_single_one() -> (
    None
):
    model = Model(SenderSettings(claim_rows_max=4, slots=100_000, open_max=100_000))
    for number in range(5_000):
        model.add(name(number), 100)
    for number in range(9_000, 9_003):
        model.add(name(number), 1, tenant=name(number + 1))
    # Newer arrivals of the big tenant do not keep the others out.
    model.add(name(5_001), 100)
    model.claim()
    model.claim()
    assert not any(model.backlog[name(number)] for number in range(9_000, 9_003))


def test_an_endpoint_begins_no_more_in_a_second_than_its_rate() -> None:
    model, begun = Model(), 0
    model.rates[name(1)] = 50
    model.add(name(1), 10_000)
    model.add(name(2), 400)
    others = 0
    while model.at < 10.0:
        got = model.claim()
        begun += got.get(name(1), 0)
        others += got.get(name(2), 0)
        assert got.get(name(1), 0) <= 5
        for exchange in list(model.open):
            model.answer(exchange, success=True)
        model.at += 0.005
    assert 450 <= begun <= 501
    assert others == 400


def test_a_limit_that_was_lifted_holds_no_longer() -> None:
    model = Model()
    model.rates[name(1)] = 1
    model.add(name(1), 100)
    assert model.claim() == {name(1): 1}
    model.answer(model.open[0], success=True)
    assert not model.claim()
    assert model.schedule.next_release == 1.0
    model.rates[name(1)] = 0
    model.at = 1.0
    model.claim()
    for _ in range(3):
        for exchange in list(model.open):
            model.answer(exchange, success=True)
        model.claim()
    assert len(model.open) > 1
