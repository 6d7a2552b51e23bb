"""The rim's OperationsService. Invariant: convert, call, convert; an operator sees the house, a tenant its own part."""

from __future__ import annotations

from collections.abc import Sequence

from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1 import operations_service_pb2_grpc as rpc

from billing.services import operations_status, reconciliation
from billing.services.operations_status import LeaseState, Queue
from server.call import current_call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context


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
