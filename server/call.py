"""The rim, step 2: who calls, for which cause, under which request id.

Invariant: a call's principal and cause are set once, before the method runs, and every task of the call sees them.
"""

from __future__ import annotations

import contextlib
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from billing.domain.errors import InvalidId
from billing.domain.ids import Prefix, decode
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.keys import Principal
from server.allowance import Allowance, Taken

LOCK_WAIT_SHARE: Final = 0.8
LOCK_WAIT_MIN_S: Final = 0.01  # 0 would switch the limit off

# W3C Trace Context, version 00. Anything else is left out: it would go into every event of the call.
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_CALL: Final[ContextVar[Call]] = ContextVar("tollway_call")


@dataclass(slots=True)
class Call:
    """One RPC: the full method name, the caller, what its tenant may still do, and machine time at its start.

    `time_left_s` is what the caller's deadline left at the start; None without a deadline. `correlation` and
    `traceparent` are as the metadata has them, or empty. A method sets `resource` where the audit could not see what it
    worked on from its request and its answer.
    """

    method: str
    principal: Principal
    allowance: Allowance
    now: datetime
    time_left_s: float | None = None
    correlation: str = ""
    traceparent: str = ""
    resource: str = field(default="", init=False)
    _cause: Cause | None = field(default=None, init=False, repr=False)

    @property
    def tenant_id(self) -> UUID:
        """The tenant that the call acts for; authentication made sure that there is one where it is needed."""
        tenant_id = self.principal.tenant_id
        if tenant_id is None:
            raise LookupError(
                f"{self.method} asked for a tenant, but its permission does not demand one"
            )
        return tenant_id

    def records(self, count: int) -> Taken:
        """Room for so many usage records, for the time of a block; an operator's are counted, and never refused."""
        return self.allowance.records(count, self.now, limited=not self.principal.is_operator)

    @property
    def cause(self) -> Cause:
        """What the call's events name as their cause, made at its first use: a read brings nothing about."""
        if self._cause is None:
            known = _TRACEPARENT.fullmatch(self.traceparent)
            self._cause = Cause(
                self.principal.actor,
                self._correlation_id(),
                traceparent=self.traceparent if known else "",
                method=self.method,
            )
        return self._cause

    @property
    def lock_wait_s(self) -> float | None:
        """How long a lock may be waited for so that the caller still hears about it; None for the usual time."""
        if self.time_left_s is None:
            return None
        return max(self.time_left_s * LOCK_WAIT_SHARE, LOCK_WAIT_MIN_S)

    def _correlation_id(self) -> UUID:
        """The caller's, or a new one when there is none or it is none of ours."""
        if self.correlation:
            with contextlib.suppress(InvalidId):
                return decode(Prefix.CORRELATION, self.correlation)
        return new_id(self.now)


def current_call() -> Call:
    """The call that this task serves."""
    return _CALL.get()


def enter_call(call: Call) -> None:
    """Sets the call for this task and those it starts."""
    _CALL.set(call)
