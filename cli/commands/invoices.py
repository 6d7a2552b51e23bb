"""The door: `tollway invoices`. Invariant: what is printed adds up, so that a person can follow with a calculator."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import Channel
from rich.markup import escape
from tollway.catalog.v1 import catalog_service_pb2 as catalog
from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from tollway.type.v1 import money_pb2

from billing.domain.currency import exponent_of
from billing.domain.decimals import decimal_text
from billing.domain.money import Money
from billing.services.fee_lines import UNUSED
from cli.asking import Asked
from cli.client import DEADLINE_S, Connection, channel_to, connection_options, run
from cli.commands import invoice_files
from cli.references import customer_id, invoice_id
from cli.tables import at, json_text, print_table, table

Answer = TypeVar("Answer")
STATUSES: Final = ("draft", "open", "paid", "void")

# What of the records the quantity is.
_MEASURED: Final = {
    catalog.AGGREGATION_COUNT: "how many records",
    catalog.AGGREGATION_SUM: "the sum of the records",
    catalog.AGGREGATION_MAX: "the largest record",
    catalog.AGGREGATION_UNIQUE: "how many different values",
    catalog.AGGREGATION_LATEST: "the last record",
    catalog.AGGREGATION_WEIGHTED_SUM: "the level times its share of the full period, added up",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group()
def command() -> None:
    """See invoices and why they say what they say; preview, finalize, void and export them."""


@command.command("list")
@connection_options
@click.option("--status", type=click.Choice(STATUSES), help="Only in this state.")
@click.option("--customer", default="", help="Only of this customer: cus_… or your own id.")
@click.option("--subscription", default="", help="Only of this subscription: sub_….")
@click.option(
    "--blocked", is_flag=True, help="Only drafts that cannot become final, with the reason."
)
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--page", default="", help="The token that the page before printed.")
@json_option
def list_invoices(connection: Connection, as_json: bool, **options: Any) -> None:
    """List invoices, newest first."""
    status = f"INVOICE_STATUS_{(options['status'] or 'unspecified').upper()}"
    request = pb.ListInvoicesRequest(
        status=pb.InvoiceStatus.Value(status),
        subscription_id=options["subscription"],
        blocked=options["blocked"],
        page_size=options["limit"],
        page_token=options["page"],
    )

    async def ask(channel: Channel, how: dict[str, Any]) -> pb.ListInvoicesResponse:
        request.customer_id = await customer_id(channel, connection, options["customer"])
        return await InvoiceServiceStub(channel).ListInvoices(request, **how)

    answer = _called(connection, ask)
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("invoice", "number", "kind", "boundary", "state", "total", "due", "")
    for row in answer.invoices:
        is_draft = row.status == pb.INVOICE_STATUS_DRAFT
        amounts = ("", "") if is_draft else (_money(row.total), _money(row.amount_due))
        state, kind = _word(pb.InvoiceStatus, row.status), _word(pb.InvoiceKind, row.kind)
        rows.add_row(
            row.id, row.number, kind, _at(row.boundary_time), state, *amounts, row.blocked_reason
        )
    print_table(rows, answer.next_page_token)


@command.command()
@connection_options
@click.argument("invoice")
@json_option
def show(connection: Connection, invoice: str, as_json: bool) -> None:
    """Show an invoice (inv_… or its number) with its lines; of a draft, as they stand now."""
    request = pb.GetInvoiceRequest(invoice_id=invoice)
    answer = _call(connection, "GetInvoice", request)
    _show(answer, answer.invoice, as_json=as_json)


@command.command()
@connection_options
@click.argument("what")
@click.option("--now", "is_now", is_flag=True, help="Of a subscription: without the fees to come.")
@json_option
def preview(connection: Connection, what: str, is_now: bool, as_json: bool) -> None:
    """Show a draft (inv_…) as it would be, were it final now, or a subscription's (sub_…) next invoice."""
    request = pb.PreviewInvoiceRequest(invoice_id=what)
    if what.startswith("sub_"):
        moment = pb.PREVIEW_MOMENT_NOW if is_now else pb.PREVIEW_MOMENT_NEXT_BOUNDARY
        request = pb.PreviewInvoiceRequest(subscription_id=what, moment=moment)
    answer = _call(connection, "PreviewInvoice", request)
    _show(answer, answer.invoice, as_json=as_json, is_preview=True)


@command.command()
@connection_options
@click.argument("invoice")
@json_option
def finalize(connection: Connection, invoice: str, as_json: bool) -> None:
    """Make a draft (inv_…) final now: it gets its number and never changes again."""
    request = pb.FinalizeInvoiceRequest(invoice_id=invoice, request_id=str(uuid.uuid4()))
    answer = _call(connection, "FinalizeInvoice", request)
    _show(answer, answer.invoice, as_json=as_json)


