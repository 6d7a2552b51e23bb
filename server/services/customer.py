"""The rim's CustomerService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.customer.v1 import customer_service_pb2 as pb
from tollway.customer.v1 import customer_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import customers
from billing.services.rows import Customer
from server.call import Call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context


class CustomerServicer(rpc.CustomerServiceServicer):
    """The customers of a tenant."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateCustomer(
        self, request: pb.CreateCustomerRequest, context: Context
    ) -> pb.CreateCustomerResponse:
        """See the proto."""
        draft = customers.NewCustomer(request.external_id, request.display_name, request.time_zone)

        async def work(tx: Connection, call: Call) -> pb.CreateCustomerResponse:
            customer = await customers.create_customer(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.CreateCustomerResponse(customer=to_customer(customer))

        return await self._house.mutate(request, pb.CreateCustomerResponse, work)

    async def GetCustomer(
        self, request: pb.GetCustomerRequest, context: Context
    ) -> pb.GetCustomerResponse:
        """See the proto."""
        named = (
            decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
            if request.customer_id
            else None
        )

        async def work(tx: Connection, call: Call) -> pb.GetCustomerResponse:
            customer = await customers.get_customer(
                tx, call.tenant_id, customer_id=named, external_id=request.external_id
            )
            return pb.GetCustomerResponse(customer=to_customer(customer))

        return await self._house.read(work)


def to_customer(customer: Customer) -> pb.Customer:
    """A stored customer for the wire."""
    return pb.Customer(
        id=encode(Prefix.CUSTOMER, customer.id),
        external_id=customer.external_id or "",
        display_name=customer.display_name,
        time_zone=customer.time_zone,
        create_time=to_timestamp(customer.created_at),
    )
