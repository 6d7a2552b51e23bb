"""The rim's CreditService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from typing import Final

from tollway.invoice.v1 import credit_service_pb2 as pb
from tollway.invoice.v1 import credit_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import credit
from billing.services.credit_ledger import CreditKind
from billing.services.money_rows import CreditLedger
from server.call import Call
from server.convert import to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_keyed_page, page_size, read_key
from server.request_fields import from_money

_SEQUENCE_BYTES: Final = 8


class CreditServicer(rpc.CreditServiceServicer):
    """Credit balances and their ledgers."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GrantCredit(
        self, request: pb.GrantCreditRequest, context: Context
    ) -> pb.GrantCreditResponse:
        """See the proto."""
        change = from_change(request, CreditKind.GRANT)

        async def work(tx: Connection, call: Call) -> pb.GrantCreditResponse:
            entry = await credit.change_credit(tx, call.tenant_id, change, call.cause, now=call.now)
            return pb.GrantCreditResponse(entry=to_entry(entry))

        return await self._house.mutate(request, pb.GrantCreditResponse, work)

    async def AdjustCreditBalance(
        self, request: pb.AdjustCreditBalanceRequest, context: Context
    ) -> pb.AdjustCreditBalanceResponse:
        """See the proto."""
        change = from_change(request, CreditKind.ADJUSTMENT)

        async def work(tx: Connection, call: Call) -> pb.AdjustCreditBalanceResponse:
            entry = await credit.change_credit(tx, call.tenant_id, change, call.cause, now=call.now)
            return pb.AdjustCreditBalanceResponse(entry=to_entry(entry))

        return await self._house.mutate(request, pb.AdjustCreditBalanceResponse, work)

    async def GetCreditBalance(
        self, request: pb.GetCreditBalanceRequest, context: Context
    ) -> pb.GetCreditBalanceResponse:
        """See the proto."""
        customer_id = decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")

        async def work(tx: Connection, call: Call) -> pb.GetCreditBalanceResponse:
            held = await credit.list_balances(tx, call.tenant_id, customer_id)
            return pb.GetCreditBalanceResponse(
                balances=[to_money(one.balance, one.currency) for one in held]
            )

        return await self._house.read(work)

    async def ListCreditLedger(
        self, request: pb.ListCreditLedgerRequest, context: Context
    ) -> pb.ListCreditLedgerResponse:
        """See the proto."""
        customer_id = decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        key = read_key(request, _SEQUENCE_BYTES)
        before = None if key is None else int.from_bytes(key)

        async def work(tx: Connection, call: Call) -> pb.ListCreditLedgerResponse:
            found = await credit.list_ledger(
                tx,
                call.tenant_id,
                customer_id,
                request.currency_code,
                before=before,
                limit=page_size(request.page_size) + 1,
            )
            rows, token = cut_keyed_page(
                request, found, lambda place: found[place].sequence.to_bytes(_SEQUENCE_BYTES)
            )
            return pb.ListCreditLedgerResponse(
                entries=[to_entry(row) for row in rows], next_page_token=token
            )

        return await self._house.read(work)


def from_change(
    request: pb.GrantCreditRequest | pb.AdjustCreditBalanceRequest, kind: CreditKind
) -> credit.CreditChange:
    """What to change, as the wire says it. Raises InvalidId, UnknownCurrency."""
    customer_id = decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
    return credit.CreditChange(customer_id, kind, from_money(request.amount), request.reason)


def to_entry(row: CreditLedger) -> pb.CreditEntry:
    """A ledger entry for the wire."""
    return pb.CreditEntry(
        id=encode(Prefix.CREDIT_ENTRY, row.id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        sequence=row.sequence,
        kind=pb.CreditKind.Value(f"CREDIT_KIND_{row.kind.upper()}"),
        amount=to_money(row.amount, row.currency),
        balance_after=to_money(row.balance_after, row.currency),
        reason=row.reason,
        invoice_id=encode(Prefix.INVOICE, row.invoice_id) if row.invoice_id else "",
        create_time=to_timestamp(row.created_at),
    )