@command.command()
@connection_options
@click.argument("invoice")
@click.option("--waive", is_flag=True, help="Do not make it again: nobody pays what it billed.")
@click.option("--reason", cls=Asked, prompt="Why", help="Why, for whoever reads the invoice later.")
@json_option
def void(connection: Connection, invoice: str, waive: bool, reason: str, as_json: bool) -> None:
    """Take an open invoice (inv_… or its number) back; a new draft bills its periods again."""
    request = pb.VoidInvoiceRequest(
        invoice_id=invoice, reissue=not waive, reason=reason, request_id=str(uuid.uuid4())
    )
    answer = _call(connection, "VoidInvoice", request)
    if as_json:
        click.echo(json_text(answer))
        return
    click.echo(f"void: {answer.invoice.number} ({answer.invoice.id})")
    if answer.HasField("replacement"):
        again = answer.replacement
        click.echo(
            f"made again as {again.id}, final at {_at(again.finalize_time) or 'no set time'}"
        )
    else:
        click.echo("waived: it is not made again, and what it billed is not billed again")


@command.command()
@connection_options
@click.argument("invoice")
@click.argument("line", type=click.IntRange(1))
@json_option
def explain(connection: Connection, invoice: str, line: int, as_json: bool) -> None:
    """Explain a line, by its place, of an invoice (inv_… or its number): tiers, rounding, earlier amounts."""
    request = pb.ExplainLineRequest(invoice_id=invoice, line_number=line)
    answer = _call(connection, "ExplainLine", request)
    if as_json:
        click.echo(json_text(answer))
        return
    for text in explanation(answer):
        click.echo(text)


def explanation(answer: pb.ExplainLineResponse) -> list[str]:
    """The explanation of a line, line by line, as a sum that a person can check."""
    line = answer.line
    told = [f"{line.description}, {_at(line.period.start)} to {_at(line.period.end)}"]
    if answer.price_model:
        told.append(f"price {line.price_id}: {answer.price_model} {answer.price_config}")
    if answer.HasField("usage"):
        told += _usage(answer)
    if answer.period_share not in ("", "1"):
        full = answer.full_period
        of = f" of {_at(full.start)} to {_at(full.end)}" if full.HasField("start") else ""
        told.append(f"share of the full period: {answer.period_share}{of}")
    told += [f"  {_step(step)}" for step in line.steps]
    told += _sum(answer)
    if line.discount.minor_units or line.tax.minor_units:
        told.append(
            f"less a discount of {_money(line.discount)}, plus {line.tax_percent} % tax: {_money(line.tax)}"
        )
    return told


def _step(step: pb.LineStep) -> str:
    """A product; what costs nothing is only counted."""
    if step.unit_amount in ("", "0") and step.amount in ("", "0"):
        return f"{step.label}: {step.quantity}"
    return f"{step.label}: {step.quantity} x {step.unit_amount} = {step.amount}"


def _true_up(answer: pb.ExplainLineResponse) -> list[str]:
    """The bound of the price, its share, and what the usage lines or the fee must have come to."""
    line, config = answer.line, json.loads(answer.price_config)
    currency, is_credit = line.amount.currency_code, line.description.endswith(UNUSED)
    true_up = Money(-line.amount.minor_units if is_credit else line.amount.minor_units, currency)
    name = "minimum" if true_up.minor_units > 0 else "maximum"
    share, bound = Fraction(answer.period_share or "1"), config[f"{name}_amount"]
    whole = Money.of_exact(Fraction(bound) * share, currency)
    what = "the usage lines of the period" if answer.HasField("usage") else "the fee"
    of_share = f" x {share}" if share != 1 else ""
    return [
        f"the {name} of the price: {bound}{of_share} = {whole.to_text()}, rounded",
        f"less {what}: {(whole - true_up).to_text()}",
        f"leaves {true_up.to_text()} {currency}{', which is given back' if is_credit else ''}",
    ]


def _usage(answer: pb.ExplainLineResponse) -> list[str]:
    usage, line = answer.usage, answer.line
    told = [f"the meter {usage.meter}"]
    if line.quantity and line.kind != pb.LINE_KIND_TRUE_UP:
        priced = "priced as" if "quantity_rounding" in answer.price_config else "which came to"
        told[0] += f": {_MEASURED.get(usage.aggregation, 'quantity')}, {priced} {line.quantity}"
    told.append(f"{usage.record_count:,} record{'s' * (usage.record_count != 1)} now")
    if usage.record_count:
        told[-1] += f", from {_at(usage.first_used_time)} to {_at(usage.last_used_time)}"
    told.append(
        f"  tollway usage list --item {usage.subscription_item_id}"
        f" --period {usage.period.start.ToJsonString()}"
    )
    told += [f"  where {name} is {value or 'absent'}" for name, value in line.dimensions.items()]
    if usage.HasField("amount_now"):
        told.append(
            f"the period costs {_money(usage.amount_now)} by what is recorded now;"
            f" final invoices carry {_money(usage.amount_billed)} of it"
        )
    return told


