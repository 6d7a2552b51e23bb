"""Every path: the stored rows that services hand to the rim, by name. Invariant: nobody but a service calls a query."""

from queries.models import (
    ApiKey,
    Customer,
    Invoice,
    Meter,
    Plan,
    Price,
    Tenant,
    TestClock,
    Webhook,
    WebhookRecovery,
)
from queries.usage_revisions import ListUsageRevisionsRow as UsageRevision

__all__ = [
    "ApiKey",
    "Customer",
    "Invoice",
    "Meter",
    "Plan",
    "Price",
    "Tenant",
    "TestClock",
    "UsageRevision",
    "Webhook",
    "WebhookRecovery",
]
