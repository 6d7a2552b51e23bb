"""Publish path, step 3, and the sweeper: the topic itself, through Kafka's admin API.

One topic, `tollway.events`, with as many partitions as there are shards. Kafka cannot refuse what
is new when it is full, so the topic has no retention at all (it would drop what is unrouted, in
silence): routed messages are trimmed, and the disk is the operator's to watch. The identity is the
topic id.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from datetime import datetime
from typing import Any, TypeVar

import confluent_kafka.admin
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from billing.runtime.bus.base import (
    BusMisconfigured,
    BusSettings,
    BusUnavailable,
    StreamMissing,
    StreamState,
    require_identity,
)
from billing.runtime.bus.kafka_client import TOPIC

T = TypeVar("T")
kafka_admin: Any = confluent_kafka.admin  # its types do not re-export the names it documents
SETTLE_S = 0.05  # between two looks at a topic that is being made
_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_CONFIG,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)


class KafkaTopic:
    """Makes, describes and trims the topic."""

    def __init__(self, config: dict[str, Any], settings: BusSettings) -> None:
        self._settings = settings
        self._admin = kafka_admin.AdminClient(config)

    async def _result(self, future: concurrent.futures.Future[T]) -> T:
        """An admin call's result.

        Raises:
            StreamMissing, BusUnavailable: outages.
            BusMisconfigured: refused.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise BusUnavailable("no answer from Kafka") from error
        except KafkaException as exception:
            cause: KafkaError = exception.args[0]
            if cause.code() in _MISSING:
                raise StreamMissing(f"topic {TOPIC} or a partition of it is missing") from exception
            if cause.code() in _FORBIDDEN:
                raise BusMisconfigured(f"Kafka refuses: {cause.str()}") from exception
            raise BusUnavailable(f"Kafka: {cause.str()}") from exception

    async def _describe(self) -> Any:
        futures = self._admin.describe_topics(
            TopicCollection([TOPIC]), request_timeout=self._settings.request_timeout_s
        )
        return await self._result(futures[TOPIC])

    async def _offset(self, partition: int, spec: Any) -> int:
        at = TopicPartition(TOPIC, partition)
        futures = self._admin.list_offsets(
            {at: spec}, request_timeout=self._settings.request_timeout_s
        )
        return int((await self._result(futures[at])).offset)

    async def state(self, partition: int) -> StreamState:
        """Identity and ends; see `base.Subscriber.stream_state`."""
        description = await self._describe()
        if partition >= len(description.partitions):
            raise StreamMissing(f"topic {TOPIC} has no partition {partition}")
        low = await self._offset(partition, kafka_admin.OffsetSpec.earliest())
        high = await self._offset(partition, kafka_admin.OffsetSpec.latest())
        return StreamState(str(description.topic_id), first_seq=low + 1, last_seq=high)

    async def last_before(self, partition: int, at: datetime) -> int:
        """The last sequence stored before `at`, by the broker's clock."""
        spec = kafka_admin.OffsetSpec.for_timestamp(int(at.timestamp() * 1000))
        offset = await self._offset(partition, spec)
        return (
            offset
            if offset >= 0
            else await self._offset(partition, kafka_admin.OffsetSpec.latest())
        )

    async def trim(self, partition: int, up_to: int, identity: str | None) -> None:
        """Delete records up to and including sequence `up_to`; see `base.Subscriber.trim`."""
        state = await self.state(partition)
        require_identity(state, identity)
        offset = min(up_to, state.last_seq)
        if offset < state.first_seq:
            return
        at = TopicPartition(TOPIC, partition, offset)
        await self._result(self._admin.delete_records([at])[at])

    async def ensure(self, partitions: int) -> None:
        """Make the topic, or bring the one that is there to our configuration."""
        try:
            found = len((await self._describe()).partitions)
        except StreamMissing:
            await self._create(partitions)
            await self._settle(partitions)
            return
        # The database says how many there are. Kafka makes no fewer, so those that are left over stay unused.
        if found < partitions:
            grown = kafka_admin.NewPartitions(TOPIC, partitions)
            await self._result(self._admin.create_partitions([grown])[TOPIC])
            await self._settle(partitions)
        resource = kafka_admin.ConfigResource(
            kafka_admin.ResourceType.TOPIC,
            TOPIC,
            incremental_configs=[
                kafka_admin.ConfigEntry(
                    name, value, incremental_operation=kafka_admin.AlterConfigOpType.SET
                )
                for name, value in topic_config(self._settings).items()
            ],
        )
        await self._result(self._admin.incremental_alter_configs([resource])[resource])

    async def _create(self, partitions: int) -> None:
        topic = kafka_admin.NewTopic(
            TOPIC, partitions, self._settings.replicas, config=topic_config(self._settings)
        )
        future = self._admin.create_topics([topic])[TOPIC]
        try:
            await self._result(future)
        except BusUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, KafkaException):
                raise
            if cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another was first
                raise

    async def _settle(self, partitions: int) -> None:
        """Wait until every new partition has a leader; creating returns before that."""
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout_s
        for partition in range(partitions):
            while True:
                try:
                    await self.state(partition)
                    break
                except BusUnavailable:
                    if asyncio.get_running_loop().time() > deadline:
                        raise
                    await asyncio.sleep(SETTLE_S)

    async def warnings(self) -> list[str]:
        """What makes an acknowledgement less than durable."""
        try:
            description = await self._describe()
        except (BusUnavailable, BusMisconfigured) as error:
            return [f"the durability of Kafka could not be checked: {error}"]
        fewest = min(len(partition.replicas) for partition in description.partitions)
        if fewest >= 3:
            return []
        return [
            f"topic {TOPIC} has {fewest} replica(s), and Kafka acknowledges before it syncs to "
            "disk: a power failure may lose events until they are healed; use 3 replicas"
        ]


def topic_config(settings: BusSettings) -> dict[str, str]:
    """Everything we ask of the topic."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(settings.message_max_bytes + 1024),  # a record batch's own header
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if settings.replicas >= 3 else "1",
        "unclean.leader.election.enable": "false",
    }
