"""The rim's BackfillService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.usage.v1 import backfill_service_pb2 as pb
from tollway.usage.v1 import backfill_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import usage_backfills as backfills
from billing.services.usage_backfills import Backfill
from billing.services.usage_revisions import Author
from server.call import Call
from server.convert import optional_id, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


class BackfillServicer(rpc.BackfillServiceServicer):
    """Jobs under which old usage is recorded."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateBackfill(
        self, request: pb.CreateBackfillRequest, context: Context
    ) -> pb.CreateBackfillResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.CreateBackfillResponse:
            made = await backfills.create_backfill(
                tx, call.tenant_id, request.name, request.note, now=call.now
            )
            return pb.CreateBackfillResponse(backfill=_to_backfill(made))

        return await self._house.mutate(request, pb.CreateBackfillResponse, work)

    async def GetBackfill(
        self, request: pb.GetBackfillRequest, context: Context
    ) -> pb.GetBackfillResponse:
        """See the proto."""
        named = optional_id(Prefix.BACKFILL, request.backfill_id, path="backfill_id")

        async def work(tx: Connection, call: Call) -> pb.GetBackfillResponse:
            found = await backfills.get_backfill(
                tx, call.tenant_id, backfill_id=named, name=request.name
            )
            return pb.GetBackfillResponse(backfill=_to_backfill(found))

        return await self._house.read(work)

    async def ListBackfills(
        self, request: pb.ListBackfillsRequest, context: Context
    ) -> pb.ListBackfillsResponse:
        """See the proto."""
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListBackfillsResponse:
            found = await backfills.list_backfills(
                tx, call.tenant_id, before, limit=page_size(request.page_size) + 1
            )
            page, token = cut_page(request, found, [one.row.id for one in found])
            return pb.ListBackfillsResponse(
                backfills=[_to_backfill(one) for one in page], next_page_token=token
            )

        return await self._house.read(work)

    async def RevertBackfill(
        self, request: pb.RevertBackfillRequest, context: Context
    ) -> pb.RevertBackfillResponse:
        """See the proto."""
        backfill_id = decode(Prefix.BACKFILL, request.backfill_id, path="backfill_id")

        async def work(tx: Connection, call: Call) -> pb.RevertBackfillResponse:
            author = Author(call.cause, request.note)
            reverted, voided = await backfills.revert_backfill(
                tx, call.tenant_id, backfill_id, author, now=call.now
            )
            return pb.RevertBackfillResponse(backfill=_to_backfill(reverted), voided=voided)

        return await self._house.mutate(request, pb.RevertBackfillResponse, work)


def _to_backfill(backfill: Backfill) -> pb.Backfill:
    row = backfill.row
    return pb.Backfill(
        id=encode(Prefix.BACKFILL, row.id),
        name=row.name,
        note=row.note,
        status=pb.BackfillStatus.Value(f"BACKFILL_STATUS_{row.status.upper()}"),
        records=backfill.records,
        create_time=to_timestamp(row.created_at),
        revert_time=to_timestamp(row.reverted_at),
    )
