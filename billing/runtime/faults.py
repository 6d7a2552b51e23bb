"""Router and every worker: whose fault a failed transaction is.

Invariant: an event or a row is blamed only for what it would do again. A lost connection, a deadlock, a serialization
failure and a server that stops are nobody's fault; a time limit may be anybody's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import asyncpg

from billing.domain.errors import Unavailable


class Fault(StrEnum):
    """What to do about a failed transaction."""

    OUTAGE = "outage"  # repeat it as it was, for as long as it takes, and count nothing
    TIME_LIMIT = "time_limit"  # repeat it a few times; then it may be what was asked for
    DATA = "data"  # it would fail again


# Classes of SQLSTATE: connection, rollback (deadlock, serialization), resources, operator's intervention, system.
_OUTAGE_CLASSES: Final = ("08", "40", "53", "57", "58")
_TIME_LIMITS: Final = frozenset(
    {
        "55P03",  # lock_timeout
        "57014",  # statement_timeout
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
    }
)
# The driver's own: a session that is gone, or that broke off within a message and is out of step since.
_LOST: Final = asyncpg.InterfaceError | asyncpg.InternalClientError
_READ_ONLY: Final = "25006"  # a standby that is to become the primary


def fault_of(error: BaseException) -> Fault:
    """Whose fault `error` is, by the driver's class and the server's SQLSTATE; of several, the gravest."""
    if isinstance(error, BaseExceptionGroup):
        faults = {fault_of(one) for one in error.exceptions}
        return next(
            fault for fault in (Fault.DATA, Fault.TIME_LIMIT, Fault.OUTAGE) if fault in faults
        )
    state = getattr(error, "sqlstate", None) or ""
    if state in _TIME_LIMITS:
        return Fault.TIME_LIMIT
    if state.startswith(_OUTAGE_CLASSES) or state == _READ_ONLY:
        return Fault.OUTAGE
    if isinstance(error, _LOST | Unavailable | OSError | TimeoutError):
        return Fault.OUTAGE
    return Fault.DATA
