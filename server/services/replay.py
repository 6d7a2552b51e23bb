"""The rim's ReplayService. Invariant: a tenant's key acts under row-level security; an operator's alone goes beyond."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1 import replay_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection, Database
from billing.services import replay_plan, replay_token, replays
from billing.services.consumers import WANTED
from billing.services.replay_filter import FilterDraft
from server.authentication import tenant_named
from server.call import Call, current_call
from server.convert import from_timestamp, to_range, to_timestamp
from server.house import House
from server.interceptor import Context

_STATUS: Final = {
    "running": pb.REPLAY_STATUS_RUNNING,
    "finished": pb.REPLAY_STATUS_FINISHED,
}


class ReplayServicer(rpc.ReplayServiceServicer):
    """Stretches of the log, sent again."""

    def __init__(self, house: House) -> None:
        self._house = house
        key = house.vault.derive(replay_token.KEY_LABEL)
        self._confirmations = replay_token.Confirmations(key)

    async def PlanReplay(
        self, request: pb.PlanReplayRequest, context: Context
    ) -> pb.PlanReplayResponse:
        """See the proto."""
        call = current_call()
        draft = to_draft(request, tenant_named(call.principal, request.filter.tenant_id))
        async with self._pool(call).transaction(draft.filter.tenant_id, snapshot=True) as tx:
            planned = await replay_plan.plan_replay(tx, draft, WANTED, now=call.now)
        token, confirmation = self._confirmations.give(
            planned.plan, call.principal.actor, now=call.now
        )
        return to_plan(planned, token, confirmation)

    async def StartReplay(
        self, request: pb.StartReplayRequest, context: Context
    ) -> pb.StartReplayResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.StartReplayResponse:
            confirmed = self._confirmations.read(request.confirmation_token)
            started = await replays.start_replay(
                tx, confirmed, request.note, call.cause, method=call.method, now=call.now
            )
            return pb.StartReplayResponse(replay=to_replay(started))

        operator = current_call().principal.is_operator
        mutate = self._house.mutate_as_operator if operator else self._house.mutate
        return await mutate(request, pb.StartReplayResponse, work)

    async def GetReplay(
        self, request: pb.GetReplayRequest, context: Context
    ) -> pb.GetReplayResponse:
        """See the proto."""
        call = current_call()
        replay_id = decode(Prefix.REPLAY, request.replay_id, path="replay_id")
        tenant_id = call.principal.tenant_id
        async with self._pool(call).transaction(tenant_id, snapshot=True) as tx:
            found = await replays.get_replay(tx, replay_id, tenant_id)
        return pb.GetReplayResponse(replay=to_replay(found))

    def _pool(self, call: Call) -> Database:
        return self._house.worker if call.principal.is_operator else self._house.api


def to_draft(request: pb.PlanReplayRequest, tenant_id: UUID) -> replay_plan.PlanDraft:
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
    )
    targets = [target.WhichOneof("target") or "" for target in request.targets]
    return replay_plan.PlanDraft(selected, targets, request.max_events, request.rate_per_second)


def to_plan(
    planned: replay_plan.Planned, token: str, confirmation: replay_token.Confirmation
) -> pb.PlanReplayResponse:
    """A plan and its confirmation for the wire."""
    plan, found = planned.plan, planned.found
    by_count = sorted(found.subjects.items(), key=lambda item: (-item[1], item[0]))
    span = plan.filter.span
    return pb.PlanReplayResponse(
        matched=plan.matched,
        subjects=[pb.SubjectCount(subject=subject, count=count) for subject, count in by_count],
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
    )


def to_replay(view: replays.ReplayView) -> pb.Replay:
    """A replay for the wire."""
    row = view.row
    return pb.Replay(
        id=encode(Prefix.REPLAY, row.id),
        tenant_id=encode(Prefix.TENANT, row.tenant_id),
        status=_STATUS[row.status],
        matched=row.matched,
        published=view.published,
        skipped=row.skipped,
        failed=view.failed,
        note=row.note,
        start_time=to_timestamp(row.started_at),
        finish_time=to_timestamp(row.finished_at),
    )
