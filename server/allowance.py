"""The rim, step 2: what each tenant may still do in this process: calls, usage records, streams.

Invariant: a refusal says how long to wait, and takes nothing from the tenant's allowance; other tenants do not notice.
Rates and streams hold in each process, since a look at the others would cost every call a round trip; quotas hold over
all of them, to within what the others accept between two flushes. An operator's own calls are never refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from math import ceil
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from billing.domain.errors import Exhausted
from billing.domain.token_bucket import TokenBucket
from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services import tenant_limits
from billing.services.keys import Principal
from billing.services.tenant_limits import Overrides, TenantLimits
from server.metrics import Refusals
from server.record_count import RecordCount

log = logging.getLogger(__name__)

# A tenant may be ahead of its rate by what so many seconds allow.
BURST_S: Final = 2.0
FLUSH_EVERY_S: Final = 2.0
KNOWN_TENANTS_MAX: Final = 10_000
_NO_TENANT: Final = UUID(int=0)


class RequestRateExceeded(Exhausted):
    """The tenant calls more often than it may; wait for as long as RetryInfo says."""

    reason = "REQUEST_RATE_EXCEEDED"


class RecordRateExceeded(Exhausted):
    """The tenant sends usage records faster than it may; wait for as long as RetryInfo says."""

    reason = "RECORD_RATE_EXCEEDED"


class TooManyStreams(Exhausted):
    """The tenant has as many open streams as it may; close one first."""

    reason = "TOO_MANY_STREAMS"


class Allowance:
    """The allowance of one tenant."""

    __slots__ = ("_home", "_overrides", "_records", "_requests", "count", "limits", "streams")

    def __init__(self, home: Allowances, tenant_id: UUID, now: datetime) -> None:
        self._home = home
        self._overrides: Overrides | None = None
        self.count, self.streams = RecordCount(tenant_id, now.date()), 0
        self._limit(home.defaults, now.timestamp())

    def _adopt(self, overrides: Overrides | None, now: datetime) -> None:
        """Goes by what an operator has set, from now on."""
        self._overrides = overrides
        self._limit(self._home.defaults.with_overrides(overrides), now.timestamp())

    def _limit(self, limits: TenantLimits, now_s: float) -> None:
        self.limits = limits
        self._requests = TokenBucket(limits.requests_per_second, BURST_S, now_s)
        self._records = TokenBucket(limits.records_per_second, BURST_S, now_s)

    def request(self, overrides: Overrides | None, now: datetime) -> None:
        """Counts one call. Raises RequestRateExceeded."""
        if overrides != self._overrides:
            self._adopt(overrides, now)
        if wait_s := self._requests.take(1, now.timestamp()):
            limit = str(self.limits.requests_per_second)
            self._home.refuse(
                RequestRateExceeded(
                    f"The tenant may make {limit} calls a second.",
                    metadata={"limit": limit},
                    retry_after_s=ceil(wait_s),
                )
            )

    def records(self, count: int, now: datetime, *, limited: bool) -> Taken:
        """Room for so many usage records, for the time of a block."""
        return Taken(self, count, now, limited=limited)

    @contextmanager
    def stream(self, *, limited: bool) -> Iterator[None]:
        """Holds one stream while it is open. Raises TooManyStreams."""
        if limited and self.streams >= self.limits.streams:
            limit = str(self.limits.streams)
            self._home.refuse(
                TooManyStreams(
                    f"The tenant may have {limit} open streams.", metadata={"limit": limit}
                )
            )
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def reserve(self, count: int, now: datetime) -> None:
        """Reserves room for so many usage records. Raises RecordRateExceeded and RecordQuotaExceeded."""
        limits = self.limits
        if (limits.records_per_day or limits.records_per_month) and not self.count.is_known:
            await self._home.learn(self.count, now.date())
        try:
            self.count.reserve(count, limits, now)
        except Exhausted as error:
            self._home.refuse(error)
        if wait_s := self._records.take(count, now.timestamp()):
            self.count.settle(count, accepted=0)
            limit = str(limits.records_per_second)
            self._home.refuse(
                RecordRateExceeded(
                    f"The tenant may send {limit} usage records a second.",
                    metadata={"limit": limit},
                    retry_after_s=ceil(wait_s),
                )
            )


class Taken:
    """Room for usage records. Whoever has it says how many were accepted; an error accepts none."""

    __slots__ = ("_allowance", "_count", "_limited", "_now", "accepted")

    def __init__(self, allowance: Allowance, count: int, now: datetime, *, limited: bool) -> None:
        self._allowance, self._count, self._now, self._limited = allowance, count, now, limited
        self.accepted = 0

    async def __aenter__(self) -> Self:
        """Takes the room. Raises RecordRateExceeded and RecordQuotaExceeded."""
        if self._limited:
            await self._allowance.reserve(self._count, self._now)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Gives back what was not accepted. A caller who leaves changes nothing about what was."""
        accepted = 0 if isinstance(error, Exception) else self.accepted
        self._allowance.count.settle(self._count if self._limited else 0, accepted=accepted)


class Allowances:
    """The allowances of all tenants of a process, and the count of their records on its way to the database."""

    def __init__(
        self, database: Database, clock: Clock, defaults: TenantLimits, refusals: Refusals
    ) -> None:
        self._database, self._clock, self._refusals = database, clock, refusals
        self.defaults = defaults
        self._tenants: dict[UUID, Allowance] = {}

    def of(self, principal: Principal, now: datetime) -> Allowance:
        """The allowance of the tenant that a caller acts for; of an operator without one, nobody's."""
        tenant_id = principal.tenant_id or _NO_TENANT
        found = self._tenants.get(tenant_id)
        if found is None:
            found = self._tenants[tenant_id] = Allowance(self, tenant_id, now)
        return found

    def refuse(self, error: Exhausted) -> None:
        """Raises the error, and counts it."""
        self._refusals.count(error.reason)
        raise error

    async def learn(self, count: RecordCount, day: date) -> None:
        """Reads what is stored of a tenant's count: once, since every flush tells it."""
        async with self._database.connection() as connection:
            stored = await tenant_limits.totals_of(connection, [count.tenant_id], day)
        count.learn(stored.get(count.tenant_id, tenant_limits.Totals()), day)

    async def flush(self) -> int:
        """Stores what was accepted since the last flush, and learns what other processes have; for how many tenants."""
        counts = [one.count for one in self._tenants.values() if one.count.fresh]
        if not counts:
            self._forget()
            return 0
        taken = {count.tenant_id: count.fresh for count in counts}
        for count in counts:
            count.fresh = {}
        day = self._clock.now().date()
        added = {(owner, on): n for owner, days in taken.items() for on, n in days.items()}
        try:
            async with self._database.transaction() as tx:
                totals = await tenant_limits.add_counts(tx, added, day)
        except BaseException:
            for count in counts:  # it was not committed, as far as we know, and is tried again
                for on, n in taken[count.tenant_id].items():
                    count.fresh[on] = count.fresh.get(on, 0) + n
            raise
        for count in counts:
            count.learn(totals[count.tenant_id], day)
        return len(counts)

    def _forget(self) -> None:
        """When there are very many tenants, all start anew while nothing of them is to be stored."""
        if len(self._tenants) > KNOWN_TENANTS_MAX:
            self._tenants = {key: one for key, one in self._tenants.items() if one.streams}
