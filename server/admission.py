"""The rim, step 0: how much may be in hand at once; beyond it a call is refused before it costs anything.

Invariant: what is admitted is given back when it ends, however it ends; so memory is bounded by the settings and not by
the callers. Health, reflection and channelz are not counted: they answer while calls are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from prometheus_client import CollectorRegistry, Gauge

from billing.domain.errors import BillingError, Kind
from server.metrics import Refusals

# Of a request, over gRPC and HTTP alike, and of a line of a stream over HTTP.
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
RETRY_AFTER_S: Final = 1
# Calls that are still sending their request, and those of the standard services, beside what is admitted.
CALLS_HEADROOM: Final = 200


class Overloaded(BillingError):
    """The server has as much in hand as it takes; try again in a moment."""

    kind = Kind.UNAVAILABLE
    reason = "OVERLOADED"


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """How many calls are in work or waiting at once, how large their requests are together, and how many streams."""

    calls_max: int = 1000
    bytes_max: int = 64 * 1024 * 1024
    streams_max: int = 500

    @property
    def rpcs_max(self) -> int:
        """Where gRPC itself stops taking calls, before anything of them is read."""
        return self.calls_max + self.streams_max + CALLS_HEADROOM


class Admission:
    """What one process has in hand. A message of a stream counts as a call while it is worked on."""

    def __init__(
        self, settings: AdmissionSettings, registry: CollectorRegistry, refusals: Refusals
    ) -> None:
        self._settings, self._refusals = settings, refusals
        self.calls = self.bytes = self.streams = 0
        for name, text, count in (
            ("calls", "Calls in work or waiting.", lambda: self.calls),
            ("call_bytes", "The size of their requests together.", lambda: self.bytes),
            ("streams", "Open streams.", lambda: self.streams),
        ):
            Gauge(f"tollway_rpc_{name}_in_hand", text, registry=registry).set_function(count)

    @property
    def is_full(self) -> bool:
        """Whether the next call is refused before it is read: there is no place, or none for the largest request."""
        return self.calls >= self._settings.calls_max or (
            self.bytes + MESSAGE_BYTES_MAX > self._settings.bytes_max and self.calls > 0
        )

    def held(self, size: int | None) -> Held:
        """A place for a call whose request has this size, or for a stream, which has none."""
        return Held(self, size)

    def enter(self, size: int) -> None:
        """Takes a place for a call. Raises Overloaded."""
        if self.calls >= self._settings.calls_max:
            self.refuse()
        self.grow(size)
        self.calls += 1

    def grow(self, size: int) -> None:
        """Takes so many bytes more. Raises Overloaded, unless nothing else is in hand."""
        if self.bytes and self.bytes + size > self._settings.bytes_max:
            self.refuse()
        self.bytes += size

    def leave(self, size: int) -> None:
        """Gives back what `enter` took."""
        self.calls -= 1
        self.bytes -= size

    def enter_stream(self) -> None:
        """Takes a place for a stream. Raises Overloaded."""
        if self.streams >= self._settings.streams_max:
            self.refuse()
        self.streams += 1

    def leave_stream(self) -> None:
        """Gives back what `enter_stream` took."""
        self.streams -= 1

    def refuse(self) -> NoReturn:
        """Raises Overloaded, and counts it."""
        self._refusals.count(Overloaded.reason)
        raise Overloaded(retry_after_s=RETRY_AFTER_S)


class Held:
    """A place in hand, for the time of a block. A class, since every call passes here."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: Admission, size: int | None) -> None:
        self._admission, self._size = admission, size

    def __enter__(self) -> Held:
        """Takes the place. Raises Overloaded."""
        if self._size is None:
            self._admission.enter_stream()
        else:
            self._admission.enter(self._size)
        return self

    def grow(self, size: int) -> None:
        """Takes so many bytes more, of a request that is being read. Raises Overloaded."""
        assert self._size is not None, "a stream is counted by its messages"
        self._admission.grow(size)
        self._size += size

    def __exit__(self, *_: object) -> None:
        """Gives it back."""
        if self._size is None:
            self._admission.leave_stream()
        else:
            self._admission.leave(self._size)
