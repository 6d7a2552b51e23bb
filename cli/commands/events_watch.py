"""The door: `tollway events watch`.

Invariant: an event is printed before its cursor is kept, so a watch that ends goes on where it stopped; only a kill
between the two prints an event again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import click
import grpc
import grpc.aio
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub

from billing.services.subjects import known_subjects
from cli.client import Connection, channel_to, connection_options, run

TRIES_MAX: Final = 10  # in a row, without an answer between them
PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 5.0


@dataclass(slots=True)
class Bookmark:
    """The cursor behind the last event that was printed, kept in a file when there is one."""

    cursor: str
    file: Path | None

    @classmethod
    def of(cls, cursor: str, file: Path | None) -> Bookmark:
        """The given cursor, or else the one in the file."""
        if not cursor and file is not None and file.exists():
            cursor = file.read_text().strip()
        return cls(cursor, file)

    def move(self, cursor: str) -> None:
        """Behind what has just been printed; the file is written whole."""
        self.cursor = cursor
        if self.file is not None:
            fresh = self.file.with_name(self.file.name + ".new")
            fresh.write_text(cursor + "\n")
            fresh.replace(self.file)


@click.command()
@connection_options
@click.option("--subject", "subjects", multiple=True, help='Such as "invoice.*"; may be repeated.')
@click.option("--resource", default="", help="Only of this resource: sub_….")
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest event that is kept.")
@click.option("--cursor", default="", help="Go on behind this cursor.")
@click.option("--cursor-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Keep the cursor here, and go on behind the one that is there.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with its cursor.")
def watch(connection: Connection, as_json: bool, **options: Any) -> None:
    """Print events as they happen, one per line, until Ctrl-C; each once, those of a resource in order.

    A broken connection is made anew. At the end, the cursor to go on with is told on standard error.
    """
    bookmark = Bookmark.of(options["cursor"], options["cursor_file"])
    request = pb.WatchEventsRequest(subjects=options["subjects"], resource_id=options["resource"])
    request.from_beginning = options["from_beginning"]
    show = _as_json if as_json else _as_line
    try:
        run(_watch(connection, request, bookmark, show, options["count"]))
    except KeyboardInterrupt:
        pass
    finally:
        if bookmark.cursor:
            click.echo(f"go on with --cursor {bookmark.cursor}", err=True)


async def _watch(
    connection: Connection,
    request: pb.WatchEventsRequest,
    bookmark: Bookmark,
    show: Callable[[event_pb2.Event, str], str],
    count: int | None,
) -> None:
    async with channel_to(connection) as channel:
        left = count
        answers = messages(EventServiceStub(channel), connection.metadata, request, bookmark)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                if answer.HasField("event"):
                    click.echo(show(answer.event, answer.cursor))
                    left = None if left is None else left - 1
                bookmark.move(answer.cursor)
                if left == 0:
                    return


async def messages(
    stub: Any, metadata: Any, request: pb.WatchEventsRequest, bookmark: Bookmark
) -> AsyncGenerator[pb.WatchEventsResponse, None]:
    """What the server sends, over as many connections as it takes. Raises the error of a call that is of no use."""
    failures = 0
    while True:
        if bookmark.cursor:
            request.cursor = bookmark.cursor
        call = stub.WatchEvents(request, metadata=metadata)
        try:
            async for answer in call:
                failures = 0
                yield answer
        except grpc.aio.AioRpcError as error:
            failures += 1
            if error.code() is not grpc.StatusCode.UNAVAILABLE or failures >= TRIES_MAX:
                raise
            await asyncio.sleep(min(PAUSE_FIRST_S * 2**failures, PAUSE_MAX_S))
        finally:
            call.cancel()


def _as_line(event: event_pb2.Event, cursor: str) -> str:
    return line_of(event)


def line_of(event: event_pb2.Event) -> str:
    """One event for a person: when, what, of which resource, and its id."""
    at = event.occurred_at.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{at}  {event.subject}  {event.resource_id} v{event.resource_version}  {event.id}"


def _as_json(event: event_pb2.Event, cursor: str) -> str:
    return json.dumps(event_as_dict(event) | {"cursor": cursor}, separators=(",", ":"))


def event_as_dict(event: event_pb2.Event) -> dict[str, Any]:
    """One event for a program: the names of the contract; a payload that is not known here stays as bytes."""
    _load_payloads()
    try:
        told: dict[str, Any] = MessageToDict(event, preserving_proto_field_name=True)
    except TypeError:  # of a newer release
        bare = event_pb2.Event()
        bare.CopyFrom(event)
        bare.ClearField("data")
        told = MessageToDict(bare, preserving_proto_field_name=True)
        told["data"] = {"@type": event.data.type_url, "bytes": event.data.value.hex()}
    return told


@cache
def _load_payloads() -> str:
    """Brings every payload's type into the pool; those of custom events are Structs."""
    known_subjects()
    name: str = struct_pb2.Struct.DESCRIPTOR.full_name
    return name
