"""Step 0 of dispatcher and router: one owner per shard, told apart from earlier ones by its term."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from billing.services.leases import Lease, LeaseKind
from tests.backbone import Backbone
from workers.leases import LeaseKeeper, LeaseSettings


class Stopwatch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def keeper_of(backbone: Backbone, watch: Stopwatch | None = None, shards: int = 8) -> LeaseKeeper:
    return LeaseKeeper(
        backbone.databases.worker,
        LeaseKind.SENDER,
        uuid4(),
        LeaseSettings(),
        shards=shards,
        monotonic=watch or Stopwatch(),
    )


def shards_of(keeper: LeaseKeeper) -> list[int]:
    return [lease.shard for lease in keeper.usable()]


async def test_holders_come_to_share_the_shards_evenly_and_none_has_two_owners(
    backbone: Backbone,
) -> None:
    first, second, third = (keeper_of(backbone) for _ in range(3))
    await first.step()
    assert shards_of(first) == list(range(8))

    for _ in range(3):
        for keeper in (first, second, third):
            await keeper.step()

    owned = [shards_of(keeper) for keeper in (first, second, third)]
    assert sorted(shard for shards in owned for shard in shards) == list(range(8))
    assert sorted(map(len, owned)) == [2, 3, 3]


async def test_keepers_that_step_at_once_never_own_the_same_shard(backbone: Backbone) -> None:
    keepers = [keeper_of(backbone, shards=16) for _ in range(5)]
    for _ in range(4):
        await asyncio.gather(*[keeper.step() for keeper in keepers])
        owned = [shard for keeper in keepers for shard in shards_of(keeper)]
        assert len(owned) == len(set(owned))
    assert sorted(owned) == list(range(16))


async def test_a_lease_that_ran_out_is_taken_under_a_higher_term(backbone: Backbone) -> None:
    dead, heir = keeper_of(backbone), keeper_of(backbone)
    await dead.step()
    await backbone.expire_leases()

    await heir.step()

    assert [lease.term for lease in heir.usable()] == [2] * 8
    await dead.step()
    assert len(dead.usable()) + len(heir.usable()) <= 12
    assert not set(dead.usable()) & set(heir.usable())


async def test_nothing_is_begun_under_a_lease_that_could_run_out_meanwhile(
    backbone: Backbone,
) -> None:
    watch = Stopwatch()
    keeper = keeper_of(backbone, watch)
    await keeper.step()
    [lease, *_] = keeper.usable()
    settings = keeper.settings

    watch.seconds += settings.lease_s - settings.act_margin_s - 0.1
    assert keeper.may_act(lease)
    watch.seconds += 0.2
    assert not keeper.may_act(lease)
    assert keeper.usable() == []
    await keeper.step()
    assert keeper.may_act(lease)
    assert not keeper.may_act(Lease(lease.shard, lease.term + 1))


async def test_a_surplus_shard_is_given_up_only_when_no_act_is_under_way(
    backbone: Backbone,
) -> None:
    first, second = keeper_of(backbone), keeper_of(backbone)
    await first.step()
    await second.step()
    busy = Lease(7, 1)
    with first.acting(busy):
        await first.step()
        await second.step()
        assert busy not in first.usable()
        assert 7 not in shards_of(second)
    await first.step()
    await second.step()
    assert shards_of(second) == [4, 5, 6, 7]


async def test_who_leaves_gives_everything_up_at_once(backbone: Backbone) -> None:
    leaver, heir = keeper_of(backbone), keeper_of(backbone)
    await leaver.step()
    await leaver.close()
    await heir.step()
    assert shards_of(heir) == list(range(8))


async def test_taking_a_partition_puts_the_term_into_its_position(backbone: Backbone) -> None:
    keeper = backbone.keeper(LeaseKind.ROUTER)
    await keeper.step()
    await backbone.expire_leases()
    await backbone.keeper(LeaseKind.ROUTER).step()
    rows = await backbone.fetch("SELECT term FROM router_positions")
    assert [row["term"] for row in rows] == [2, 2]


async def test_a_partition_whose_position_is_locked_is_taken_later(backbone: Backbone) -> None:
    await backbone.keeper(LeaseKind.ROUTER).step()
    await backbone.expire_leases()
    heir = backbone.keeper(LeaseKind.ROUTER)
    async with backbone.databases.worker.transaction() as zombie:
        await zombie.execute("SELECT FROM router_positions WHERE partition = 0 FOR UPDATE")
        await heir.step()
        assert shards_of(heir) == [1]
    await heir.step()
    assert shards_of(heir) == [0, 1]


def test_times_with_which_a_lease_could_run_out_between_renewals_are_refused() -> None:
    with pytest.raises(ValueError, match="lease_s"):
        LeaseSettings(lease_s=9.0, renew_every_s=2.0, act_margin_s=6.0)
