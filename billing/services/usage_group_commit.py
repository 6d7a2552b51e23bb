"""Usage path, step 1: single records that wait at the same time share one transaction per tenant.

Invariant: a call is answered after the commit of its own record; a record that spoils a transaction is tried again
alone, so it fails alone. One drainer per tenant, which lives while calls wait: what arrives during a commit is the next
group.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.runtime.faults import Fault, fault_of
from billing.services.actor import Cause
from billing.services.usage_batch import BATCH_RECORDS_MAX, BatchAnswer, UsageBatch, Verdict
from billing.services.usage_ingest import record_usage

# Callers that were answered together come back together: a moment's patience makes one commit of them.
GATHER_S: Final = 0.002
# Where a crowd comes, as long as its last commit took: its cost is shared by more. A lone caller never waits so long.
GATHER_MAX_S: Final = 0.010
CROWD: Final = 8

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Share:
    """What records must have in common to be one batch with one event. `correlation` is the caller's own, or empty."""

    actor: str
    correlation: str
    allow_backfill: bool


class Author(Protocol):
    """A caller. Its cause is made when it is asked for: of a group that shares a batch, only one's is."""

    @property
    def traceparent(self) -> str:
        """The trace that it is part of; may be empty."""

    @property
    def cause(self) -> Cause:
        """What it brings about is caused by this."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one record: no verdict when it was accepted, then in this batch."""

    verdict: Verdict | None
    batch_id: UUID | None


@dataclass(slots=True)
class _Waiting(Generic[Record]):
    record: Record
    share: Share
    author: Author
    answer: asyncio.Future[Recorded]


class GroupCommit(Generic[Record]):
    """Records one at a time. `to_batch` makes columns of records, and says whether old ones may be among them.

    As many calls wait as the server takes at once.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        to_batch: Callable[[Sequence[Record], bool], UsageBatch],
    ) -> None:
        self._database, self._clock, self._to_batch = database, clock, to_batch
        self._lanes: dict[UUID, list[_Waiting[Record]]] = {}
        self._drainers: set[asyncio.Task[None]] = set()

    async def record(
        self, tenant_id: UUID, record: Record, share: Share, author: Author
    ) -> Recorded:
        """Records it with others of the tenant; returns when it is committed. A caller who leaves loses nothing."""
        waiting = _Waiting(record, share, author, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = []
            drainer = asyncio.create_task(self._drain(tenant_id, lane), name="usage group commit")
            self._drainers.add(drainer)
            drainer.add_done_callback(self._drainers.discard)
        lane.append(waiting)
        return await waiting.answer

    async def _drain(self, tenant_id: UUID, lane: list[_Waiting[Record]]) -> None:
        gather_s = GATHER_S
        try:
            while lane:
                await asyncio.sleep(gather_s)
                began = time.monotonic()
                group = [waiting for waiting in lane if not waiting.answer.done()]
                lane[:] = group[BATCH_RECORDS_MAX:]
                await self._commit_or_tell(tenant_id, group[:BATCH_RECORDS_MAX])
                took_s = min(time.monotonic() - began, GATHER_MAX_S)
                gather_s = max(took_s, GATHER_S) if len(group) >= CROWD else GATHER_S
        finally:
            del self._lanes[tenant_id]
            for waiting in lane:
                waiting.answer.cancel()

    async def _commit_or_tell(self, tenant_id: UUID, group: Sequence[_Waiting[Record]]) -> None:
        """Answers each of the group, whatever happens; what spoils a group is tried again one by one."""
        try:
            answers = await self._commit(tenant_id, group)
        except asyncio.CancelledError:
            for waiting in group:
                waiting.answer.cancel()
            raise
        except Exception as error:
            if len(group) == 1 or fault_of(error) is not Fault.DATA:
                _tell(group, error)
                return
            for waiting in group:
                await self._commit_or_tell(tenant_id, [waiting])
        else:
            _answer(group, answers)

    async def _commit(
        self, tenant_id: UUID, group: Sequence[_Waiting[Record]]
    ) -> Sequence[Recorded]:
        """What became of each of the group, all in one transaction: one batch for each share."""
        shares: dict[Share, list[int]] = {}
        for place, waiting in enumerate(group):
            shares.setdefault(waiting.share, []).append(place)
        now = self._clock.now()
        answers: dict[int, Recorded] = {}
        async with self._database.transaction(tenant_id) as tx:
            for share, places in shares.items():
                batch = self._to_batch([group[n].record for n in places], share.allow_backfill)
                cause = _cause_of([group[n].author for n in places])
                answer = await record_usage(tx, tenant_id, batch, cause, now=now)
                answers.update(zip(places, _singly(answer), strict=True))
        return [answers[place] for place in range(len(group))]


def _cause_of(authors: Sequence[Author]) -> Cause:
    """The first one's; a trace is named only when it is everybody's."""
    first = authors[0]
    if any(author.traceparent != first.traceparent for author in authors):
        return replace(first.cause, traceparent="")
    return first.cause


def _singly(answer: BatchAnswer) -> Sequence[Recorded]:
    return [
        Recorded(verdict, None if verdict else answer.batch_id)
        for verdict in map(answer.verdicts.get, range(answer.size))
    ]


def _answer(group: Sequence[_Waiting[Record]], answers: Sequence[Recorded]) -> None:
    for waiting, answer in zip(group, answers, strict=True):
        if not waiting.answer.done():  # its caller has left
            waiting.answer.set_result(answer)


def _tell(group: Sequence[_Waiting[Record]], error: Exception) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
