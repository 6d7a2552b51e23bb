"""Publish path, step 3: a row of the outbox and its envelope as a message of the bus.

Invariant: everything but the time comes from the row's own columns; the envelope is never parsed and never changed.
Source: CloudEvents 1.0, binary mode.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from billing.domain.ids import Prefix, encode
from billing.runtime.bus.base import BusMessage
from billing.services.outbox import Pending

FIRST: Final = "first"


def message_of(row: Pending, occurred_at: datetime, envelope: bytes) -> BusMessage:
    """The message; its bus id is the event's id, and for what comes again (a replay, a healing) also which,
    so that no duplicate window swallows it."""
    event = encode(Prefix.EVENT, row.event_id)
    tenant, source = _tenant(row.tenant_id)
    headers = {
        "specversion": "1.0",
        "id": event,
        "type": row.subject,
        "source": source,
        "subject": row.resource,
        "time": _time(occurred_at),
        "datacontenttype": "application/protobuf",
    }
    bus_id = event
    if row.replay_id is not None:
        headers["replayid"] = encode(Prefix.REPLAY, row.replay_id)
        bus_id = bus_id_of_replay(event, row)
        if row.target:
            headers["replaytarget"] = row.target
    elif row.purpose != FIRST:
        bus_id = f"{event}:{row.purpose}"
    return BusMessage(
        row.shard, tenant, row.subject, f"{tenant}/{row.resource}", bus_id, headers, envelope
    )


def bus_id_of_replay(event: str, row: Pending) -> str:
    """`evt_…:rpl_…`, with `:n` for the n-th round and `:@usage` for whom it is, which the router reads from here."""
    assert row.replay_id is not None, "the row is a replay's"
    parts = [event, encode(Prefix.REPLAY, row.replay_id)]
    _, _, again = row.purpose.removeprefix("replay_").partition("_")
    if again:
        parts.append(again)
    if row.target:
        parts.append(f"@{row.target}")
    return ":".join(parts)


@lru_cache(maxsize=4096)
def _tenant(tenant_id: UUID) -> tuple[str, str]:
    """The tenant's TypeID, and the source attribute that names it."""
    tenant = encode(Prefix.TENANT, tenant_id)
    return tenant, f"/tenants/{tenant}"


# Events of one transaction mostly share their time.
@lru_cache(maxsize=1024)
def _time(occurred_at: datetime) -> str:
    """RFC 3339, in UTC, as the database answers it."""
    return occurred_at.isoformat().replace("+00:00", "Z")
