"""Replay path: what a replay may be aimed at, how it treats what was handled before, and the states that it has.

Invariant: everything that can do harm is off unless it is asked for by name, and what was asked for is part of the plan
whose hash is confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from billing.domain.lifecycle import Machine, StatusChanged


class TargetKind(StrEnum):
    """What gets the events."""

    BUS = "bus"  # everybody who reads the bus; the inbox of each consumer tells duplicates
    CONSUMER = "consumer"  # one consumer of the router, by name
    ENDPOINT = "endpoint"  # one webhook endpoint, by id
    DEAD_LETTERS = "dead_letters"  # what was given up goes back where it came from


class Mode(StrEnum):
    """What becomes of an event that its target has handled before."""

    PRESERVE = "preserve"  # nothing: it is skipped
    FORCE = "force"  # the consumer computes anew what the event touched, from the facts


class Effects(StrEnum):
    """Whether the replay may reach anybody outside."""

    SUPPRESS = "suppress"
    ALLOW = "allow"


class EventStatus(StrEnum):
    """Only events that have come so far."""

    ANY = ""
    DISPATCHED = "dispatched"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class Target:
    """One target; `name` is the consumer's name or the endpoint's TypeID."""

    kind: TargetKind
    name: str = ""

    def __str__(self) -> str:
        """As the database keeps it: `bus`, `consumer:usage`."""
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target that `str` told of."""
        kind, _, name = text.partition(":")
        return cls(TargetKind(kind), name)


@dataclass(frozen=True, slots=True)
class Safety:
    """The flags, each at its safe default. See docs/replay.md for what each prevents."""

    mode: Mode = Mode.PRESERVE
    external_effects: Effects = Effects.SUPPRESS
    allow_closed_periods: bool = False
    allow_older_than_inbox: bool = False
    stop_on_errors: bool = False
    emit_follow_ups: bool = False


class ReplayStatus(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELED = "canceled"
    FINISHED = "finished"


class ReplayAction(StrEnum):
    """What moves a replay."""

    PAUSE = "pause"  # by hand, or by an error with stop_on_errors
    RESUME = "resume"
    CANCEL = "cancel"
    FINISH = "finish"


MACHINE: Final = Machine(
    "replay",
    ReplayStatus.RUNNING,
    MappingProxyType(
        {
            (ReplayStatus.RUNNING, ReplayAction.PAUSE): ReplayStatus.PAUSED,
            (ReplayStatus.PAUSED, ReplayAction.RESUME): ReplayStatus.RUNNING,
            (ReplayStatus.RUNNING, ReplayAction.CANCEL): ReplayStatus.CANCELED,
            (ReplayStatus.PAUSED, ReplayAction.CANCEL): ReplayStatus.CANCELED,
            (ReplayStatus.RUNNING, ReplayAction.FINISH): ReplayStatus.FINISHED,
        }
    ),
)
ACTIVE: Final = (ReplayStatus.RUNNING, ReplayStatus.PAUSED)


def apply_lifecycle(
    state: ReplayStatus, action: ReplayAction, now: datetime
) -> tuple[ReplayStatus, StatusChanged]:
    """The next state, or InvalidTransition."""
    return MACHINE.apply(state, action, now)
