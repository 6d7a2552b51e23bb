"""The door: how `tollway webhooks` prints: tables, states, times, and the line of figures under them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.webhook.v1 import delivery_service_pb2 as pb

from cli.client import DEADLINE_S, Connection, channel_to, run

Answer = TypeVar("Answer", bound=Message)
_COLORS: Final = {
    "delivered": "green",
    "dead": "red",
    "parked": "yellow",
    "open": "red",
    "half open": "yellow",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="At most so many."
)
page_option = click.option("--page", default="", help="The token that the page before printed.")


def call(
    connection: Connection,
    stub: Callable[[Any], Any],
    ask: Callable[[Any, dict[str, Any]], Awaitable[Answer]],
) -> Any:
    """The answer of one call of the service that `stub` makes from a channel."""

    async def work() -> Answer:
        async with channel_to(connection) as channel:
            how = {"metadata": connection.metadata, "timeout": DEADLINE_S}
            return await ask(stub(channel), how)

    return run(work())


def word(status: int) -> str:
    """A delivery's status in a word."""
    return pb.DeliveryStatus.Name(status).removeprefix("DELIVERY_STATUS_").lower()  # type: ignore[arg-type] # an enum of the wire


def breaker_word(state: int) -> str:
    """A breaker's state in a word or two."""
    name = pb.BreakerState.Name(state).removeprefix("BREAKER_STATE_")  # type: ignore[arg-type] # an enum of the wire
    return name.lower().replace("_", " ")


def colored(text: str) -> str:
    """A state in its color, as markup."""
    color = _COLORS.get(text)
    return f"[{color}]{text}[/{color}]" if color else text


def share(part: int, whole: int) -> str:
    """A part in percent; empty of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def age(stamp: Timestamp) -> str:
    """How long ago, roughly; empty when it is unset."""
    if not stamp.seconds:
        return ""
    seconds = max(0, int((datetime.now(UTC) - stamp.ToDatetime(UTC)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def figures_line(figures: pb.DeliveryFigures) -> str:
    """The figures of a window in a line."""
    first = share(figures.first_attempt_delivered, figures.attempted) or "-"
    text = f"{figures.deliveries:,} deliveries, {first} by the first attempt"
    if not figures.delivered:
        return text
    return (
        f"{text}; p50 {figures.p50_ms:,} ms, p95 {figures.p95_ms:,} ms, p99 {figures.p99_ms:,} ms"
    )


def endpoint_line(stats: pb.EndpointStats) -> str:
    """What waits for an endpoint, and its breaker, in a line."""
    oldest = f", the oldest for {age(stats.oldest_undelivered_time)}" if stats.undelivered else ""
    disabled = f"; disabled: {stats.disabled_reason}" if stats.disabled_reason else ""
    return f"{stats.undelivered:,} undelivered{oldest}; breaker {breaker_word(stats.breaker)}{disabled}"
