"""Lists: whole, without gap or repeat, while others write; and a page token goes on with its own list only."""

from __future__ import annotations

import base64

import grpc
import pytest
from tollway.tenant.v1 import tenant_service_pb2 as tenant_pb

from billing.runtime.ids import new_id
from billing.services import keys
from billing.services.actor import Cause
from billing.services.keys import NewKey, Scope
from server.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from tests.server.rim import LIST_KEYS, Rim


async def test_a_walk_meets_every_row_once_while_rows_are_added(rim: Rim) -> None:
    await _add_keys(rim, 23)
    expected = await _walk(rim, 200)
    met: list[str] = []
    token = ""
    while True:
        page = await rim.call(
            LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=5, page_token=token)
        )
        met += [key.id for key in page.api_keys]
        await _add_keys(rim, 2)
        if not (token := page.next_page_token):
            break
        assert len(page.api_keys) == 5
    assert met == expected
    assert len(met) == 26


async def test_sizes_are_coerced_and_negative_ones_refused(rim: Rim) -> None:
    await _add_keys(rim, PAGE_SIZE_MAX + 10)
    for asked, given in ((0, PAGE_SIZE_DEFAULT), (7, 7), (100_000, PAGE_SIZE_MAX)):
        page = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=asked))
        assert len(page.api_keys) == given
        assert page.next_page_token
    refused = await rim.refused(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=-1))
    assert list(refused.fields) == ["page_size"]


async def test_a_page_that_ends_with_the_list_has_no_next(rim: Rim) -> None:
    page = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=3))
    assert (len(page.api_keys), page.next_page_token) == (3, "")


async def test_a_token_goes_on_with_another_size_but_not_with_another_list(rim: Rim) -> None:
    first = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=1))
    token = first.next_page_token
    rest = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=9, page_token=token))
    assert len(rest.api_keys) == 2
    elsewhere = tenant_pb.ListApiKeysRequest(tenant_id=rim.acme.name, page_token=token)
    refused = await rim.refused(LIST_KEYS, elsewhere)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
    )


@pytest.mark.parametrize(
    "token",
    ["x", "A" * 32, "not base64 !", "ünïcode", base64.urlsafe_b64encode(bytes(24)).decode()],
)
async def test_a_token_that_is_none_is_refused(rim: Rim, token: str) -> None:
    refused = await rim.refused(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_token=token))
    assert refused.reason == "PAGE_TOKEN_INVALID"


async def test_a_token_shows_its_bearer_nothing_of_another_tenant(rim: Rim) -> None:
    ours = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=1))
    request = tenant_pb.ListApiKeysRequest(page_token=ours.next_page_token)
    theirs = await rim.call(LIST_KEYS, request, rim.other.keys[Scope.ADMIN])
    assert {key.tenant_id for key in theirs.api_keys} <= {rim.other.name}


async def _walk(rim: Rim, size: int) -> list[str]:
    page = await rim.call(LIST_KEYS, tenant_pb.ListApiKeysRequest(page_size=size))
    return [key.id for key in page.api_keys]


async def _add_keys(rim: Rim, count: int) -> None:
    now = rim.clock.now()
    async with rim.databases.worker.transaction() as tx:
        for _ in range(count):
            draft = NewKey("more", (Scope.READ,))
            await keys.create_key(tx, rim.acme.id, draft, Cause("opr_test", new_id(now)), now=now)
