"""Every path: the stored rows that services hand to the rim, by name. Invariant: nobody but a service calls a query."""

from queries.models import (
    ApiKey,
    Customer,
    Invoice,
    Meter,
    Plan,
    Price,
    ScheduledChange,
    Tenant,
    TestClock,
    UsagePeriod,
    UsageThreshold,
    Webhook,
    WebhookRecovery,
)
from queries.usage_lists import ListUnassignedUsageRow as UnassignedUsage
from queries.usage_lists import ListUsageOfBatchesRow, ListUsageRow
from queries.usage_revisions import ListUsageRevisionsRow

# A usage record or a revision of it, from wherever it was read.
UsageRevision = ListUsageRevisionsRow | ListUsageRow | ListUsageOfBatchesRow

__all__ = [
    "ApiKey",
    "Customer",
    "Invoice",
    "Meter",
    "Plan",
    "Price",
    "ScheduledChange",
    "Tenant",
    "TestClock",
    "UnassignedUsage",
    "UsagePeriod",
    "UsageRevision",
    "UsageThreshold",
    "Webhook",
    "WebhookRecovery",
]
