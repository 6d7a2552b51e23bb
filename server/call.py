"""The rim, step 2: who calls, for which cause, under which request id.

Invariant: a call's principal and cause are set once, before the method runs, and every task of the call sees them.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from billing.services.actor import Cause
from billing.services.keys import Principal

LOCK_WAIT_SHARE: Final = 0.8
LOCK_WAIT_MIN_S: Final = 0.01  # 0 would switch the limit off

_CALL: Final[ContextVar[Call]] = ContextVar("tollway_call")


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC: the full method name, the caller, the cause of what it brings about, and machine time at its start.

    `time_left_s` is what the caller's deadline left at the start; None without a deadline.
    """

    method: str
    principal: Principal
    cause: Cause
    now: datetime
    time_left_s: float | None = None

    @property
    def tenant_id(self) -> UUID:
        """The tenant that the call acts for; authentication made sure that there is one where it is needed."""
        tenant_id = self.principal.tenant_id
        if tenant_id is None:
            raise LookupError(
                f"{self.method} asked for a tenant, but its permission does not demand one"
            )
        return tenant_id

    @property
    def lock_wait_s(self) -> float | None:
        """How long a lock may be waited for so that the caller still hears about it; None for the usual time."""
        if self.time_left_s is None:
            return None
        return max(self.time_left_s * LOCK_WAIT_SHARE, LOCK_WAIT_MIN_S)


def current_call() -> Call:
    """The call that this task serves."""
    return _CALL.get()


def enter_call(call: Call) -> None:
    """Sets the call for this task and those it starts."""
    _CALL.set(call)
