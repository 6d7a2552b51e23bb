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

_CALL: Final[ContextVar[Call]] = ContextVar("tollway_call")


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC: the full method name, the caller, the cause of what it brings about, and machine time at its start."""

    method: str
    principal: Principal
    cause: Cause
    now: datetime

    @property
    def tenant_id(self) -> UUID:
        """The tenant that the call acts for; authentication made sure that there is one where it is needed."""
        tenant_id = self.principal.tenant_id
        if tenant_id is None:
            raise LookupError(
                f"{self.method} asked for a tenant, but its permission does not demand one"
            )
        return tenant_id


def current_call() -> Call:
    """The call that this task serves."""
    return _CALL.get()


def enter_call(call: Call) -> None:
    """Sets the call for this task and those it starts."""
    _CALL.set(call)
