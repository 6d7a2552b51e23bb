"""Invoices as a client meets them: previewed, made final on demand, taken back, explained."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import grpc
import pytest
from click.testing import CliRunner
from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.usage.v1 import usage_service_pb2 as usage_pb

from billing.domain.ids import Prefix, decode, encode
from billing.services import test_clock
from billing.services.keys import Scope
from cli.commands.invoices import explanation
from cli.main import tollway
from tests.driver import DAY, HOUR, Driver, utc
from tests.server.rim import REQUESTS, Rim

START = utc(2024, 5, 1)
JUNE = utc(2024, 6, 1)
JULY = utc(2024, 7, 1)
SERVICE = "/tollway.invoice.v1.InvoiceService"


async def drafted(rim: Rim) -> tuple[Driver, str]:
    """Acme, whose clock stands half an hour behind a boundary, and its draft with usage, fee, discount and tax."""
    house = Driver(rim.databases, rim.acme.id)
    async with rim.databases.api.transaction(rim.acme.id) as tx:
        await test_clock.create_test_clock(tx, rim.acme.id, START, house.cause(), now=house.now)
    customer = await house.customer("UA")
    await house.execute("UPDATE customers SET tax_percent = 20 WHERE id = $1", customer)
    await house.execute(
        "INSERT INTO discounts (tenant_id, id, customer_id, display_name, percent, created_at)"
        " VALUES ($1, $2, $2, 'Ten', 10, $3)",
        house.tenant_id,
        customer,
        START,
    )
    await house.plan(fee="49.00", per_minute="0.10", minimum_amount="2.00")
    await house.subscribe()
    await house.use(START + HOUR / 60, "10.004")
    await house.advance(JUNE + HOUR / 2)
    return house, await draft_of(house)


async def draft_of(house: Driver) -> str:
    identity = await house.value(
        "SELECT id FROM invoices WHERE tenant_id = $1 AND status = 'draft'", house.tenant_id
    )
    return encode(Prefix.INVOICE, identity)


async def preview(rim: Rim, invoice_id: str) -> pb.Invoice:
    request = pb.PreviewInvoiceRequest(invoice_id=invoice_id)
    shown: pb.Invoice = (await rim.call(f"{SERVICE}/PreviewInvoice", request)).invoice
    return shown


async def finalize(rim: Rim, invoice_id: str, request_id: str = "") -> pb.Invoice:
    request = pb.FinalizeInvoiceRequest(invoice_id=invoice_id, request_id=request_id)
    final: pb.Invoice = (await rim.call(f"{SERVICE}/FinalizeInvoice", request)).invoice
    return final


async def get(rim: Rim, invoice_id: str) -> pb.Invoice:
    request = pb.GetInvoiceRequest(invoice_id=invoice_id)
    got: pb.Invoice = (await rim.call(f"{SERVICE}/GetInvoice", request)).invoice
    return got


def essence(invoice: pb.Invoice) -> bytes:
    """All bytes of an invoice but its id, its number and when it became final."""
    rest = pb.Invoice()
    rest.CopyFrom(invoice)
    for name in ("id", "number", "finalized_time", "due_time"):
        rest.ClearField(name)
    return rest.SerializeToString(deterministic=True)


async def test_a_preview_is_the_final_invoice_byte_for_byte(rim: Rim) -> None:
    house, named = await drafted(rim)
    previewed = await preview(rim, named)
    assert previewed.status == pb.INVOICE_STATUS_OPEN
    assert [line.amount.minor_units for line in previewed.lines] == [100, 100, 4900]

    final = await finalize(rim, named)

    assert essence(final) == essence(previewed)
    assert final.number == "INV-000002"
    assert final.finalized_time.ToDatetime() == (JUNE + HOUR / 2).replace(tzinfo=None)
    assert await get(rim, named) == final
    # The next one has an adjustment as well, is paid by credit, and is zero.
    await house.use(START + 7 * DAY, "90", backfill=True)
    await house.execute(
        "UPDATE credit_balances SET balance = 10000 WHERE tenant_id = $1", house.tenant_id
    )
    await house.advance(JULY + HOUR / 2)
    named = await draft_of(house)
    previewed = await preview(rim, named)
    assert previewed.status == pb.INVOICE_STATUS_PAID
    assert pb.LINE_KIND_ADJUSTMENT in [line.kind for line in previewed.lines]
    assert essence(await finalize(rim, named)) == essence(previewed)


async def test_a_final_invoice_is_neither_previewed_nor_finalized_again(rim: Rim) -> None:
    _, named = await drafted(rim)
    first = await finalize(rim, named, "once")
    assert await finalize(rim, named, "once") == first
    for method, request in (
        ("FinalizeInvoice", pb.FinalizeInvoiceRequest(invoice_id=named)),
        ("PreviewInvoice", pb.PreviewInvoiceRequest(invoice_id=named)),
    ):
        refused = await rim.refused(f"{SERVICE}/{method}", request)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "INVALID_TRANSITION",
        )


async def test_usage_on_its_way_blocks_a_finalization_and_shows_on_the_preview(rim: Rim) -> None:
    house, named = await drafted(rim)
    await house.use(START + DAY, "5")
    await house.execute("UPDATE invoices SET closed_at = $1 WHERE status = 'draft'", JUNE + DAY)
    request = pb.FinalizeInvoiceRequest(invoice_id=named)
    refused = await rim.refused(f"{SERVICE}/FinalizeInvoice", request)
    assert (refused.reason, refused.retry_s) == ("USAGE_PENDING", 1)
    shown = await preview(rim, named)
    assert (shown.blocked_reason, shown.status) == ("USAGE_PENDING", pb.INVOICE_STATUS_DRAFT)

    await house.deliver()
    final = await finalize(rim, named)
    assert [line.amount.minor_units for line in final.lines] == [150, 50, 4900]


async def test_a_void_is_answered_with_what_replaces_it(rim: Rim) -> None:
    house, named = await drafted(rim)
    await finalize(rim, named)
    request = pb.VoidInvoiceRequest(invoice_id=named, reason="wrong price", request_id="once")
    answer = await rim.call(f"{SERVICE}/VoidInvoice", request)
    assert await rim.call(f"{SERVICE}/VoidInvoice", request) == answer
    assert answer.invoice.status == pb.INVOICE_STATUS_VOID
    assert (answer.invoice.waived, answer.invoice.void_reason) == (False, "wrong price")
    assert answer.replacement.status == pb.INVOICE_STATUS_DRAFT
    assert answer.replacement.replaces_invoice_id == named

    await finalize(rim, answer.replacement.id)
    waived = await rim.call(
        f"{SERVICE}/VoidInvoice",
        pb.VoidInvoiceRequest(invoice_id=answer.replacement.id, reissue=False),
    )
    assert waived.invoice.waived
    assert not waived.HasField("replacement")
    assert await house.value("SELECT count(*) FROM invoices WHERE status = 'draft'") == 0


async def test_blocked_drafts_are_listed_with_their_reason(rim: Rim) -> None:
    house, named = await drafted(rim)
    await house.execute(
        "UPDATE invoices SET blocked_reason = 'RATING_FAILED' WHERE id = $1",
        decode(Prefix.INVOICE, named),
    )
    listed = await rim.call(f"{SERVICE}/ListInvoices", pb.ListInvoicesRequest(blocked=True))
    assert [(one.id, one.blocked_reason) for one in listed.invoices] == [(named, "RATING_FAILED")]
    assert len((await rim.call(f"{SERVICE}/ListInvoices", pb.ListInvoicesRequest())).invoices) == 2


@pytest.mark.parametrize("method", ["FinalizeInvoice", "VoidInvoice", "PreviewInvoice"])
async def test_an_invoice_of_another_tenant_does_not_exist(rim: Rim, method: str) -> None:
    _, named = await drafted(rim)
    request = REQUESTS[f"{SERVICE}/{method}"]
    key = rim.other.keys[Scope.ADMIN]
    refused = await rim.refused(f"{SERVICE}/{method}", request(invoice_id=named), key)
    assert refused.reason == "INVOICE_NOT_FOUND"
    nothing = encode(Prefix.INVOICE, UUID(int=1))
    refused = await rim.refused(f"{SERVICE}/{method}", request(invoice_id=nothing))
    assert refused.reason == "INVOICE_NOT_FOUND"


async def explain(rim: Rim, invoice_id: str, number: int) -> pb.ExplainLineResponse:
    request = pb.ExplainLineRequest(invoice_id=invoice_id, line_number=number)
    told: pb.ExplainLineResponse = await rim.call(f"{SERVICE}/ExplainLine", request)
    return told


async def test_a_line_is_explained_to_the_last_record(rim: Rim) -> None:
    house, named = await drafted(rim)
    for told in (
        await explain(rim, named, 1),
        await explain(rim, (await finalize(rim, named)).id, 1),
    ):
        assert told.exact_amount == "1.0004"
        assert told.period_share == "1"
        assert (told.price_model, told.usage.meter) == ("per_unit", "minutes")
        assert json.loads(told.price_config)["unit_amount"] == "0.1"
        assert told.usage.record_count == 1
        assert told.usage.first_used_time.ToDatetime() == (START + HOUR / 60).replace(tzinfo=None)
        assert told.usage.amount_now.minor_units == 200
        assert told.line.amount.minor_units == 100
        words = "\n".join(explanation(told))
        assert (
            "the meter minutes: the sum of the records, which came to 10.004\n1 record now" in words
        )
    raised = "\n".join(explanation(await explain(rim, named, 2)))
    assert "the minimum of the price: 2 = 2.00, rounded" in raised
    assert raised.split("leaves")[0].endswith("less the usage lines of the period: 1.00\n")
    assert told.usage.amount_billed.minor_units == 200

    await house.use(START + 7 * DAY, "90", backfill=True)
    await house.advance(JULY + HOUR / 2)
    told = await explain(rim, await draft_of(house), 3)
    assert told.line.kind == pb.LINE_KIND_ADJUSTMENT
    assert told.usage.record_count == 2
    assert [(one.number, one.line_number, one.amount.minor_units) for one in told.earlier] == [
        ("INV-000002", 1, 100),
        ("INV-000002", 2, 100),
    ]
    assert told.line.amount.minor_units == told.usage.amount_now.minor_units - 200 == 800
    text = "\n".join(explanation(told))
    records = usage_pb.ListUsageRequest(
        customer_id=told.usage.customer_id,
        subscription_item_id=told.usage.subscription_item_id,
        period_start=told.usage.period.start,
    )
    listed = await rim.call("/tollway.usage.v1.UsageService/ListUsage", records)
    assert len(listed.records) == told.usage.record_count
    assert "less 1.00 USD on INV-000002, line 1" in text
    assert text.endswith("leaves 8.00 USD\nless a discount of 0.80 USD, plus 20 % tax: 1.44 USD")


async def test_a_line_that_is_not_there_is_refused_by_its_number(rim: Rim) -> None:
    _, named = await drafted(rim)
    request = pb.ExplainLineRequest(invoice_id=named, line_number=4)
    refused = await rim.refused(f"{SERVICE}/ExplainLine", request)
    assert (refused.reason, refused.metadata["line_number"]) == ("INVOICE_LINE_NOT_FOUND", "4")


async def test_the_next_invoice_of_a_subscription_is_shown_before_there_is_one(rim: Rim) -> None:
    house, named = await drafted(rim)
    await finalize(rim, named)
    await house.use(JUNE + HOUR / 4, "30")
    await house.use(START + 7 * DAY, "90", backfill=True)
    await house.deliver()
    subscription = (await house.invoices())[0]["subscription_id"]
    request = pb.PreviewInvoiceRequest(subscription_id=encode(Prefix.SUBSCRIPTION, subscription))
    method = f"{SERVICE}/PreviewInvoice"
    ahead: pb.Invoice = (await rim.call(method, request)).invoice
    assert (ahead.id, ahead.kind, ahead.status) == (
        "",
        pb.INVOICE_KIND_PERIOD,
        pb.INVOICE_STATUS_OPEN,
    )
    request.moment = pb.PREVIEW_MOMENT_NOW
    so_far: pb.Invoice = (await rim.call(method, request)).invoice
    assert [line.amount.minor_units for line in so_far.lines] == [300, 800]

    await house.advance(JULY + HOUR / 2)

    draft = await preview(rim, await draft_of(house))
    assert [line.amount.minor_units for line in draft.lines] == [300, 800, 4900]
    assert ahead.lines == draft.lines
    assert (ahead.discount, ahead.tax, ahead.total) == (draft.discount, draft.tax, draft.total)


async def test_the_activation_of_a_subscription_in_trial_is_shown(rim: Rim) -> None:
    house, _ = await drafted(rim)
    await house.customer("LH")
    made = await house.subscribe("LH", trial_days=14)
    await house.deliver()
    request = pb.PreviewInvoiceRequest(subscription_id=encode(Prefix.SUBSCRIPTION, made.row.id))
    shown: pb.Invoice = (await rim.call(f"{SERVICE}/PreviewInvoice", request)).invoice
    assert shown.kind == pb.INVOICE_KIND_ACTIVATION
    (fee,) = shown.lines
    assert fee.amount.minor_units == 4900
    assert fee.period.start.ToDatetime() == (JUNE + HOUR / 2 + 14 * DAY).replace(tzinfo=None)


async def on_the_terminal(rim: Rim, *arguments: str) -> str:
    """What `tollway invoices …` prints."""
    where = ["--address", f"127.0.0.1:{rim.server.port}", "--key", rim.acme.keys[Scope.ADMIN]]
    command = ["invoices", *arguments, *where]
    result = await asyncio.to_thread(CliRunner().invoke, tollway, command)
    assert result.exit_code == 0, result.output
    return result.output


async def test_the_terminal_shows_previews_finalizes_explains_and_voids(rim: Rim) -> None:
    house, named = await drafted(rim)
    assert "draft" in await on_the_terminal(rim, "list", "--status", "draft")
    assert "nothing" in await on_the_terminal(rim, "list", "--blocked")
    previewed = await on_the_terminal(rim, "preview", named)
    final = await on_the_terminal(rim, "finalize", named)
    # Byte for byte but for the number.
    assert final.partition("\n")[2] == previewed.partition("\n")[2]
    assert final.startswith("INV-000002  open")
    # 1.00 + 1.00 + 49.00, less 10 percent, plus 20 percent.
    for told in ("51.00 USD", "5.10 USD", "9.18 USD", "55.08 USD"):
        assert told in final
    told = await on_the_terminal(rim, "explain", named, "1")
    assert "units: 10.004 x 0.1 = 1.0004" in told
    assert "exactly 1.0004, rounded once, half away from zero: 1.00 USD" in told
    subscription = encode(Prefix.SUBSCRIPTION, (await house.invoices())[0]["subscription_id"])
    assert "49.00 USD" in await on_the_terminal(rim, "preview", subscription)
    assert "49.00 USD" not in await on_the_terminal(rim, "preview", subscription, "--now")
    voided = await on_the_terminal(rim, "void", named, "--reason", "wrong")
    assert "made again as inv_" in voided
    assert "void" in await on_the_terminal(rim, "show", named)
