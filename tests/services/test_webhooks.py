"""Webhook path: endpoints, what they may be, and what is fanned out to them."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tollway.event.v1 import event_pb2
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.signature import Secret
from billing.runtime.ids import new_id
from billing.services import webhooks
from billing.services.tenants import NewTenant, create_tenant
from billing.services.webhook_subjects import SubjectInvalid, check_patterns, check_wanted, wants
from billing.services.webhook_url import UrlNotAllowed, check_url
from tests.conftest import Databases
from tests.webhook_world import LOOPBACK, VAULT, WebhookWorld, webhook_world

NOT_DIALLED = [
    "127.0.0.1", "localhost", "a.localhost", "LOCALHOST.", "0x7f000001", "2130706433", "017700000001", "127.1", "0",
    "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]",
    "[fd00:ec2::254]",
]  # fmt: skip
WORDS = st.text("abz09_", min_size=1, max_size=5)
SUBJECTS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks?x=1",
        "https://example.com:8443",
        "https://xn--bcher-kva.example/a%20b",
        "https://[2001:4860:4860::8888]/",
        "http://127.0.0.1:8080/hook",
        "http://localhost/hook",
        "http://[::1]:9/hook",
    ],
)
def test_an_endpoint_is_https_or_http_to_loopback(url: str) -> None:
    check_url(url, test_mode=False, allowed=LOOPBACK)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "http://127.0.0.1.example.com/",
        "ftp://example.com/",
        "example.com",
        "https://",
        "https:///path",
        "https://user:pw@example.com/",
        "https://@example.com/",
        "https://example.com/#part",
        "https://example.com/#",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: other",
        "https://bücher.example/",
        "https:\\\\example.com",
        "https://example.com/" + "a" * 2048,
        "",
    ],
)
def test_a_url_that_could_mislead_is_refused(url: str) -> None:
    with pytest.raises(UrlNotAllowed) as refused:
        check_url(url, test_mode=False, allowed=LOOPBACK)
    assert refused.value.violations[0].path == "url"


@pytest.mark.parametrize("host", NOT_DIALLED)
def test_a_url_of_an_address_that_is_never_dialled_is_refused_early(host: str) -> None:
    with pytest.raises(UrlNotAllowed, match="public internet"):
        check_url(f"https://{host}/hook", test_mode=True, allowed=())


def test_the_operators_networks_may_be_named() -> None:
    check_url("https://10.1.2.3/", test_mode=False, allowed=(ipaddress.ip_network("10.1.0.0/16"),))
    with pytest.raises(UrlNotAllowed):
        check_url("https://10.2.2.3/", test_mode=False, allowed=LOOPBACK)


def test_in_test_mode_http_is_allowed() -> None:
    check_url("http://example.com/", test_mode=True, allowed=())


@pytest.mark.parametrize(
    "pattern", ["", ".", "a..b", "A.b", "a.*.b", "*.a", "a*", "a.", "**", "a b", "x" * 101, "a.*\n"]
)
def test_a_malformed_pattern_is_refused_by_its_place(pattern: str) -> None:
    with pytest.raises(SubjectInvalid) as refused:
        check_patterns(["invoice.*", pattern])
    assert refused.value.violations[0].path == "subjects[1]"


def test_more_patterns_than_the_limit_are_refused() -> None:
    with pytest.raises(SubjectInvalid, match="50"):
        check_patterns([f"a.b{n}" for n in range(51)])


@pytest.mark.parametrize("pattern", ["invoice.finalised", "customer", "webhook.endpoint.*.x"])
def test_a_subject_that_no_event_has_is_refused_by_its_place(pattern: str) -> None:
    with pytest.raises(SubjectInvalid) as refused:
        check_wanted(["invoice.*", pattern])
    assert refused.value.violations[0].path == "subjects[1]"


def test_the_refusal_names_the_subject_that_was_meant() -> None:
    with pytest.raises(SubjectInvalid, match=r"did you mean customer\.created\?"):
        check_wanted(["customer.create"])


def test_custom_subjects_and_those_to_come_may_be_wanted() -> None:
    given = ["custom.order.paid", "custom.*", "coupon.*", "customer.created", "*"]
    assert check_wanted(given) == given
    assert check_wanted([]) == ["*"]


@given(SUBJECTS, SUBJECTS)
def test_a_pattern_means_what_it_says(subject: str, other: str) -> None:
    assert wants(check_patterns([]), subject)
    assert wants([other], subject) == (subject == other)
    assert wants([other + ".*"], subject) == subject.startswith(other + ".")


async def test_an_endpoint_is_made_with_a_secret_that_is_stored_encrypted_and_in_no_event(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/hook", "invoice.*", "invoice.*", "usage.rated")
    assert webhook.subjects == ["invoice.*", "usage.rated"]
    assert webhook.shard == webhooks.sender_shard(webhook.id)
    secret = Secret.parse(world.receiver.secrets["/hook"])
    [stored] = await world.rows("SELECT ciphertext FROM webhook_secrets")
    assert secret.key not in stored["ciphertext"]
    assert VAULT.decrypt(stored["ciphertext"]) == secret.key
    [row] = await world.rows(
        "SELECT envelope FROM billing_events WHERE subject = 'webhook.endpoint.created'"
    )
    payload = webhook_events_pb2.WebhookEndpointCreated()
    assert event_pb2.Event.FromString(row["envelope"]).data.Unpack(payload)
    assert payload.endpoint_id == encode(Prefix.WEBHOOK_ENDPOINT, webhook.id)
    assert secret.to_text().encode() not in row["envelope"]
    assert secret.key not in row["envelope"]


async def test_an_endpoint_of_another_tenant_is_not_found(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/hook")
    now = world.databases.clock.now()
    async with world.databases.worker.transaction() as tx:
        other = await create_tenant(tx, NewTenant("B", "live", "UTC"), world.cause, now=now)
    async with world.databases.api.transaction(other.id) as tx:
        with pytest.raises(webhooks.EndpointNotFound):
            await webhooks.get_endpoint(tx, other.id, webhook.id)
        with pytest.raises(webhooks.EndpointNotFound):
            await webhooks.get_endpoint(tx, world.tenant_id, webhook.id)


async def test_events_are_fanned_out_to_whoever_wants_them_and_everything_is_counted(
    world: WebhookWorld,
) -> None:
    wanting = await world.endpoint("/a", "customer.created")
    every = await world.endpoint("/b")
    other = await world.endpoint("/c", "invoice.*")
    arriving = await world.emit(20)
    await world.fan_out(arriving)
    rows = await world.rows(
        "SELECT webhook_id, event_id, status, shard, attempts FROM webhook_deliveries"
    )
    assert {(row["webhook_id"], row["event_id"]) for row in rows} == {
        (webhook.id, event.event_id) for webhook in (wanting, every) for event in arriving
    }
    shards = {wanting.id: wanting.shard, every.id: every.shard}
    assert all(row["shard"] == shards[row["webhook_id"]] for row in rows)
    assert {row["status"] for row in rows} == {"pending"}
    for webhook, matched in ((wanting, 20), (every, 20), (other, 0)):
        async with world.databases.api.transaction(world.tenant_id) as tx:
            _, counts = await webhooks.get_endpoint(tx, world.tenant_id, webhook.id)
        assert (counts.matched, counts.pending, counts.delivered) == (matched, matched, 0)
    [filtered] = await world.rows("SELECT partition, count FROM webhook_filtered")
    assert (filtered["partition"], filtered["count"]) == (3, 20)


async def test_an_event_fanned_out_again_makes_no_delivery_and_matches_nothing(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/a")
    first = await world.emit(5)
    await world.fan_out(first)
    await world.fan_out([*await world.emit(2), *first])
    [row] = await world.rows("SELECT count(*) AS made FROM webhook_deliveries")
    assert row["made"] == 7
    await world.check_balance()


async def test_deliveries_of_a_disabled_endpoint_are_parked(world: WebhookWorld) -> None:
    await world.endpoint("/a")
    await world.rows("UPDATE webhooks SET status = 'disabled'")
    await world.fan_out(await world.emit(3))
    assert await world.statuses() == {"parked": 3}
    async with world.sender() as sender:
        assert await sender.step() == 0
    await world.check_balance()


async def test_tenants_get_their_own_events_only(world: WebhookWorld) -> None:
    await world.endpoint("/a")
    stranger = new_id(world.databases.clock.now())
    [event] = await world.emit()
    envelope = event_pb2.Event.FromString(event.envelope.SerializeToString())
    envelope.tenant_id = encode(Prefix.TENANT, stranger)
    foreign = type(event)(
        event.event_id, stranger, event.subject, event.resource, 1, event.partition, envelope
    )
    await world.fan_out([foreign])
    assert not await world.statuses()
    assert not await world.rows("SELECT 1 FROM webhook_filtered")
