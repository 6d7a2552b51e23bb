"""Every path: state machines as tables.

Invariant: a state changes only by a row of its table, and each change tells one domain event. The
last word is the guarded UPDATE of the service; the table says what to guard for (style rule 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from billing.domain.errors import InvalidTransition

State = TypeVar("State", bound=StrEnum)
Action = TypeVar("Action", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A resource went from one state to another. `events.emit` maps it to its payload message."""

    resource_kind: str
    from_status: str
    to_status: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Machine(Generic[State, Action]):
    """One state machine: where it starts, and the next state for each allowed action."""

    resource_kind: str
    initial: State
    table: Mapping[tuple[State, Action], State]

    def allowed(self, state: State) -> tuple[Action, ...]:
        """The actions that `state` has; none for a final one."""
        return tuple(action for (at, action) in self.table if at == state)

    def sources(self, action: Action) -> tuple[State, ...]:
        """The states from which `action` goes: what the WHERE of its UPDATE lists."""
        return tuple(state for (state, known) in self.table if known == action)

    def apply(self, state: State, action: Action, now: datetime) -> tuple[State, StatusChanged]:
        """The next state and the event that tells it, or InvalidTransition."""
        following = self.table.get((state, action))
        if following is None:
            raise self._refuse(state, action)
        return following, StatusChanged(self.resource_kind, state, following, action, now)

    def _refuse(self, state: State, action: Action) -> InvalidTransition:
        article = "An" if self.resource_kind[0] in "aeiou" else "A"
        choices = ", ".join(self.allowed(state)) or "nothing, the state is final"
        return InvalidTransition(
            f"{article} {self.resource_kind} that is {state} cannot {action}; possible is: {choices}.",
            metadata={
                "resource_kind": self.resource_kind,
                "status": str(state),
                "action": str(action),
            },
        )


def mermaid(machine: Machine[State, Action]) -> str:
    """The table as a mermaid state diagram, as ARCHITECTURE.md shows it."""
    lines = ["stateDiagram-v2", f"    [*] --> {machine.initial}"]
    lines += [f"    {state} --> {to} : {action}" for (state, action), to in machine.table.items()]
    states = dict.fromkeys([machine.initial, *machine.table.values()])
    lines += [f"    {state} --> [*]" for state in states if not machine.allowed(state)]
    return "\n".join(lines)
