"""Every worker: what an operator sees of the pipeline's workers at three in the morning.

Invariant: a name, once released, keeps its meaning; labels have few values (roles and consumers, never ids).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class DispatcherMetrics:
    """Counters and gauges of the dispatcher on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "tollway_dispatcher_published", "Events acknowledged by the bus.", registry=registry
        )
        self.duplicates = Counter(
            "tollway_dispatcher_duplicates",
            "Events that the bus had already, published again after a crash or a lost acknowledgement.",
            registry=registry,
        )
        self.batches_refused = Counter(
            "tollway_dispatcher_batches_refused",
            "Atomic batches refused for a message's sake and published singly.",
            registry=registry,
        )
        self.refused = Counter(
            "tollway_dispatcher_refused",
            "Single publishes that counted an attempt.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "tollway_dispatcher_dead_letters",
            "Events given up after their last attempt.",
            registry=registry,
        )
        self.zombie_deletes = Counter(
            "tollway_dispatcher_zombie_deletes",
            "Rows published but not deleted, because the lease had gone to somebody else.",
            registry=registry,
        )
        self.shards_owned = Gauge(
            "tollway_dispatcher_shards_owned", "Shards under a living lease.", registry=registry
        )
        self.shards_in_outage = Gauge(
            "tollway_dispatcher_shards_in_outage",
            "Shards whose last publish met an outage of the bus.",
            registry=registry,
        )


class RouterMetrics:
    """Counters and gauges of the router on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.routed = Counter(
            "tollway_router_routed", "Events whose cycle was committed.", registry=registry
        )
        self.repeated = Counter(
            "tollway_router_repeated",
            "Events that a consumer had handled before.",
            ["consumer"],
            registry=registry,
        )
        self.parked = Counter(
            "tollway_router_parked", "Events sent to wait.", ["consumer"], registry=registry
        )
        self.retried = Counter(
            "tollway_router_retried",
            "Waiting events handled after all.",
            ["consumer"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "tollway_router_dead_letters",
            "Events given up after their last attempt.",
            ["consumer"],
            registry=registry,
        )
        self.cycles_repeated = Counter(
            "tollway_router_cycles_repeated",
            "Cycles rolled back and run again.",
            ["fault"],
            registry=registry,
        )
        self.unreadable = Counter(
            "tollway_router_unreadable",
            "Messages on the bus that are no envelope, passed over.",
            registry=registry,
        )
        self.resets = Counter(
            "tollway_router_resets",
            "Positions reset because the stream was another one.",
            registry=registry,
        )
        self.gaps = Counter(
            "tollway_router_gaps",
            "Times that a stream began ahead of the position.",
            registry=registry,
        )
        self.lost_guards = Counter(
            "tollway_router_lost_guards",
            "Cycles of a partition refused by its position row: somebody else owns it.",
            registry=registry,
        )
        self.partitions_owned = Gauge(
            "tollway_router_partitions_owned", "Partitions under a living lease.", registry=registry
        )
        self.pulled = Gauge(
            "tollway_router_pulled", "Messages pulled and not yet routed.", registry=registry
        )


class SenderMetrics:
    """Counters, gauges and times of the webhook sender on `registry`; GetStats has the figures per endpoint."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "tollway_sender_attempts",
            "Completed attempts, by how they ended; `house` is a fault of our own.",
            ["outcome"],
            registry=registry,
        )
        self.first_attempts = Counter(
            "tollway_sender_first_attempts",
            "Completed first attempts, by how they ended.",
            ["outcome"],
            registry=registry,
        )
        self.delivered_after = Histogram(
            "tollway_sender_delivered_after_seconds",
            "From the event's making until its endpoint answered 2xx; resends are left out.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400),
            registry=registry,
        )
        self.open_exchanges = Gauge(
            "tollway_sender_open_exchanges", "Requests without an answer yet.", registry=registry
        )
        self.breakers_open = Gauge(
            "tollway_sender_breakers_open",
            "Endpoints whose breaker is open or half-open.",
            registry=registry,
        )


class SweeperMetrics:
    """Counters of the sweeper on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.partitions_made = Counter(
            "tollway_sweeper_partitions_made", "Partitions made ahead.", registry=registry
        )
        self.partitions_dropped = Counter(
            "tollway_sweeper_partitions_dropped", "Old weeks dropped.", registry=registry
        )
        self.partitions_overdue = Gauge(
            "tollway_sweeper_partitions_overdue",
            "Weeks older than what is kept that something still needs, or holds a lock on.",
            registry=registry,
        )
        self.answers_deleted = Counter(
            "tollway_sweeper_answers_deleted",
            "Answers kept for retries that were deleted.",
            registry=registry,
        )
        self.deliveries_closed = Counter(
            "tollway_sweeper_deliveries_closed",
            "Old webhook deliveries deleted and added to the closing totals.",
            registry=registry,
        )
        self.events_healed = Counter(
            "tollway_sweeper_events_healed",
            "Events published again because a consumer lacked them.",
            registry=registry,
        )
        self.messages_trimmed = Counter(
            "tollway_sweeper_messages_trimmed",
            "Routed messages removed from the bus.",
            registry=registry,
        )


class SchedulerMetrics:
    """Gauges of the scheduler on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.blocked_drafts = Gauge(
            "tollway_invoices_blocked",
            "Drafts whose time has come and that cannot become final.",
            ["reason"],
            registry=registry,
        )


class LagMetrics:
    """Gauges of how far the pipeline is behind, on `registry`; the same in every process that shows them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, label: str) -> Gauge:
            return Gauge(f"tollway_{name}", text, [label], registry=registry)

        self.pending = gauge("outbox_pending", "Events still to be published.", "shard")
        self.pending_age = gauge(
            "outbox_oldest_seconds", "Age of the oldest event still to be published.", "shard"
        )
        self.unrouted = gauge(
            "router_unrouted", "Messages on the bus that are not routed.", "partition"
        )
        self.position = gauge("router_position", "The last sequence that is routed.", "partition")
        self.waiting = gauge("consumer_waiting", "Events that wait for a consumer.", "consumer")
        self.waiting_age = gauge(
            "consumer_oldest_seconds", "How long the oldest event has waited.", "consumer"
        )
        self.dead = gauge("consumer_dead_letters", "Events that were given up.", "consumer")


class LoopMetrics:
    """Steps that failed, by worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "tollway_worker_step_failures",
            "Steps that raised and were tried again.",
            ["worker"],
            registry=registry,
        )
