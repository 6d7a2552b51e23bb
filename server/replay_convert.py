"""The rim, step 4: replays on the wire.

Invariant: what is unspecified takes the safe default; nothing here decides anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from tollway.replay.v1 import replay_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.domain.replay import (
    Effects,
    EventStatus,
    Mode,
    ReplayStatus,
    Safety,
    Target,
    TargetKind,
)
from billing.services import replay_plan, replay_token, replay_warnings, replays
from billing.services.replay_filter import FilterDraft
from server.convert import from_timestamp, to_range, to_timestamp

STATUS: Final = {
    ReplayStatus.RUNNING: pb.REPLAY_STATUS_RUNNING,
    ReplayStatus.PAUSED: pb.REPLAY_STATUS_PAUSED,
    ReplayStatus.CANCELED: pb.REPLAY_STATUS_CANCELED,
    ReplayStatus.FINISHED: pb.REPLAY_STATUS_FINISHED,
}
_MODE: Final = {Mode.PRESERVE: pb.REPLAY_MODE_PRESERVE, Mode.FORCE: pb.REPLAY_MODE_FORCE}
_EFFECTS: Final = {
    Effects.SUPPRESS: pb.EXTERNAL_EFFECTS_SUPPRESS,
    Effects.ALLOW: pb.EXTERNAL_EFFECTS_ALLOW,
}
_EVENT_STATUS: Final = {
    pb.REPLAY_EVENT_STATUS_UNSPECIFIED: EventStatus.ANY,
    pb.REPLAY_EVENT_STATUS_DISPATCHED: EventStatus.DISPATCHED,
    pb.REPLAY_EVENT_STATUS_DEAD_LETTER: EventStatus.DEAD_LETTER,
}


def status_text(status: int) -> str:
    """The state as it is stored; empty for any."""
    return next((str(stored) for stored, sent in STATUS.items() if sent == status), "")


def to_draft(request: pb.PlanReplayRequest, tenant_id: UUID | None) -> replay_plan.PlanDraft:
    """What to plan, from the wire."""
    asked = request.filter
    span = asked.time_range
    correlation_id = (
        decode(Prefix.CORRELATION, asked.correlation_id, path="filter.correlation_id")
        if asked.correlation_id
        else None
    )
    selected = FilterDraft(
        tenant_id,
        tuple(asked.subjects),
        asked.resource_id,
        correlation_id,
        tuple(
            decode(Prefix.EVENT, text, path=f"filter.event_ids[{place}]")
            for place, text in enumerate(asked.event_ids)
        ),
        from_timestamp(span.start, path="filter.time_range.start")
        if span.HasField("start")
        else None,
        from_timestamp(span.end, path="filter.time_range.end") if span.HasField("end") else None,
        _EVENT_STATUS[asked.status],
    )
    return replay_plan.PlanDraft(
        selected,
        [_target(target) for target in request.targets],
        request.max_events,
        request.rate_per_second,
        _safety(request),
    )


def _target(target: pb.ReplayTarget) -> Target:
    match target.WhichOneof("target"):
        case "consumer":
            return Target(TargetKind.CONSUMER, target.consumer.consumer)
        case "endpoint":
            endpoint = target.endpoint.endpoint_id
            decode(Prefix.WEBHOOK_ENDPOINT, endpoint, path="targets[0].endpoint.endpoint_id")
            return Target(TargetKind.ENDPOINT, endpoint)
        case "dead_letters":
            return Target(TargetKind.DEAD_LETTERS)
        case _:
            return Target(TargetKind.BUS)


def _safety(request: pb.PlanReplayRequest) -> Safety:
    forced = request.mode == pb.REPLAY_MODE_FORCE
    allowed = request.external_effects == pb.EXTERNAL_EFFECTS_ALLOW
    return Safety(
        Mode.FORCE if forced else Mode.PRESERVE,
        Effects.ALLOW if allowed else Effects.SUPPRESS,
        request.allow_closed_periods,
        request.allow_older_than_inbox,
        request.stop_on_errors,
        request.emit_follow_ups,
    )


def to_plan(
    planned: replay_plan.Planned, token: str, confirmation: replay_token.Confirmation
) -> pb.PlanReplayResponse:
    """A plan and its confirmation for the wire."""
    plan, found = planned.plan, planned.found
    span = plan.filter.span
    answer = pb.PlanReplayResponse(
        matched=plan.matched,
        subjects=[pb.SubjectCount(subject=s, count=c) for s, c in _most_first(found.subjects)],
        consumers=[
            pb.ConsumerCount(
                consumer=consumer, wanted=count, processed=found.processed.get(consumer, 0)
            )
            for consumer, count in planned.wanted.items()
        ],
        time_range=to_range(span.start, span.end),
        first_event_id=encode(Prefix.EVENT, plan.first_id) if plan.first_id else "",
        last_event_id=encode(Prefix.EVENT, plan.last_id) if plan.last_id else "",
        warnings=planned.warnings,
        plan_hash=plan.digest.hex(),
        confirmation_token=token,
        token_expire_time=to_timestamp(confirmation.expires_at),
        tenants=[
            pb.TenantCount(tenant_id=encode(Prefix.TENANT, UUID(t)), count=c)
            for t, c in _most_first({str(t): c for t, c in found.tenants.items()})
        ],
        samples=[
            pb.ReplaySample(
                event_id=encode(Prefix.EVENT, row.id),
                subject=row.subject,
                resource_id=row.resource,
                occur_time=to_timestamp(row.occurred_at),
            )
            for row in planned.samples
        ],
        dead_letters=[
            pb.DeadLetterCount(consumer=c, count=n) for c, n in sorted(found.dead.items())
        ],
    )
    answer.estimated_duration.FromTimedelta(replay_warnings.estimated_duration(plan))
    if plan.target.kind is TargetKind.ENDPOINT:
        answer.deliveries.CopyFrom(_deliveries(found))
    return answer


def _deliveries(found: replay_plan.Found) -> pb.DeliveryCounts:
    states = found.deliveries
    return pb.DeliveryCounts(
        delivered=states.get("delivered", 0),
        pending=states.get("pending", 0),
        parked=states.get("parked", 0),
        dead=states.get("dead", 0),
        missing=found.matched - sum(states.values()),
    )


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def to_replay(view: replays.ReplayView, now: datetime) -> pb.Replay:
    """A replay for the wire; `now` is for how long it still takes."""
    row, plan = view.row, view.plan
    answer = pb.Replay(
        id=encode(Prefix.REPLAY, row.id),
        tenant_id=encode(Prefix.TENANT, row.tenant_id),
        status=STATUS[ReplayStatus(row.status)],
        matched=row.matched,
        published=view.published,
        skipped=row.skipped,
        failed=view.failed,
        note=row.note,
        start_time=to_timestamp(row.started_at),
        finish_time=to_timestamp(row.finished_at),
        target=row.target,
        mode=_MODE[plan.safety.mode],
        external_effects=_EFFECTS[plan.safety.external_effects],
        rate_per_second=plan.rate_per_second,
        status_note=row.status_note,
        actor=row.actor,
        rounds=row.rounds,
    )
    remaining = view.remaining(now)
    if remaining is not None:
        duration = Duration()
        duration.FromTimedelta(remaining)
        answer.remaining_duration.CopyFrom(duration)
    return answer
