"""The rim over HTTP, step 2: a method is called in this process, through the same rim as over gRPC.

Invariant: authentication, validation, limits, telemetry and errors are those of the gRPC server, since it is the same
guarded method that is called; only the transport is another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import grpc
from google.rpc.status_pb2 import Status

from server.errors import STATUS_DETAILS


class Refused(Exception):
    """The method ended with an error; `status` is what a gRPC client would have been told."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class LocalContext:
    """What the rim asks of a call's context: the metadata, the time left, and a way to end it with an error."""

    def __init__(self, metadata: Mapping[str, str], time_left_s: float) -> None:
        self._metadata = tuple(metadata.items())
        self._ends_at = time.monotonic() + time_left_s
        self._trailing: Sequence[tuple[str, str | bytes]] = ()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The caller's metadata, by names in lower case."""
        return self._metadata

    def time_remaining(self) -> float:
        """Seconds until the call is given up."""
        return max(self._ends_at - time.monotonic(), 0.0)

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What was set to be told at the end."""
        return self._trailing

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Sets what is told at the end."""
        self._trailing = tuple(metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """Ends the call. Raises Refused with the rich status that the rim has made."""
        for key, value in self._trailing:
            if key == STATUS_DETAILS and isinstance(value, bytes):
                raise Refused(Status.FromString(value))
        raise Refused(Status(code=code.value[0], message=details))
