"""The rim's CustomerService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from decimal import Decimal

from tollway.customer.v1 import customer_service_pb2 as pb
from tollway.customer.v1 import customer_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import customers
from billing.services.rows import Customer
from server.call import Call
from server.convert import to_decimal, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import decimal_or_none, given, masked


class CustomerServicer(rpc.CustomerServiceServicer):
    """The customers of a tenant."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateCustomer(
        self, request: pb.CreateCustomerRequest, context: Context
    ) -> pb.CreateCustomerResponse:
        """See the proto."""
        draft = customers.NewCustomer(
            request.external_id,
            request.display_name,
            request.time_zone,
            request.email,
            request.address,
            request.tax_number,
            decimal_or_none(request.tax_percent, path="tax_percent"),
            given(request, "payment_terms_days"),
        )

        async def work(tx: Connection, call: Call) -> pb.CreateCustomerResponse:
            customer = await customers.create_customer(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.CreateCustomerResponse(customer=to_customer(customer))

        return await self._house.mutate(request, pb.CreateCustomerResponse, work)

    async def UpdateCustomer(
        self, request: pb.UpdateCustomerRequest, context: Context
    ) -> pb.UpdateCustomerResponse:
        """See the proto."""
        change = from_update(request)

        async def work(tx: Connection, call: Call) -> pb.UpdateCustomerResponse:
            customer = await customers.update_customer(
                tx, call.tenant_id, change, call.cause, now=call.now
            )
            return pb.UpdateCustomerResponse(customer=to_customer(customer))

        return await self._house.mutate(request, pb.UpdateCustomerResponse, work)

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

    async def ListCustomers(
        self, request: pb.ListCustomersRequest, context: Context
    ) -> pb.ListCustomersResponse:
        """See the proto."""
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListCustomersResponse:
            limit = page_size(request.page_size) + 1
            found = await customers.list_customers(tx, call.tenant_id, before=before, limit=limit)
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListCustomersResponse(customers=map(to_customer, rows), next_page_token=token)

        return await self._house.read(work)


def to_customer(customer: Customer) -> pb.Customer:
    """A stored customer for the wire."""
    return pb.Customer(
        id=encode(Prefix.CUSTOMER, customer.id),
        external_id=customer.external_id or "",
        display_name=customer.display_name,
        time_zone=customer.time_zone,
        create_time=to_timestamp(customer.created_at),
        email=customer.email,
        address=customer.address,
        tax_number=customer.tax_number,
        tax_percent="" if customer.tax_percent is None else to_decimal(customer.tax_percent),
        payment_terms_days=customer.payment_terms_days,
    )


def from_update(request: pb.UpdateCustomerRequest) -> customers.CustomerChange:
    """What the mask names, as the wire says it. Raises Invalid, InvalidId, InvalidDecimal."""
    values: dict[str, str | Decimal | int | None] = {
        name: given(request, name) for name in masked(request.update_mask, customers.CHANGEABLE)
    }
    if "tax_percent" in values:
        values["tax_percent"] = decimal_or_none(request.tax_percent, path="tax_percent")
    customer_id = decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
    return customers.CustomerChange(customer_id, values)
