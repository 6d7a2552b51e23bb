"""The hand-written layers: every service is there, errors have their types, and a webhook is verified or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import grpc
import grpc.aio
import pytest
from tollway.customer.v1 import customer_service_pb2 as pb
from tollway_sdk import (
    ErrorReason,
    InvalidWebhook,
    Tollway,
    Unauthenticated,
    Unavailable,
    verify_webhook,
)
from tollway_sdk.calls import with_request_id
from tollway_sdk.errors import STATUS_DETAILS, TollwayError, typed

from billing.domain import errors
from billing.domain.signature import Secret, headers
from server.app import ServerSettings
from server.errors import rich_status, status_code
from server.tls import Tls
from tests.conftest import Databases
from tests.house.tree import ROOT, contract
from tests.server.test_listening import AUTHORITY, SERVER, identity, serving

SECRET = Secret(b"a secret of thirty-two bytes, yes")
BODY = json.dumps(
    {"type": "a.b", "resource_id": "sub_1", "resource_version": "9007199254740993", "data": {}}
).encode()


def services() -> set[str]:
    return {service.name.rpartition(".")[2] for service in contract().services}


async def test_the_python_client_has_every_service() -> None:
    async with Tollway("127.0.0.1:1", "key") as tollway:
        there = {type(value).__name__.removesuffix("Stub") for value in vars(tollway).values()}
    assert services() <= there


def test_the_go_client_has_every_service() -> None:
    source = (ROOT / "sdk" / "go" / "client.go").read_text(encoding="utf-8")
    missing = {name for name in services() if f".New{name}Client(connection)" not in source}
    assert not missing


async def test_with_credentials_the_line_is_tls_with_a_certificate_of_the_client(
    databases: Databases,
) -> None:
    tls = Tls(SERVER.pem, SERVER.key_pem, client_ca=AUTHORITY.pem)
    ours = identity("client", AUTHORITY)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.pem, ours.key_pem, ours.pem)
    async with (
        serving(databases, ServerSettings(port=0, tls=tls)) as server,
        Tollway(f"127.0.0.1:{server.port}", "twk_nobody", credentials=credentials) as tollway,
    ):
        with pytest.raises(Unauthenticated) as refused:
            await tollway.customers.ListCustomers(pb.ListCustomersRequest())
    assert refused.value.reason_name == "KEY_INVALID"


def refusal(error: errors.BillingError) -> grpc.aio.AioRpcError:
    """What a client of grpc gets for an error of the house."""
    status = rich_status(error)
    trailing = grpc.aio.Metadata((STATUS_DETAILS, status.SerializeToString()))
    return grpc.aio.AioRpcError(
        status_code(error), grpc.aio.Metadata(), trailing, details=status.message
    )


def test_an_error_has_the_class_of_its_code_its_reason_and_when_to_try_again() -> None:
    failed = typed(refusal(errors.Unavailable(retry_after_s=7)))
    assert isinstance(failed, Unavailable)
    assert failed.reason == ErrorReason.Value("ERROR_REASON_UNAVAILABLE")
    assert failed.retry_after_s == 7.0
    assert str(failed) == f"{failed.details()} (UNAVAILABLE)"


def test_a_reason_that_is_newer_than_the_package_keeps_its_name() -> None:
    class FromTomorrow(errors.Precondition):
        """Tomorrow's."""

        reason = "FROM_TOMORROW"

    failed = typed(refusal(FromTomorrow(metadata={"a": "b"})))
    assert failed.reason == ErrorReason.Value("ERROR_REASON_UNSPECIFIED")
    assert (failed.reason_name, failed.metadata) == ("FROM_TOMORROW", {"a": "b"})


def test_an_error_of_a_code_without_a_class_is_still_typed() -> None:
    empty = grpc.aio.Metadata()
    failed = typed(grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, empty, empty, "no"))
    assert type(failed) is TollwayError
    assert (failed.reason_name, failed.retry_after_s, failed.violations) == ("", None, ())


def test_a_request_id_is_made_once_and_never_put_into_the_callers_message() -> None:
    request = pb.CreateCustomerRequest(external_id="UA")
    first, second = with_request_id(request), with_request_id(request)
    assert request.request_id == ""
    assert isinstance(first, pb.CreateCustomerRequest)
    assert isinstance(second, pb.CreateCustomerRequest)
    assert first.external_id == "UA"
    assert len(first.request_id) == 36
    assert first.request_id != second.request_id
    assert with_request_id(first) is first
    read = pb.GetCustomerRequest()
    assert with_request_id(read) is read


def test_a_webhook_is_its_event_with_a_version_that_no_double_could_hold() -> None:
    signed = headers("evt_1", datetime.now(UTC), BODY, [SECRET])
    event = verify_webhook(SECRET.to_text(), {k.title(): v for k, v in signed.items()}, BODY)
    assert (event.id, event.type, event.resource_version) == ("evt_1", "a.b", 9007199254740993)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-signature": "v1,Zm9yZ2Vk"},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,a"},
        {"webhook-timestamp": "1"},
        {"webhook-timestamp": "soon"},
        {"webhook-id": ""},
    ],
)
def test_what_is_not_signed_so_is_refused(changed: dict[str, str]) -> None:
    signed = headers("evt_1", datetime.now(UTC), BODY, [SECRET])
    with pytest.raises(InvalidWebhook):
        verify_webhook(SECRET.to_text(), {**signed, **changed}, BODY)


def test_bytes_that_are_no_text_are_refused() -> None:
    signed = headers("evt_1", datetime.now(UTC), BODY, [SECRET])
    with pytest.raises(InvalidWebhook):
        verify_webhook(SECRET.to_text(), signed, b"\xff")
