"""The rim, step 4: what a servicer works with, and the two shapes of every method: read and mutate.

Invariant: a method's statements run in one transaction bound to the call's tenant; a mutation is in the audit, and its
answer is stored under its request id, in that same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from billing.domain.address import Network
from billing.runtime.bus.base import Subscriber
from billing.runtime.clock import Clock
from billing.runtime.db import Connection, Database
from billing.runtime.vault import Vault
from billing.services import idempotency
from billing.services.tenant_limits import TenantLimits
from server import audit
from server.call import Call, current_call

Answer = TypeVar("Answer", bound=Message)
_NO_TENANT = UUID(int=0)


Work = Callable[[Connection, Call], Awaitable[Answer]]


def _no_hints(topic: str) -> asyncio.Event:
    return asyncio.Event()


@dataclass(frozen=True, slots=True)
class House:
    """The pools by role, machine time, and the vault for answers that carry a secret.

    `hints` gives an event that is set by each hint on a topic; without a bus nobody sets it, and polling does.
    `allowed_networks` are those that webhooks may reach beside the public internet. The bus is asked how full it is.
    `limits` are those of tenants for which no operator has set others.
    """

    api: Database
    worker: Database
    clock: Clock
    vault: Vault
    allowed_networks: Sequence[Network] = ()
    hints: Callable[[str], asyncio.Event] = _no_hints
    bus: Subscriber | None = None
    limits: TenantLimits = field(default_factory=TenantLimits)

    async def read(self, work: Work[Answer], *, snapshot: bool = False) -> Answer:
        """The answer of a method that changes nothing; `snapshot` reads one moment."""
        call = current_call()
        async with self.api.transaction(call.tenant_id, snapshot=snapshot, read_only=True) as tx:
            return await work(tx, call)

    async def before(self, work: Callable[[Connection, Call], Awaitable[None]]) -> None:
        """Something to commit ahead of a mutation, that may be done again and changes nothing a client sees."""
        call = current_call()
        async with self.api.transaction(call.tenant_id, lock_timeout_s=call.lock_wait_s) as tx:
            await work(tx, call)

    async def mutate(
        self,
        request: Message,
        answer_type: type[Answer],
        work: Work[Answer],
        *,
        secret: bool = False,
    ) -> Answer:
        """The answer of a method that changes the tenant's data; `secret` keeps the stored answer encrypted."""
        call = current_call()
        async with self.api.transaction(call.tenant_id, lock_timeout_s=call.lock_wait_s) as tx:
            return await self._once(tx, request, answer_type, work, call, secret=secret)

    async def mutate_as_operator(
        self,
        request: Message,
        answer_type: type[Answer],
        work: Work[Answer],
        *,
        secret: bool = False,
    ) -> Answer:
        """The same beyond one tenant, under the role that row-level security does not bind."""
        call = current_call()
        async with self.worker.transaction(lock_timeout_s=call.lock_wait_s) as tx:
            return await self._once(tx, request, answer_type, work, call, secret=secret)

    async def _once(
        self,
        tx: Connection,
        request: Message,
        answer_type: type[Answer],
        work: Work[Answer],
        call: Call,
        *,
        secret: bool,
    ) -> Answer:
        async def done() -> Answer:
            answer = await work(tx, call)
            await audit.record(tx, request, answer, call)
            return answer

        request_id: str = request.request_id  # type: ignore[attr-defined] # every mutating request has one
        if not request_id:
            return await done()

        async def encoded() -> bytes:
            return (await done()).SerializeToString(deterministic=True)

        key = idempotency.RequestKey(
            call.principal.tenant_id or _NO_TENANT,
            call.principal.key_id,
            call.method,
            request_id,
            _body_without_id(request),
        )
        stored = await idempotency.once(
            tx, key, encoded, now=call.now, vault=self.vault if secret else None
        )
        return answer_type.FromString(stored)


def _body_without_id(request: Message) -> bytes:
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    return copy.SerializeToString(deterministic=True)
