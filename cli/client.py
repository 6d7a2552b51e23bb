"""The door: how commands call a running server.

Invariant: a failed call becomes one line with the reason and what to do; a stack trace is never what an operator reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import grpc
import grpc.aio
import uvloop
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

Result = TypeVar("Result")
Detail = TypeVar("Detail", bound=Message)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

DEADLINE_S: Final = 30.0
# An invoice of ten thousand lines as a page; the library's own limit is 4 MiB.
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
_OPTIONS: Final = [("grpc.max_receive_message_length", ANSWER_BYTES_MAX)]


class CallFailed(Exception):
    """A call to the server failed; the message is its own."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the server is, and the key to call it with. `ca_file` turns TLS on; `tenant` is for operators' keys."""

    address: str
    key: str
    tenant: str = ""
    ca_file: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call sends."""
        tenant = (("tollway-tenant", self.tenant),) if self.tenant else ()
        return (("authorization", f"Bearer {self.key}"), *tenant)


def connection_options(command: Decorated) -> Decorated:
    """Adds --address, --key, --tenant and --ca-file to a command, which gets them as `connection`."""

    def wrapped(address: str, key: str, tenant: str, ca_file: str, **options: Any) -> Any:
        return command(connection=Connection(address, key, tenant, ca_file), **options)

    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    wrapped.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--ca-file",
            envvar="TOLLWAY_CA_FILE",
            default="",
            help="Speak TLS, trusting this authority.",
        ),
        click.option(
            "--tenant",
            envvar="TOLLWAY_TENANT",
            default="",
            help="With an operator's key: act for it.",
        ),
        click.option(
            "--key",
            envvar="TOLLWAY_API_KEY",
            required=True,
            show_envvar=True,
            help="The API key; `tollway keys create` makes one.",
        ),
        click.option(
            "--address",
            envvar="TOLLWAY_ADDRESS",
            default="127.0.0.1:7070",
            show_default=True,
            show_envvar=True,
            help="Where the server is.",
        ),
    ):
        option(wrapped)
    return wrapped  # type: ignore[return-value] # click calls it with the options


@asynccontextmanager
async def channel_to(connection: Connection) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the server; errors of calls inside become CallFailed."""
    async with _open(connection) as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as error:
            raise CallFailed(describe(error, connection.address)) from error


def _open(connection: Connection) -> grpc.aio.Channel:
    if not connection.ca_file:
        return grpc.aio.insecure_channel(connection.address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(connection.ca_file).read_bytes())
    return grpc.aio.secure_channel(connection.address, credentials, options=_OPTIONS)


def describe(error: grpc.aio.AioRpcError, address: str) -> str:
    """One line: the message, the reason, and what to do when nobody answers."""
    info = error_detail(error, ErrorInfo)
    if info is not None:
        return f"{error.details()} ({info.reason})"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"no server answers at {address}; start one with `tollway up`, or give --address"
    return f"{error.code().name}: {error.details()}"


def error_detail(error: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail | None:
    """A detail of a failed call, such as its ErrorInfo, if it has one."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for packed in Status.FromString(value).details:
                detail = kind()
                if packed.Unpack(detail):
                    return detail
    return None


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's coroutine."""
    return uvloop.run(work)