def _sum(answer: pb.ExplainLineResponse) -> list[str]:
    """From the exact amount to the line: rounded once, less what was billed before."""
    line = answer.line
    if line.kind == pb.LINE_KIND_TRUE_UP and answer.price_config:
        return _true_up(answer)
    currency = line.amount.currency_code
    if line.kind == pb.LINE_KIND_COMMITMENT:
        told = [
            f"the usage and fees of the period lack {answer.exact_amount} {currency} of the commitment"
        ]
    elif line.kind == pb.LINE_KIND_ADJUSTMENT:
        told = [f"the period costs {answer.exact_amount} {currency} now"]
    else:
        exact = answer.exact_amount
        about = f", about {decimal_text(Fraction(exact))}" if "/" in exact else ""
        rounded = f"exactly {exact}{about}, rounded once, half away from zero: "
        return [f"{rounded}{_money(line.amount)}"]
    for one in answer.earlier:
        waived = ", waived: never given back" if one.waived else ""
        told.append(f"  less {_money(one.amount)} on {one.number}, line {one.line_number}{waived}")
    return [*told, f"leaves {_money(line.amount)}"]


def _show(answer: Message, invoice: pb.Invoice, *, as_json: bool, is_preview: bool = False) -> None:
    if as_json:
        click.echo(json_text(answer))
        return
    click.echo(_heading(invoice, is_preview=is_preview))
    rows = table("#", "what", "from", "to", "quantity", "amount", "discount", "tax")
    for line in invoice.lines:
        rows.add_row(
            str(line.line_number),
            escape(line.description),
            _at(line.period.start),
            _at(line.period.end),
            line.quantity,
            *[_money(amount) for amount in (line.amount, line.discount, line.tax)],
        )
    print_table(rows)
    for name, amount in (
        ("subtotal", invoice.subtotal),
        ("- discount", invoice.discount),
        ("+ tax", invoice.tax),
        ("+ to the credit balance", invoice.to_credit_balance),
        ("= total", invoice.total),
        ("- credit applied", invoice.credit_applied),
        ("- paid", invoice.amount_paid),
        ("- credited", invoice.amount_credited),
        ("= due", invoice.amount_due),
    ):
        if amount.minor_units or name.startswith(("subtotal", "=")):
            click.echo(f"{name:>24}  {_money(amount)}")


def _heading(invoice: pb.Invoice, *, is_preview: bool) -> str:
    """What it is: a preview would be open or paid, but is neither."""
    state = _word(pb.InvoiceStatus, invoice.status)
    blocked = f", blocked: {invoice.blocked_reason}" if invoice.blocked_reason else ""
    name = invoice.number or invoice.id
    if is_preview:
        name, state = f"preview {invoice.id}".rstrip(), "as it would be, were it final now"
    kind = _word(pb.InvoiceKind, invoice.kind)
    return f"{name}  {state}{blocked}\n{kind} invoice, at the boundary {_at(invoice.boundary_time)}"


def _call(connection: Connection, method: str, request: Any) -> Any:
    """The answer of a method about one invoice, which the request may name by its number."""

    async def ask(channel: Channel, how: dict[str, Any]) -> Any:
        if request.invoice_id:
            request.invoice_id = await invoice_id(channel, connection, request.invoice_id)
        return await getattr(InvoiceServiceStub(channel), method)(request, **how)

    return _called(connection, ask)


def _called(
    connection: Connection, ask: Callable[[Channel, dict[str, Any]], Awaitable[Answer]]
) -> Answer:
    async def work() -> Answer:
        async with channel_to(connection) as channel:
            return await ask(channel, {"metadata": connection.metadata, "timeout": DEADLINE_S})

    return run(work())


def _money(amount: money_pb2.Money) -> str:
    if not amount.currency_code:
        return ""
    units = Decimal(amount.minor_units).scaleb(-exponent_of(amount.currency_code))
    return f"{units:,f} {amount.currency_code}"


def _word(enum: Any, value: int) -> str:
    name: str = enum.Name(value)
    # INVOICE_STATUS_OPEN of the enum InvoiceStatus.
    return name.rpartition("_")[2].lower()


def _at(stamp: Timestamp) -> str:
    return at(stamp, "minutes")


command.add_command(invoice_files.html)
command.add_command(invoice_files.export)
