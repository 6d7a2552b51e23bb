"""Replay path, step 3: a slice of events given to the target.

Invariant: what a sink does is committed together with how far the replay has come, so a worker that dies repeats
nothing and skips nothing. No payload is touched: the outbox and the deliveries name events of the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import queries.dead_letters
import queries.replays
from queries.replays import ListSliceRow as Event

from billing.domain.ids import Prefix, decode, encode
from billing.domain.replay import Effects, Mode, TargetKind
from billing.domain.webhook import DeliveryStatus, EndpointStatus
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services import audit, dead_letters, events, usage_recompute
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.replay_run import Run
from billing.services.replay_safety import USAGE, WEBHOOKS
from billing.services.routing import load_logged
from billing.services.webhook_recoveries import may_miss
from billing.services.webhook_resend import RESENT_PARTITION

ACTOR: Final = "worker:replay"


class Given(NamedTuple):
    """What became of a slice: given to the target, handled before, or not possible."""

    sent: int
    skipped: int
    failed: int


Sink = Callable[[Connection, Run, Sequence[Event]], Awaitable[Given]]
# Computes anew what these events touched. The live run of those without a mark in the inbox comes first.
Recompute = Callable[[Connection, Sequence[Incoming], Run], Awaitable[None]]


def sink_of(run: Run) -> Sink:
    """How the target of a replay gets its events."""
    match run.plan.target.kind:
        case TargetKind.BUS:
            return to_bus
        case TargetKind.CONSUMER:
            return to_force if run.plan.safety.mode is Mode.FORCE else to_consumer
        case TargetKind.ENDPOINT:
            return to_endpoint
        case TargetKind.DEAD_LETTERS:
            return to_dead_letters


def queues(run: Run) -> bool:
    """Whether the events travel over the bus, so that the replay waits for its consumers at the end."""
    return sink_of(run) in {to_bus, to_consumer}


async def to_bus(tx: Connection, run: Run, given: Sequence[Event]) -> Given:
    """Everything goes out again; who has had it is told by its inbox."""
    sent = [event for event in given if not event.dead]
    await queue(tx, run, sent)
    return Given(len(sent), sum(event.processed for event in sent), len(given) - len(sent))


async def to_consumer(tx: Connection, run: Run, given: Sequence[Event]) -> Given:
    """Only what the consumer wants and has not handled goes out, addressed to it."""
    subjects = run.reached[run.plan.target.name]
    alive = [event for event in given if not event.dead]
    sent = [e for e in alive if not e.processed and (subjects is None or e.subject in subjects)]
    await queue(tx, run, sent)
    return Given(len(sent), len(alive) - len(sent), len(given) - len(alive))


async def to_force(tx: Connection, run: Run, given: Sequence[Event]) -> Given:
    """The consumer computes anew what the events touched, here and now, once for this replay.

    No detour over the bus: what is computed comes from the facts under their locks, so it needs no order.
    """
    consumer = run.plan.target.name
    subjects = run.reached[consumer]
    wanted = [e for e in given if not e.dead and (subjects is None or e.subject in subjects)]
    fresh = set(
        await queries.replays.insert_inbox_replays(
            tx,
            tenant_id=run.tenant_id,
            consumer=consumer,
            event_ids=[event.id for event in wanted],
            replay_id=run.row.id,
        )
    )
    envelopes = await load_logged(tx, fresh)
    incoming = [Incoming.of(envelopes[event_id]) for event_id in sorted(envelopes)]
    if incoming:
        await _RECOMPUTES[consumer](tx, incoming, run)
    dead = sum(event.dead for event in given)
    return Given(len(fresh), len(given) - dead - len(fresh), dead)


async def to_endpoint(tx: Connection, run: Run, given: Sequence[Event]) -> Given:
    """What the endpoint never got, and wants, is due again, under the id that it always had."""
    endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, run.plan.target.name)
    endpoint = await queries.replays.lock_replay_endpoint(
        tx, tenant_id=run.tenant_id, id=endpoint_id
    )
    if endpoint is None:
        return Given(0, 0, len(given))
    enabled = endpoint.status == EndpointStatus.ENABLED
    again = await queries.replays.redrive_deliveries(
        tx,
        tenant_id=run.tenant_id,
        webhook_id=endpoint_id,
        event_ids=[event.id for event in given],
        subjects=[event.subject for event in given],
        wanted=[may_miss(endpoint.subjects, event.subject) for event in given],
        status=str(DeliveryStatus.PENDING if enabled else DeliveryStatus.PARKED),
        shard=endpoint.shard,
        partition=RESENT_PARTITION,
        now=run.now,
    )
    hints.wake(hints.DELIVERIES)
    return Given(len(again), len(given) - len(again), 0)


async def to_dead_letters(tx: Connection, run: Run, given: Sequence[Event]) -> Given:
    """What was given up of these events is tried again where it was given up."""
    suppressed = run.plan.safety.external_effects is Effects.SUPPRESS
    dead = await queries.replays.list_dead_of(
        tx,
        event_ids=[event.id for event in given],
        resources=sorted({event.resource for event in given}),
        left_out=[WEBHOOKS] if suppressed else [],
    )
    # All partitions first, in the router's order: each letter locks its own, and the letters have another.
    for partition in sorted({letter.partition for letter in dead}):
        await queries.dead_letters.lock_partition(tx, partition=partition)
    cause = Cause(ACTOR, run.row.id, method="replay")
    why = f"{encode(Prefix.REPLAY, run.row.id)} {run.row.note}"
    for letter in dead:
        await dead_letters.redrive(tx, letter.id, run.tenant_id, now=run.now)
        change = audit.Change(encode(Prefix.DEAD_LETTER, letter.id), why)
        await audit.record(tx, run.tenant_id, change, cause, now=run.now)
    touched = len({letter.event_id for letter in dead})
    return Given(touched, len(given) - touched, 0)


async def queue(tx: Connection, run: Run, sent: Iterable[Event]) -> None:
    """Puts events into the outbox, behind all live ones and in order."""
    ordered = _in_order(sent)
    if not ordered:
        return
    await queries.replays.arm_replay(
        tx,
        purpose=run.purpose,
        tenant_id=run.tenant_id,
        replay_id=run.row.id,
        target=run.route,
        event_ids=[event.id for event in ordered],
        subjects=[event.subject for event in ordered],
        resources=[event.resource for event in ordered],
        hashes=[events.resource_hash(run.tenant_id, event.resource) for event in ordered],
    )
    hints.wake(hints.OUTBOX)


def _in_order(sent: Iterable[Event]) -> list[Event]:
    """By id, and within a resource by version: of two transactions, the later in line may have made its id first."""
    latest: dict[str, UUID] = {}
    keyed = []
    for event in sorted(sent, key=lambda event: (event.resource_version, event.id)):
        place = latest[event.resource] = max(latest.get(event.resource, event.id), event.id)
        keyed.append((place, event.resource_version, event))
    keyed.sort(key=lambda item: item[:2])
    return [event for _, _, event in keyed]


async def _recompute_usage(tx: Connection, incoming: Sequence[Incoming], run: Run) -> None:
    await usage_recompute.recompute(
        tx, incoming, run.now, always_rate=run.plan.safety.emit_follow_ups
    )


_RECOMPUTES: Final[Mapping[str, Recompute]] = {USAGE: _recompute_usage}
