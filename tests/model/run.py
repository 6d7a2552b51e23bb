"""A run: chance decides who acts and what befalls them, then all is left to come to rest, and everything is checked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from tests.model.actors import Dispatcher, Healer, Router
from tests.model.rules import Rule
from tests.model.world import CONSUMERS, FEED, ORDERED, Broken, Event, Stream, World

EVENTS_MAX = 8
RESOURCES = 2
TRANSACTION_MAX = 2  # ticks


@dataclass(frozen=True, slots=True)
class Counterexample:
    """What was seen, and everything that led there."""

    seed: int
    what: str
    told: list[str]


def run(seed: int, without: Collection[Rule] = ()) -> Counterexample | None:
    """One run; None when nothing was wrong."""
    house = Run(seed, without)
    try:
        house.play()
        house.come_to_rest()
        house.check()
    except Broken as broken:
        return Counterexample(seed, str(broken), house.world.told)
    return None


class Run:
    """A world with two processes of each role, and an operator."""

    def __init__(self, seed: int, without: Collection[Rule]) -> None:
        world = self.world = World(seed, without)
        self.dispatchers = [Dispatcher(world, 0), Dispatcher(world, 1)]
        self.routers = [Router(world, 0), Router(world, 1)]
        self.healer = Healer(world)
        chance = world.chance
        self.steps = chance.choice((40, 80, 160, 320))
        self.events = chance.randint(2, EVENTS_MAX)
        self.troubled = chance.random() < 0.6
        self.bus_loses = chance.random() < 0.4

    # --- chance

    def play(self) -> None:
        acts = (
            (0.16, self._produce),
            (0.30, lambda: self.world.chance.choice(self.dispatchers).step()),
            (0.28, lambda: self.world.chance.choice(self.routers).step()),
            (0.08, self._tick),
            (0.06, self._heal),
            (0.02, self.world.read_feed),
            (0.05, self._lose_a_lease),
            (0.03, self._die),
            (0.03, self._hurt_the_bus),
            (0.02, self._operate),
            (0.01, self._deploy),
        )
        weights = [weight for weight, _ in acts]
        for _ in range(self.steps):
            [(_, act)] = self.world.chance.choices(acts, weights)
            act()

    def _produce(self) -> None:
        world = self.world
        if world.open and world.chance.random() < 0.6:
            world.commit(world.chance.choice(world.open))
        elif len(world.log) + len(world.open) < self.events:
            resource = world.chance.randrange(RESOURCES)
            if resource not in {event.resource for event in world.open}:
                world.begin(resource, troubled=self.troubled)

    def _heal(self) -> None:
        self.healer.step()  # whichever it is by now

    def _tick(self) -> None:
        world = self.world
        for event in list(world.open):
            if world.now + 1 - event.made_at > TRANSACTION_MAX:
                world.commit(event)
        world.now += 1

    def _lose_a_lease(self) -> None:
        """Somebody else owns it from now on; the one before does not know."""
        world = self.world
        role = world.chance.choice(("dispatcher", "router"))
        lease = world.leases[role]
        lease.owner, lease.term = 1 - lease.owner, lease.term + 1
        if role == "router":
            world.position.term = lease.term
        world.tell(f"the {role}'s lease goes to {lease.owner}")

    def _die(self) -> None:
        world = self.world
        place = world.chance.randrange(2)
        match world.chance.choice(("dispatcher", "router", "healer")):
            case "dispatcher":
                self.dispatchers[place] = Dispatcher(world, place)
            case "router":
                self.routers[place].close()
            case _:
                self.healer = Healer(world)

    def _hurt_the_bus(self) -> None:
        world = self.world
        if world.stream is None:
            world.make_stream()
            return
        what = world.chance.choice(("forget ids", "trim", "delete", "lose the end"))
        if what == "forget ids":
            world.stream.window.clear()
        elif what == "trim":
            self._trim(world.stream)
        elif self.bus_loses:
            self._lose(world.stream, what)

    def _trim(self, stream: Stream) -> None:
        """The sweeper: nobody is to need these any more."""
        world = self.world
        routed = world.position.sequence if world.position.identity == stream.identity else 0
        end = routed if world.holds(Rule.TRIM_ROUTED) else stream.last
        for sequence in [s for s in stream.messages if s <= end]:
            del stream.messages[sequence]

    def _lose(self, stream: Stream, what: str) -> None:
        world = self.world
        world.tell(f"the bus: {what}")
        if what == "delete":
            world.lose(stream, list(stream.messages))
            world.stream = None
            return
        keep = max(stream.last - world.chance.randint(1, 3), 0)
        world.lose(stream, [s for s in stream.messages if s > keep])
        stream.last = keep
        # A server that lost its end was down: nobody's reader outlives that.
        for router in self.routers:
            router.close()

    def _operate(self) -> None:
        world = self.world
        if world.dead and world.chance.random() < 0.5:
            row = world.chance.choice(world.dead)
            world.dead.remove(row)
            row.attempts = 0
            if world.chance.random() < 0.5:
                world.waiting.append(row)
            else:
                world.inbox.add((row.consumer, row.event))
                world.discarded.add((row.consumer, row.event))
        elif world.outbox_dead:
            self._redrive_from_outbox()

    def _redrive_from_outbox(self) -> None:
        world = self.world
        row = world.outbox_dead.pop(world.chance.randrange(len(world.outbox_dead)))
        row.attempts, row.event.refused = 0, False
        world.outbox.append(row)
        if world.holds(Rule.REDRIVE_LOOKS_BACK):
            world.healed_until = min(world.healed_until, row.event.made_at - 1)
            self.healer = Healer(world)
        world.tell(f"an operator mends and redrives {row.event}")

    def _deploy(self) -> None:
        router = self.world.chance.choice(self.routers)
        router.close()
        router.is_new = True

    # --- the end

    def come_to_rest(self) -> None:
        """No more faults; everybody works until nothing is left to do. Half way, operators mend what is dead."""
        world = self.world
        world.calm = True
        for event in list(world.open):
            world.commit(event)
        if world.stream is None:
            world.make_stream()
        for router in self.routers:
            router.is_new = True
        self._work()
        self._check_blame()
        for event in world.log:
            event.failures.clear()
            event.refused = False
        while world.outbox_dead:
            self._redrive_from_outbox()
        world.waiting += world.dead
        world.dead.clear()
        self._work()
        world.read_feed()

    def _work(self) -> None:
        for _ in range(14):
            for _ in range(40):
                done = [dispatcher.step() for dispatcher in self.dispatchers]
                done += [router.step() for router in self.routers]
                if not any(done):
                    break
            self._tick()
            for _ in range(4):
                self.healer.step()

    def _check_blame(self) -> None:
        """Whoever is dead has been refused or has failed by its own fault."""
        for row in self.world.outbox_dead:
            if not row.event.refused:
                raise Broken(f"{row.event} is dead, but the bus never refused it")
        for dead in self.world.dead:
            if not dead.event.failures[dead.consumer]:
                raise Broken(f"{dead.event} is dead for {dead.consumer} without a fault")

    def check(self) -> None:
        """What must hold when all is quiet."""
        world = self.world
        if world.outbox or world.outbox_dead or world.waiting or world.dead:
            left = [row.event for row in (*world.outbox, *world.outbox_dead)]
            raise Broken(f"not everything arrived: {left}, {[w.event for w in world.waiting]}")
        for consumer in CONSUMERS:
            done = Counter(world.effects[consumer])
            for event in world.log:
                wanted = 0 if (consumer, event) in world.discarded else 1
                if done[event] != wanted:
                    raise Broken(f"{event} has {done[event]} effects on {consumer}, not {wanted}")
        for consumer in (ORDERED, FEED):
            self._check_order(consumer)
        places = [place for place, _ in world.feed]
        if places != list(range(1, len(places) + 1)):
            raise Broken(f"the feed's positions are {places}")
        if Counter(world.watched) != Counter(world.log):
            raise Broken(f"a watcher saw {world.watched}")

    def _check_order(self, consumer: str) -> None:
        """In order per resource; what the bus lost comes late."""
        versions: dict[int, list[Event]] = defaultdict(list)
        for event in self.world.effects[consumer]:
            if not event.lost:
                versions[event.resource].append(event)
        for events in versions.values():
            if events != sorted(events, key=lambda event: event.version):
                raise Broken(f"{consumer} handled {events} in this order")
