"""Usage import: batches on their way to the server, a few at a time.

Invariant: memory is bounded by the batches in flight, whatever the size of the file; a batch that may or may not have
arrived is sent again, since its records have keys of their own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from tollway.error.v1 import error_reason_pb2
from tollway.usage.v1 import backfill_service_pb2 as backfill_pb
from tollway.usage.v1 import usage_service_pb2 as pb
from tollway.usage.v1.backfill_service_pb2_grpc import BackfillServiceStub
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.domain.backoff import ExponentialBackoff
from cli.usage_import.mapping import RowMapper, Unmapped
from cli.usage_import.options import ImportFailed, ImportOptions
from cli.usage_import.reader import Row, RowReader
from cli.usage_import.rejects import Rejects

BATCH_RECORDS_MAX: Final = 1000
# Below the 4 MiB that the server takes, also with many long properties.
BATCH_BYTES_MAX: Final = 3_000_000
IN_FLIGHT_MAX: Final = 4
ATTEMPTS_MAX: Final = 6
DEADLINE_S: Final = 30.0
_RETRY: Final = ExponentialBackoff(base_ms=200, cap_ms=5_000)
_PASSING: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED}
)
_REFUSED: Final[Mapping[int, str]] = {
    pb.RECORD_OUTCOME_CONFLICT: "conflict",
    pb.RECORD_OUTCOME_REJECTED: "rejected",
}

Metadata = Sequence[tuple[str, str]]


@dataclass(slots=True)
class ImportSummary:
    """What became of the rows. `skipped` are those that the filters left out; `seconds` is how long it took."""

    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    skipped: int = 0
    seconds: float = 0.0
    rejects: Path | None = None

    @property
    def sent(self) -> int:
        """How many rows were not left out."""
        return self.accepted + self.duplicate + self.conflict + self.rejected


@dataclass(slots=True)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    records: list[pb.UsageRecord] = field(default_factory=list)
    bytes: int = 0

    def is_full(self) -> bool:
        return len(self.records) >= BATCH_RECORDS_MAX or self.bytes >= BATCH_BYTES_MAX


async def import_usage(
    channel: grpc.aio.Channel, metadata: Metadata, options: ImportOptions, console: Console
) -> ImportSummary:
    """Imports the file, with a progress bar on `console`.

    Raises ImportFailed when the file cannot be read, and what gRPC raises when the server refuses a whole batch or
    cannot be reached for half a minute. What was accepted until then is recorded: run the same import again.
    """
    began = time.monotonic()
    with RowReader(options.file) as reader, Rejects(options.rejects, reader.columns) as rejects:
        if reader.columns and (missing := options.named_columns() - set(reader.columns)):
            raise ImportFailed(
                f"{options.file} has no column {min(missing)!r}; it has {', '.join(reader.columns)}."
            )
        job = _Import(UsageServiceStub(channel), metadata, options, rejects)
        await job.begin_backfill(BackfillServiceStub(channel))
        with _bar(console) as progress:
            task = progress.add_task(options.file.name, total=reader.bytes_total)
            await job.run(reader, lambda: progress.update(task, completed=reader.bytes_read))
            progress.update(task, completed=reader.bytes_total)
        job.summary.rejects = rejects.written_to
    job.summary.seconds = time.monotonic() - began
    return job.summary


class _Import:
    """One import: reads ahead of the senders by at most one batch."""

    def __init__(
        self,
        stub: UsageServiceStub,
        metadata: Metadata,
        options: ImportOptions,
        rejects: Rejects,
    ) -> None:
        self._stub, self._metadata, self._options, self._rejects = stub, metadata, options, rejects
        self._mapper = RowMapper(options)
        self._backfill_id = ""
        self.summary = ImportSummary()

    async def begin_backfill(self, stub: BackfillServiceStub) -> None:
        """Finds or makes the job that the options name."""
        if not self._options.backfill:
            return
        how: Any = {"metadata": tuple(self._metadata), "timeout": DEADLINE_S}
        name = self._options.backfill
        try:
            found = await stub.GetBackfill(backfill_pb.GetBackfillRequest(name=name), **how)
            self._backfill_id = found.backfill.id
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            request = backfill_pb.CreateBackfillRequest(name=name, note=self._options.file.name)
            self._backfill_id = (await stub.CreateBackfill(request, **how)).backfill.id

    async def run(self, reader: RowReader, show: Callable[[], None]) -> None:
        """Sends all rows; `show` is called as it goes."""
        queue: asyncio.Queue[_Batch | None] = asyncio.Queue(maxsize=1)

        async def sender() -> None:
            while (batch := await queue.get()) is not None:
                self._count(batch, await self._send(batch))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT_MAX):
                    group.create_task(sender())
                for batch in self._batches(reader):
                    await queue.put(batch)
                    show()
                for _ in range(IN_FLIGHT_MAX):
                    await queue.put(None)
        except* (ImportFailed, grpc.aio.AioRpcError) as failures:
            # The first is the cause; the others are its echo in the other senders.
            raise _first(failures) from None

    def _batches(self, reader: RowReader) -> Iterator[_Batch]:
        batch = _Batch()
        for row in reader.rows():
            record = self._record(row)
            if record is None:
                continue
            batch.rows.append(row)
            batch.records.append(record)
            batch.bytes += record.ByteSize()
            if batch.is_full():
                yield batch
                batch = _Batch()
        if batch.records:
            yield batch

    def _record(self, row: Row) -> pb.UsageRecord | None:
        """The row's record; None when it is left out or refused."""
        if row.problem:
            self._reject(row, "INVALID_ARGUMENT", f"The row cannot be read: {row.problem}.")
            return None
        if not self._mapper.wants(row.values):
            self.summary.skipped += 1
            return None
        try:
            return self._mapper.record(row.values)
        except Unmapped as error:
            self._reject(row, error.reason, error.message)
            return None

    def _reject(self, row: Row, reason: str, message: str) -> None:
        self.summary.rejected += 1
        self._rejects.add(row, "rejected", reason, message)

    def _count(self, batch: _Batch, answer: pb.BatchRecordUsageResponse) -> None:
        summary = self.summary
        summary.accepted += answer.accepted
        summary.duplicate += answer.duplicate
        summary.conflict += answer.conflict
        summary.rejected += answer.rejected
        if not answer.conflict and not answer.rejected:
            return
        for row, result in zip(batch.rows, answer.results, strict=True):
            if result.outcome in _REFUSED:
                reason = error_reason_pb2.ErrorReason.Name(result.reason)
                short = reason.removeprefix("ERROR_REASON_")
                self._rejects.add(row, _REFUSED[result.outcome], short, result.message)

    async def _send(self, batch: _Batch) -> pb.BatchRecordUsageResponse:
        request = pb.BatchRecordUsageRequest(
            records=batch.records,
            allow_backfill=self._options.allow_backfill,
            backfill_id=self._backfill_id,
        )
        for attempt in range(1, ATTEMPTS_MAX):
            try:
                return await self._call(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            pause = _RETRY.delay(attempt, jitter_permille=random.randint(0, 1000))
            await asyncio.sleep(pause.total_seconds())
        return await self._call(request)

    async def _call(self, request: pb.BatchRecordUsageRequest) -> pb.BatchRecordUsageResponse:
        return await self._stub.BatchRecordUsage(
            request, metadata=tuple(self._metadata), timeout=DEADLINE_S
        )


def _first(failures: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
