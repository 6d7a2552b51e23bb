"""The rim's OperationsService. Invariant: convert, call, convert; an operator sees the house, a tenant its own part."""

from __future__ import annotations

from collections.abc import Sequence

from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1 import operations_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import dead_letters, operations_status, reconciliation
from billing.services.consumers import WANTED
from billing.services.operations_status import LeaseState, Queue
from server.call import Call, current_call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


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
                differing = await reconciliation.unreconciled_buckets(tx, tenant_id)
            return _to_status(queues, [], differing)
        async with self._house.worker.connection() as connection:
            queues = await operations_status.list_queues(connection)
            leases = await operations_status.list_leases(connection)
            differing = await reconciliation.unreconciled_buckets(connection, None)
        return _to_status(queues, leases, differing)

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
            dead_letters=map(_to_dead_letter, page), next_page_token=token
        )

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")
        async with self._house.worker.connection() as connection:
            tenant_id = current_call().principal.tenant_id
            dead = await dead_letters.get_dead(connection, dead_id, tenant_id)
        return pb.GetDeadLetterResponse(dead_letter=_to_dead_letter(dead))

    async def RedriveDeadLetter(
        self, request: pb.RedriveDeadLetterRequest, context: Context
    ) -> pb.RedriveDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")

        async def work(tx: Connection, call: Call) -> pb.RedriveDeadLetterResponse:
            order = _order(call, request.reason)
            dead = await dead_letters.redrive(tx, dead_id, order, now=call.now)
            return pb.RedriveDeadLetterResponse(dead_letter=_to_dead_letter(dead))

        return await self._house.mutate_as_operator(request, pb.RedriveDeadLetterResponse, work)

    async def DiscardDeadLetter(
        self, request: pb.DiscardDeadLetterRequest, context: Context
    ) -> pb.DiscardDeadLetterResponse:
        """See the proto."""
        dead_id = decode(Prefix.DEAD_LETTER, request.dead_letter_id, path="dead_letter_id")

        async def work(tx: Connection, call: Call) -> pb.DiscardDeadLetterResponse:
            order = _order(call, request.reason)
            dead = await dead_letters.discard(tx, dead_id, order, WANTED, now=call.now)
            return pb.DiscardDeadLetterResponse(dead_letter=_to_dead_letter(dead))

        return await self._house.mutate_as_operator(request, pb.DiscardDeadLetterResponse, work)


def _order(call: Call, reason: str) -> dead_letters.Order:
    return dead_letters.Order(call.cause, call.method, reason, call.principal.tenant_id)


def _to_dead_letter(dead: dead_letters.DeadLetter | dead_letters.ListedLetter) -> pb.DeadLetter:
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


def _to_status(
    queues: Sequence[Queue], leases: Sequence[LeaseState], differing: int
) -> pb.GetStatusResponse:
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
        unreconciled_buckets=differing,
    )
