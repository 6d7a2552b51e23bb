"""The rim's ReplayService. Invariant: a tenant's key acts under row-level security; an operator's alone goes beyond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1 import replay_service_pb2_grpc as rpc

from billing.domain.errors import Precondition
from billing.domain.ids import Prefix, decode
from billing.domain.replay import ACTIVE, Mode, ReplayAction
from billing.runtime.db import Connection, Database
from billing.services import replay_control, replay_plan, replay_token, replays
from billing.services.consumers import WANTED
from billing.services.keys import OperatorRequired
from server.authentication import tenant_named
from server.call import Call, current_call
from server.house import Answer, House, Work
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.replay_convert import status_text, to_draft, to_plan, to_replay

PHRASE: Final = "replay all tenants"
WATCH_PAUSE_S: Final = 0.25


class PhraseMissing(Precondition):
    """A replay of all tenants needs the phrase "replay all tenants"."""

    reason = "REPLAY_PHRASE_MISSING"


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
        draft = to_draft(request, _tenant_of(request, call))
        _require_operator(draft, call)
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
            order = replays.StartOrder(call.cause, request.note, request.plan_hash)
            started = await replays.start_replay(tx, confirmed, order, now=call.now)
            shown = [to_replay(view, call.now) for view in started]
            return pb.StartReplayResponse(replay=shown[0], replays=shown)

        return await self._mutate(request, pb.StartReplayResponse, work)

    async def GetReplay(
        self, request: pb.GetReplayRequest, context: Context
    ) -> pb.GetReplayResponse:
        """See the proto."""
        call = current_call()
        found = await self._get(_replay_id(request.replay_id), call)
        return pb.GetReplayResponse(replay=to_replay(found, call.now))

    async def ListReplays(
        self, request: pb.ListReplaysRequest, context: Context
    ) -> pb.ListReplaysResponse:
        """See the proto."""
        call = current_call()
        tenant_id = call.principal.tenant_id
        async with self._pool(call).transaction(tenant_id, snapshot=True) as tx:
            found = await replays.list_replays(
                tx,
                tenant_id,
                status_text(request.status),
                before=read_token(request),
                limit=page_size(request.page_size) + 1,
            )
        page, token = cut_page(request, found, [view.row.id for view in found])
        return pb.ListReplaysResponse(
            replays=[to_replay(view, call.now) for view in page], next_page_token=token
        )

    async def WatchReplay(
        self, request: pb.WatchReplayRequest, context: Context
    ) -> AsyncIterator[pb.WatchReplayResponse]:
        """See the proto."""
        call = current_call()
        replay_id = _replay_id(request.replay_id)
        told: replays.ReplayView | None = None
        while told is None or told.row.status in ACTIVE:
            found = await self._get(replay_id, call)
            if found != told:
                now = self._house.clock.now()
                yield pb.WatchReplayResponse(replay=to_replay(found, now))
                told = found
            else:
                await asyncio.sleep(WATCH_PAUSE_S)

    async def PauseReplay(
        self, request: pb.PauseReplayRequest, context: Context
    ) -> pb.PauseReplayResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.PauseReplayResponse:
            return pb.PauseReplayResponse(
                replay=await _moved(tx, call, request, ReplayAction.PAUSE)
            )

        return await self._mutate(request, pb.PauseReplayResponse, work)

    async def ResumeReplay(
        self, request: pb.ResumeReplayRequest, context: Context
    ) -> pb.ResumeReplayResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.ResumeReplayResponse:
            return pb.ResumeReplayResponse(
                replay=await _moved(tx, call, request, ReplayAction.RESUME)
            )

        return await self._mutate(request, pb.ResumeReplayResponse, work)

    async def CancelReplay(
        self, request: pb.CancelReplayRequest, context: Context
    ) -> pb.CancelReplayResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.CancelReplayResponse:
            return pb.CancelReplayResponse(
                replay=await _moved(tx, call, request, ReplayAction.CANCEL)
            )

        return await self._mutate(request, pb.CancelReplayResponse, work)

    async def _mutate(self, request: Message, kind: type[Answer], work: Work[Answer]) -> Answer:
        operator = current_call().principal.is_operator
        mutate = self._house.mutate_as_operator if operator else self._house.mutate
        return await mutate(request, kind, work)

    async def _get(self, replay_id: UUID, call: Call) -> replays.ReplayView:
        tenant_id = call.principal.tenant_id
        async with self._pool(call).transaction(tenant_id, snapshot=True) as tx:
            return await replays.get_replay(tx, replay_id, tenant_id)

    def _pool(self, call: Call) -> Database:
        return self._house.worker if call.principal.is_operator else self._house.api


def _tenant_of(request: pb.PlanReplayRequest, call: Call) -> UUID | None:
    """The tenant to replay, or None for all of them. Raises OperatorRequired or PhraseMissing."""
    if not request.filter.all_tenants:
        return tenant_named(call.principal, request.filter.tenant_id)
    if not call.principal.is_operator or call.principal.tenant_id is not None:
        raise OperatorRequired("Only an operator's key that names no tenant may replay all.")
    if request.phrase != PHRASE:
        raise PhraseMissing()
    return None


def _require_operator(draft: replay_plan.PlanDraft, call: Call) -> None:
    beyond = draft.safety.mode is Mode.FORCE or draft.safety.allow_older_than_inbox
    if beyond and not call.principal.is_operator:
        raise OperatorRequired(
            "FORCE, and what is older than the inbox, need an operator's key that names the tenant."
        )


async def _moved(
    tx: Connection,
    call: Call,
    request: pb.PauseReplayRequest | pb.ResumeReplayRequest | pb.CancelReplayRequest,
    action: ReplayAction,
) -> pb.Replay:
    order = replay_control.Order(call.cause, request.note, call.principal.tenant_id)
    replay_id = _replay_id(request.replay_id)
    row = await replay_control.move(tx, replay_id, action, order, now=call.now)
    return to_replay(await replays.view_of(tx, row), call.now)


def _replay_id(text: str) -> UUID:
    return decode(Prefix.REPLAY, text, path="replay_id")
