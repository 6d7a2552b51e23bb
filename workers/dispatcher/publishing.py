"""Publish path, step 3: one shard's messages onto the bus, in order per resource whatever goes wrong.

Invariant: a message is sent only when every earlier one of its resource was acknowledged or is in the same atomic
batch; and only the refusal of a single publish lays blame on a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from billing.runtime.bus.base import (
    BatchRefused,
    Bus,
    BusMessage,
    BusUnavailable,
    MessageRefused,
    Outcome,
    PublishAck,
)
from workers.dispatcher.settings import DispatcherSettings


@dataclass(slots=True)
class Published:
    """What became of a shard's messages, by their index. What is in neither list was not sent, or not answered."""

    done: Sequence[int] = ()
    refused: list[tuple[int, MessageRefused]] = field(default_factory=list)
    outage: BusUnavailable | None = None
    duplicates: int = 0
    batch_refused: bool = False


async def publish(
    bus: Bus, messages: Sequence[BusMessage], settings: DispatcherSettings
) -> Published:
    """Publishes messages of one partition, in order per key."""
    few = len(messages) <= settings.plain_rows_max
    if few and len({message.key for message in messages}) == len(messages):
        return await _singly(bus, messages, settings.plain_rows_max)
    try:
        await bus.publish_batch(messages[0].partition, messages)
    except BatchRefused:
        published = await _singly(bus, messages, settings.singles_at_once_max)
        published.batch_refused = True
        return published
    except BusUnavailable as outage:
        return Published(outage=outage)
    return Published(done=range(len(messages)))


async def _singly(bus: Bus, messages: Sequence[BusMessage], at_once_max: int) -> Published:
    """Each for itself, in rounds that hold the next message of each resource; ends at an outage."""
    published = Published()
    done: list[int] = []
    waiting: dict[str, list[int]] = {}
    for index in range(len(messages) - 1, -1, -1):
        waiting.setdefault(messages[index].key, []).append(index)
    while waiting and published.outage is None:
        # The resources whose turn is earliest: the stream stays near the order of the positions.
        keys = sorted(waiting, key=lambda key: waiting[key][-1])[:at_once_max]
        round_ = [waiting[key].pop() for key in keys]
        outcomes = await bus.publish_singly([messages[index] for index in round_])
        for index, key, outcome in zip(round_, keys, outcomes, strict=True):
            acknowledged = _note(published, done, index, outcome)
            if not acknowledged or not waiting[key]:
                del waiting[key]
    published.done = done
    return published


def _note(published: Published, done: list[int], index: int, outcome: Outcome) -> bool:
    match outcome:
        case PublishAck(duplicate=duplicate):
            done.append(index)
            published.duplicates += duplicate
            return True
        case MessageRefused():
            published.refused.append((index, outcome))
        case BusUnavailable():
            published.outage = outcome
    return False
