"""The door: `tollway webhooks`. Invariant: everything but `resend` and `recover` only looks."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click
from rich.markup import escape
from tollway.webhook.v1 import delivery_service_pb2 as pb
from tollway.webhook.v1.delivery_service_pb2_grpc import WebhookDeliveryServiceStub

from billing.domain.signature import Secret
from cli.client import Connection, connection_options, run
from cli.commands.webhook_recoveries import recover, recoveries
from cli.listen import ListenOptions, is_forwardable, secret_for
from cli.listen import listen as listen_to
from cli.tables import at, json_text, print_table, table
from cli.webhook_tables import (
    age,
    breaker_word,
    call,
    colored,
    endpoint_line,
    figures_line,
    json_option,
    limit_option,
    page_option,
    share,
    word,
)

STATUSES: Final = ("pending", "parked", "delivered", "dead", "canceled")
HEAD_SHOWN: Final = 60


@click.group()
def command() -> None:
    """See what became of webhooks, and why; send them again."""


command.add_command(recover)
command.add_command(recoveries)


@command.command()
@connection_options
@click.option("--endpoint", default="", help="Only to this endpoint: whe_….")
@click.option("--status", type=click.Choice(STATUSES), help="Only in this state.")
@click.option("--subject", default="", help='Such as invoice.generated, or "invoice.*".')
@click.option("--event", default="", help="Only of this event: evt_….")
@limit_option
@page_option
@json_option
def deliveries(connection: Connection, as_json: bool, **options: Any) -> None:
    """List deliveries, the newest event first."""
    name = (options["status"] or "unspecified").upper()
    request = pb.ListDeliveriesRequest(
        endpoint_id=options["endpoint"],
        status=pb.DeliveryStatus.Value(f"DELIVERY_STATUS_{name}"),
        subject=options["subject"],
        event_id=options["event"],
        page_size=options["limit"],
        page_token=options["page"],
    )
    answer = _call(connection, lambda stub, how: stub.ListDeliveries(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("webhook-id", "endpoint", "subject", "state", "tries", "made", "next or end")
    for row in answer.deliveries:
        end = row.next_attempt_time if row.HasField("next_attempt_time") else row.finish_time
        rows.add_row(
            row.message_id,
            row.endpoint_id,
            escape(row.subject),
            colored(word(row.status)),
            str(row.attempts),
            at(row.create_time),
            at(end),
        )
    print_table(rows, answer.next_page_token)
    _tell_figures(connection, options["endpoint"])


@command.command()
@connection_options
@click.argument("endpoint")
@click.argument("message_id")
@click.option("--headers", is_flag=True, help="Show the headers that were sent, too.")
@json_option
def attempts(
    connection: Connection, endpoint: str, message_id: str, headers: bool, as_json: bool
) -> None:
    """Show the attempts of a delivery: its endpoint (whe_…) and its webhook-id (evt_…, evt_…_1)."""
    event_id, resend = _split(message_id)
    request = pb.GetDeliveryRequest(endpoint_id=endpoint, event_id=event_id, resend=resend)
    answer = _call(connection, lambda stub, how: stub.GetDelivery(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("#", "began", "ms", "status", "address", "error", "answer")
    for row in answer.attempts:
        rows.add_row(
            str(row.number),
            at(row.start_time),
            f"{row.duration_ms:,}",
            str(row.response_status or ""),
            row.address,
            escape(row.error),
            escape(row.response_head[:HEAD_SHOWN]),
        )
    print_table(rows)
    for row in answer.attempts if headers else ():
        for name, value in sorted(row.request_headers.items()):
            click.echo(f"#{row.number} {name}: {value}")
    click.echo(f"state: {word(answer.delivery.status)}")
    _tell_figures(connection, endpoint)


@command.command()
@connection_options
@click.option("--endpoint", default="", help="Only of this endpoint: whe_….")
@limit_option
@page_option
@json_option
def dlq(connection: Connection, endpoint: str, limit: int, page: str, as_json: bool) -> None:
    """List the deliveries that were given up, the newest event first."""
    request = pb.ListDeadLettersRequest(endpoint_id=endpoint, page_size=limit, page_token=page)
    answer = _call(connection, lambda stub, how: stub.ListDeadLetters(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("event", "resend", "endpoint", "subject", "tries", "given up", "last error")
    for row in answer.dead_letters:
        rows.add_row(
            row.event_id,
            str(row.resend),
            row.endpoint_id,
            escape(row.subject),
            str(row.attempts),
            at(row.die_time),
            escape(row.last_error),
        )
    print_table(rows, answer.next_page_token)
    _tell_figures(connection, endpoint)


@command.command()
@connection_options
@click.option("--endpoint", default="", help="Only this endpoint's: whe_….")
@click.option("--hours", type=click.IntRange(1, 168), default=24, show_default=True)
@limit_option
@page_option
@json_option
def stats(connection: Connection, endpoint: str, hours: int, as_json: bool, **paged: Any) -> None:
    """Show how well endpoints are served: first attempts, times to delivered, what waits, breakers."""
    request = pb.GetStatsRequest(
        endpoint_id=endpoint, page_size=paged["limit"], page_token=paged["page"]
    )
    request.window.FromSeconds(hours * 3600)
    answer = _call(connection, lambda stub, how: stub.GetStats(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table(
        "endpoint",
        "deliveries",
        "at once",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "waiting",
        "oldest",
        "breaker",
        "",
    )
    for row in answer.endpoints:
        counts = row.figures
        rows.add_row(
            row.endpoint_id,
            f"{counts.deliveries:,}",
            share(counts.first_attempt_delivered, counts.attempted),
            f"{counts.p50_ms:,}",
            f"{counts.p95_ms:,}",
            f"{counts.p99_ms:,}",
            f"{row.undelivered:,}",
            age(row.oldest_undelivered_time),
            colored(breaker_word(row.breaker)),
            f"disabled: {row.disabled_reason}" if row.disabled_reason else "",
        )
    print_table(rows, answer.next_page_token)
    click.echo(f"the tenant: {figures_line(answer.tenant)}")


@command.command()
@connection_options
@click.argument("endpoint")
@click.argument("event")
@click.option("--note", default="", help="Why, for the audit log.")
@click.option("--request-id", default="", help="The same id answers like the first time.")
def resend(connection: Connection, endpoint: str, event: str, note: str, request_id: str) -> None:
    """Send an event (evt_…) to an endpoint (whe_…) again, under a webhook-id of its own."""
    request = pb.ResendDeliveryRequest(
        request_id=request_id, endpoint_id=endpoint, event_id=event, note=note
    )
    answer = _call(connection, lambda stub, how: stub.ResendDelivery(request, **how))
    click.echo(f"{answer.delivery.message_id} is {word(answer.delivery.status)}")


@command.command()
@connection_options
@click.option("--endpoint", default="", help="Only this endpoint's: whe_….")
@limit_option
@page_option
@json_option
def balance(connection: Connection, endpoint: str, limit: int, page: str, as_json: bool) -> None:
    """Show the books: what matched must equal the deliveries by state, at every moment."""
    request = pb.GetBalanceRequest(endpoint_id=endpoint, page_size=limit, page_token=page)
    answer = _call(connection, lambda stub, how: stub.GetBalance(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    rows = table("endpoint", "matched", *STATUSES, "")
    for row in answer.endpoints:
        counts = [f"{getattr(row, name):,}" for name in ("matched", *STATUSES)]
        rows.add_row(
            row.endpoint_id, *counts, "[green]=[/green]" if row.balanced else "[red]differs[/red]"
        )
    print_table(rows, answer.next_page_token)
    click.echo(f"the tenant: matched {answer.matched:,}, filtered {answer.filtered:,}")


@command.command()
@connection_options
@click.argument("endpoint")
@click.argument("event")
@json_option
def explain(connection: Connection, endpoint: str, event: str, as_json: bool) -> None:
    """Tell why an event (evt_…) was, will be or will not be delivered to an endpoint (whe_…)."""
    request = pb.ExplainDeliveryRequest(endpoint_id=endpoint, event_id=event)
    answer = _call(connection, lambda stub, how: stub.ExplainDelivery(request, **how))
    if as_json:
        click.echo(json_text(answer))
        return
    verdict = pb.DeliveryVerdict.Name(answer.verdict).removeprefix("DELIVERY_VERDICT_")
    click.echo(f"{verdict.lower().replace('_', ' ')}: {answer.explanation}")
    click.echo(
        f"subject {answer.subject}; the endpoint wants {', '.join(answer.endpoint_subjects)}"
    )


@command.command()
@connection_options
@click.option("--forward", required=True, help="Where to post: http://localhost:3000/hook.")
@click.option("--subject", "subjects", multiple=True, help='Only these, such as "invoice.*".')
@click.option("--secret", default="", help="Sign with this whsec_…, not with the one of the key.")
@click.option("--thin", is_flag=True, help="Post ids alone.")
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest event of the feed.")
@click.option("--count", type=click.IntRange(0), default=0, help="End after so many; 0: never.")
def listen(
    connection: Connection, forward: str, secret: str, subjects: tuple[str, ...], **more: Any
) -> None:
    """Post the tenant's events, signed, to a port of this machine: for receivers under development."""
    if not is_forwardable(forward):
        raise click.BadParameter(
            "give a URL such as http://localhost:3000/hook", param_hint="--forward"
        )
    signer = Secret.parse(secret) if secret else secret_for(connection.key)
    click.echo(f"signing secret: {signer.to_text()}")
    click.echo(f"events go to {forward}; stop with Ctrl+C", err=True)
    options = ListenOptions(forward, signer, subjects, **more)
    with contextlib.suppress(KeyboardInterrupt):
        run(listen_to(connection, options, click.echo))


def _call(connection: Connection, ask: Callable[[Any, dict[str, Any]], Awaitable[Any]]) -> Any:
    return call(connection, WebhookDeliveryServiceStub, ask)


def _tell_figures(connection: Connection, endpoint: str) -> None:
    """The figures of an endpoint, or of the tenant, in a line or two."""
    request = pb.GetStatsRequest(endpoint_id=endpoint, page_size=1)
    answer = _call(connection, lambda stub, how: stub.GetStats(request, **how))
    if not endpoint:
        click.echo(f"24 h of the tenant: {figures_line(answer.tenant)}")
    for stats in answer.endpoints if endpoint else ():
        click.echo(f"24 h of the endpoint: {figures_line(stats.figures)}")
        click.echo(endpoint_line(stats))


def _split(message_id: str) -> tuple[str, int]:
    """The event and the resend that a webhook-id names."""
    event_id, _, nonce = message_id.rpartition("_")
    return (event_id, int(nonce)) if "_" in event_id and nonce.isdecimal() else (message_id, 0)
