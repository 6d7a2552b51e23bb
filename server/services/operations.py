"""The rim's OperationsService. Invariant: convert, call, convert; an operator sees the house, a tenant its own part."""

from __future__ import annotations

from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1 import operations_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services import (
    audit,
    dead_letters,
    lag,
    operations_status,
    pauses,
    reconciliation,
    waiting,
)
from billing.services.consumers import WANTED
from billing.services.pauses import PauseOrder
from server.call import Call, current_call
from server.house import House
from server.interceptor import Context
from server.paging import cut_keyed_page, cut_page, page_size, read_key, read_token
from server.services import operations_messages as messages


class OperationsServicer(rpc.OperationsServiceServicer):
    """The state of the pipeline."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """See the proto."""
        tenant_id = current_call().principal.tenant_id
        # An operator that names a tenant in the metadata sees what that tenant sees.
        if tenant_id is not None:
            async with self._house.api.transaction(tenant_id) as tx:
                queues = await operations_status.list_queues(tx)
                reconciled = await reconciliation.reconciliation(tx)
                paused = await pauses.list_pauses(tx)
            return messages.to_status(queues, [], reconciled, paused)
        async with self._house.worker.connection() as connection:
            queues = await operations_status.list_queues(connection)
            leases = await operations_status.list_leases(connection)
            reconciled = await reconciliation.reconciliation(connection)
            paused = await pauses.list_pauses(connection)
        return messages.to_status(queues, leases, reconciled, paused)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        """See the proto."""
        tenant_id = current_call().principal.tenant_id
        before, limit = read_token(request), page_size(request.page_size) + 1
        async with self._house.worker.connection() as connection:
            rows = await dead_letters.list_dead(connection, tenant_id, before=before, limit=limit)
        page, token = cut_page(request, rows, [row.id for row in rows])
        return pb.ListDeadLettersResponse(
            dead_letters=map(messages.to_dead_letter, page), next_page_token=token
        )

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")
        async with self._house.worker.connection() as connection:
            tenant_id = current_call().principal.tenant_id
            dead = await dead_letters.get_dead(connection, dead_id, tenant_id)
        return pb.GetDeadLetterResponse(dead_letter=messages.to_dead_letter(dead))

    async def RedriveDeadLetter(
        self, request: pb.RedriveDeadLetterRequest, context: Context
    ) -> pb.RedriveDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")

        async def work(tx: Connection, call: Call) -> pb.RedriveDeadLetterResponse:
            tenant_id = call.principal.tenant_id
            dead = await dead_letters.redrive(tx, dead_id, tenant_id, now=call.now)
            return pb.RedriveDeadLetterResponse(dead_letter=messages.to_dead_letter(dead))

        return await self._house.mutate_as_operator(request, pb.RedriveDeadLetterResponse, work)

    async def DiscardDeadLetter(
        self, request: pb.DiscardDeadLetterRequest, context: Context
    ) -> pb.DiscardDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")

        async def work(tx: Connection, call: Call) -> pb.DiscardDeadLetterResponse:
            dead = await dead_letters.discard(tx, dead_id, call.principal.tenant_id, WANTED)
            return pb.DiscardDeadLetterResponse(dead_letter=messages.to_dead_letter(dead))

        return await self._house.mutate_as_operator(request, pb.DiscardDeadLetterResponse, work)

    async def GetLag(self, request: pb.GetLagRequest, context: Context) -> pb.GetLagResponse:
        """See the proto."""
        return messages.to_lag(await lag.read_lag(self._house.worker, self._house.bus, WANTED))

    async def ListWaiting(
        self, request: pb.ListWaitingRequest, context: Context
    ) -> pb.ListWaitingResponse:
        """See the proto."""
        call = current_call()
        given = messages.waiting_filter(request, call.principal.tenant_id)
        after = messages.read_place(read_key(request, messages.PLACE_BYTES))
        limit = page_size(request.page_size) + 1
        async with self._house.worker.connection() as connection:
            rows = await waiting.list_waiting(
                connection, given, WANTED, after=after, now=call.now, limit=limit
            )
        page, token = cut_keyed_page(
            request, rows, lambda place: messages.place_key(rows[place].key)
        )
        return pb.ListWaitingResponse(events=map(messages.to_waiting, page), next_page_token=token)

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseResponse:
        """See the proto."""
        target = messages.pause_target(request)

        async def work(tx: Connection, call: Call) -> pb.PauseResponse:
            call.resource = target.name
            order = PauseOrder(call.principal.actor, request.reason)
            made = await pauses.pause(tx, target, order, WANTED, now=call.now)
            return pb.PauseResponse(pause=messages.to_pause(made))

        return await self._house.mutate_as_operator(request, pb.PauseResponse, work)

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        """See the proto."""
        target = messages.pause_target(request)

        async def work(tx: Connection, call: Call) -> pb.ResumeResponse:
            call.resource = target.name
            ended = await pauses.resume(tx, target, now=call.now)
            return pb.ResumeResponse(pause=messages.to_pause(ended))

        return await self._house.mutate_as_operator(request, pb.ResumeResponse, work)

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """See the proto."""
        tenant_id = current_call().principal.tenant_id
        wanted = messages.audit_filter(request, tenant_id)
        before, limit = read_token(request), page_size(request.page_size) + 1
        pool = self._house.worker if tenant_id is None else self._house.api
        async with pool.transaction(tenant_id, read_only=True) as tx:
            rows = await audit.list_entries(tx, wanted, before=before, limit=limit)
        page, token = cut_page(request, rows, [row.id for row in rows])
        return pb.ListAuditEntriesResponse(
            entries=map(messages.to_audit_entry, page), next_page_token=token
        )
