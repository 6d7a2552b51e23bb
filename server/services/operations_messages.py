"""The rim, step 4: what OperationsService converts. Invariant: nothing is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tollway.operations.v1 import operations_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.services.audit import HOUSE, AuditEntry, AuditFilter
from billing.services.dead_letters import DeadLetter, ListedLetter
from billing.services.lag import Lag
from billing.services.operations_status import LeaseState, Queue
from billing.services.pauses import Pause, PauseTarget
from billing.services.reconciliation import Reconciliation
from billing.services.routing import CONSUMER_LENGTH_MAX, LIVE
from billing.services.waiting import FIRST, WaitingEvent, WaitingFilter
from server.convert import optional_timestamp, to_timestamp

_ID_BYTES: Final = 16
PLACE_BYTES: Final = _ID_BYTES + CONSUMER_LENGTH_MAX + _ID_BYTES


def to_status(
    queues: Sequence[Queue],
    leases: Sequence[LeaseState],
    reconciled: Reconciliation,
    paused: Sequence[Pause],
) -> pb.GetStatusResponse:
    """The state of the pipeline."""
    return pb.GetStatusResponse(
        queues=[
            pb.Queue(name=queue.name, pending=queue.pending, oldest_time=to_timestamp(queue.oldest))
            for queue in queues
        ],
        leases=[
            pb.Lease(
                kind=lease.kind,
                shard=lease.shard,
                holder=str(lease.holder or ""),
                term=lease.term,
            )
            for lease in leases
        ],
        unreconciled_buckets=reconciled.differing,
        reconcile_time=to_timestamp(reconciled.finished_at),
        pauses=map(to_pause, paused),
    )


def to_dead_letter(dead: DeadLetter | ListedLetter) -> pb.DeadLetter:
    """A dead letter of the dispatcher or of a consumer."""
    return pb.DeadLetter(
        id=encode(Prefix.DEAD_LETTER, dead.id),
        consumer=dead.consumer,
        tenant_id=encode(Prefix.TENANT, dead.tenant_id),
        event_id=encode(Prefix.EVENT, dead.event_id),
        subject=dead.subject,
        resource_id=dead.resource,
        partition=dead.partition,
        attempts=dead.attempts,
        last_error=dead.last_error,
        die_time=to_timestamp(dead.died_at),
    )


def to_lag(lag: Lag) -> pb.GetLagResponse:
    """How far the pipeline is behind."""
    return pb.GetLagResponse(
        shards=[
            pb.ShardLag(
                shard=row.shard,
                pending=row.pending,
                refused=row.refused,
                oldest_time=to_timestamp(row.oldest),
            )
            for row in lag.shards
        ],
        partitions=[
            pb.PartitionLag(
                partition=row.position.partition,
                position=row.position.last_sequence,
                unrouted=row.unrouted,
                feed_position=row.position.feed_position,
                gaps=row.position.gaps,
                owned=row.position.routed,
            )
            for row in lag.partitions
        ],
        consumers=[
            pb.ConsumerLag(
                consumer=row.consumer,
                waiting=row.waiting,
                oldest_time=to_timestamp(row.oldest),
                dead=row.dead,
            )
            for row in lag.consumers
        ],
    )


def pause_target(request: pb.PauseRequest | pb.ResumeRequest) -> PauseTarget:
    """What is to be paused or resumed. Raises InvalidId."""
    match request.WhichOneof("target"):
        case "shard":
            return PauseTarget(shard=request.shard)
        case "consumer":
            return PauseTarget(consumer=request.consumer)
        case _:
            return PauseTarget(tenant_id=decode(Prefix.TENANT, request.tenant_id, path="tenant_id"))


def to_pause(pause: Pause) -> pb.ActivePause:
    """Something that is paused."""
    shown = pb.ActivePause(
        reason=pause.reason,
        actor=pause.actor,
        pause_time=to_timestamp(pause.paused_at),
        resume_time=to_timestamp(pause.resumed_at),
    )
    if pause.shard is not None:
        shown.shard = pause.shard
    if pause.consumer is not None:
        shown.consumer = pause.consumer
    if pause.tenant_id is not None:
        shown.tenant_id = encode(Prefix.TENANT, pause.tenant_id)
    return shown


def waiting_filter(request: pb.ListWaitingRequest, acting_for: UUID | None) -> WaitingFilter:
    """Which events; an operator that acts for a tenant sees that tenant's. Raises InvalidId."""
    tenant_id = acting_for
    if tenant_id is None and request.tenant_id:
        tenant_id = decode(Prefix.TENANT, request.tenant_id, path="tenant_id")
    return WaitingFilter(request.consumer or None, tenant_id, request.resource_id or None)


def place_key(place: tuple[UUID, str, UUID]) -> bytes:
    """A row's place in the list, as bytes of one length."""
    event_id, consumer, replay_id = place
    return event_id.bytes + consumer.encode().ljust(CONSUMER_LENGTH_MAX, b"\0") + replay_id.bytes


def read_place(key: bytes | None) -> tuple[UUID, str, UUID]:
    """The place in a page token; without one, before the first row."""
    if key is None:
        return FIRST
    event, consumer = key[:_ID_BYTES], key[_ID_BYTES:-_ID_BYTES]
    return UUID(bytes=event), consumer.rstrip(b"\0").decode(), UUID(bytes=key[-_ID_BYTES:])


def to_waiting(event: WaitingEvent) -> pb.WaitingEvent:
    """An event that waits, with its reason."""
    row = event.row
    behind, replay = row.behind_event_id, row.replay_id
    return pb.WaitingEvent(
        event_id=encode(Prefix.EVENT, row.event_id),
        consumer=row.consumer,
        tenant_id=encode(Prefix.TENANT, row.tenant_id),
        subject=row.subject,
        resource_id=row.resource,
        resource_version=row.resource_version,
        replay_id="" if replay == LIVE else encode(Prefix.REPLAY, replay),
        reason=pb.WaitReason.Value(f"WAIT_REASON_{event.reason.upper()}"),
        behind_event_id="" if behind is None else encode(Prefix.EVENT, behind),
        attempts=row.attempts,
        last_error=row.last_error,
        next_attempt_time=to_timestamp(row.next_attempt_at),
        park_time=to_timestamp(row.parked_at),
    )


def audit_filter(request: pb.ListAuditEntriesRequest, tenant_id: UUID | None) -> AuditFilter:
    """Which entries are asked for, of this tenant or of all. Raises Invalid."""
    return AuditFilter(
        tenant_id,
        request.actor or None,
        request.method or None,
        request.resource or None,
        optional_timestamp(request, "created_from"),
        optional_timestamp(request, "created_until"),
    )


def to_audit_entry(row: AuditEntry) -> pb.AuditEntry:
    """An entry of the audit for the wire."""
    return pb.AuditEntry(
        id=encode(Prefix.AUDIT_ENTRY, row.id),
        tenant_id="" if row.tenant_id == HOUSE else encode(Prefix.TENANT, row.tenant_id),
        actor=row.actor,
        method=row.method,
        resource=row.resource,
        request_id=row.request_id,
        correlation_id=encode(Prefix.CORRELATION, row.correlation_id),
        note=row.note,
        create_time=to_timestamp(row.created_at),
    )
