"""The rim, step 2: what each RPC demands of the key that calls it.

Invariant: every RPC of the contract stands here, and its comment in the proto says the same (a house test compares).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from billing.services.keys import Scope


@dataclass(frozen=True, slots=True)
class Permission:
    """The least scope of a tenant's key, or None when only operators may call.

    `without_tenant` lets an operator's key call without naming a tenant in the metadata.
    """

    scope: Scope | None
    without_tenant: bool = False


_READ: Final = Permission(Scope.READ)
_WRITE: Final = Permission(Scope.WRITE)
_ADMIN: Final = Permission(Scope.ADMIN)
_OPERATOR: Final = Permission(None, without_tenant=True)

PERMISSIONS: Final[Mapping[str, Permission]] = {
    "/tollway.tenant.v1.TenantService/CreateTenant": Permission(None, without_tenant=True),
    "/tollway.tenant.v1.TenantService/CreateApiKey": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.tenant.v1.TenantService/GetApiKey": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.tenant.v1.TenantService/RotateApiKey": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.tenant.v1.TenantService/ListApiKeys": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.tenant.v1.TenantService/RevokeApiKey": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.catalog.v1.CatalogService/CreateMeter": _WRITE,
    "/tollway.catalog.v1.CatalogService/GetMeter": _READ,
    "/tollway.catalog.v1.CatalogService/CreatePlan": _WRITE,
    "/tollway.catalog.v1.CatalogService/GetPlan": _READ,
    "/tollway.catalog.v1.CatalogService/CreatePrice": _WRITE,
    "/tollway.catalog.v1.CatalogService/ListMeters": _READ,
    "/tollway.catalog.v1.CatalogService/UpdateMeter": _WRITE,
    "/tollway.catalog.v1.CatalogService/ArchiveMeter": _WRITE,
    "/tollway.catalog.v1.CatalogService/ListPlans": _READ,
    "/tollway.catalog.v1.CatalogService/UpdatePlan": _WRITE,
    "/tollway.catalog.v1.CatalogService/ArchivePlan": _WRITE,
    "/tollway.catalog.v1.CatalogService/GetPrice": _READ,
    "/tollway.catalog.v1.CatalogService/ListPrices": _READ,
    "/tollway.catalog.v1.CatalogService/SupersedePrice": _WRITE,
    "/tollway.catalog.v1.CatalogService/ArchivePrice": _WRITE,
    "/tollway.customer.v1.CustomerService/CreateCustomer": _WRITE,
    "/tollway.customer.v1.CustomerService/UpdateCustomer": _WRITE,
    "/tollway.customer.v1.CustomerService/GetCustomer": _READ,
    "/tollway.customer.v1.CustomerService/ListCustomers": _READ,
    "/tollway.subscription.v1.SubscriptionService/CreateSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/GetSubscription": _READ,
    "/tollway.subscription.v1.SubscriptionService/ListSubscriptions": _READ,
    "/tollway.subscription.v1.SubscriptionService/ChangeSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/MigrateSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/CancelSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/UncancelSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/ListScheduledChanges": _READ,
    "/tollway.subscription.v1.SubscriptionService/CancelScheduledChange": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/UpdateSubscription": _WRITE,
    "/tollway.subscription.v1.SubscriptionService/ApplyLifecycle": _WRITE,
    "/tollway.usage.v1.UsageService/BatchRecordUsage": _WRITE,
    "/tollway.usage.v1.UsageService/RecordUsage": _WRITE,
    "/tollway.usage.v1.UsageService/StreamUsage": _WRITE,
    "/tollway.usage.v1.UsageService/GetUsageRecord": _READ,
    "/tollway.usage.v1.UsageService/AmendUsage": _WRITE,
    "/tollway.usage.v1.UsageService/VoidUsage": _WRITE,
    "/tollway.usage.v1.UsageService/ListUsage": _READ,
    "/tollway.usage.v1.UsageService/SummarizeUsage": _READ,
    "/tollway.usage.v1.UsageService/ListUnassignedUsage": _READ,
    "/tollway.usage.v1.UsageService/AssignUsage": _WRITE,
    "/tollway.usage.v1.UsageService/RequireSubscription": _WRITE,
    "/tollway.usage.v1.UsageService/ApplyLifecycle": _WRITE,
    "/tollway.usage.v1.BackfillService/CreateBackfill": _WRITE,
    "/tollway.usage.v1.BackfillService/GetBackfill": _READ,
    "/tollway.usage.v1.BackfillService/ListBackfills": _READ,
    "/tollway.usage.v1.BackfillService/RevertBackfill": _ADMIN,
    "/tollway.usage.v1.ThresholdService/CreateThreshold": _WRITE,
    "/tollway.usage.v1.ThresholdService/GetThreshold": _READ,
    "/tollway.usage.v1.ThresholdService/ListThresholds": _READ,
    "/tollway.usage.v1.ThresholdService/UpdateThreshold": _WRITE,
    "/tollway.usage.v1.ThresholdService/DeleteThreshold": _WRITE,
    "/tollway.rating.v1.RatingService/GetCharges": _READ,
    "/tollway.rating.v1.RatingService/ListRatingFailures": Permission(
        Scope.READ, without_tenant=True
    ),
    "/tollway.rating.v1.RatingService/RetryRating": _WRITE,
    "/tollway.invoice.v1.InvoiceService/GetInvoice": _READ,
    "/tollway.invoice.v1.InvoiceService/ListInvoices": _READ,
    "/tollway.invoice.v1.InvoiceItemService/CreateInvoice": _WRITE,
    "/tollway.invoice.v1.InvoiceItemService/AddInvoiceItem": _WRITE,
    "/tollway.invoice.v1.InvoiceItemService/RemoveInvoiceItem": _WRITE,
    "/tollway.invoice.v1.InvoiceItemService/ListInvoiceItems": _READ,
    "/tollway.invoice.v1.DocumentService/RenderInvoice": _READ,
    "/tollway.invoice.v1.DocumentService/ExportInvoices": _READ,
    "/tollway.invoice.v1.DocumentService/RenderCreditNote": _READ,
    "/tollway.tenant.v1.TenantService/GetTenantProfile": _READ,
    "/tollway.tenant.v1.TenantService/UpdateTenantProfile": _ADMIN,
    "/tollway.tenant.v1.TenantService/GetTenantLimits": Permission(Scope.READ, without_tenant=True),
    "/tollway.tenant.v1.TenantService/UpdateTenantLimits": _OPERATOR,
    "/tollway.invoice.v1.PaymentService/RecordPayment": _WRITE,
    "/tollway.invoice.v1.PaymentService/ListPayments": _READ,
    "/tollway.invoice.v1.CreditNoteService/CreateCreditNote": _WRITE,
    "/tollway.invoice.v1.CreditNoteService/GetCreditNote": _READ,
    "/tollway.invoice.v1.CreditNoteService/ListCreditNotes": _READ,
    "/tollway.invoice.v1.CreditService/GrantCredit": _WRITE,
    "/tollway.invoice.v1.CreditService/AdjustCreditBalance": _WRITE,
    "/tollway.invoice.v1.CreditService/GetCreditBalance": _READ,
    "/tollway.invoice.v1.CreditService/ListCreditLedger": _READ,
    "/tollway.invoice.v1.DiscountService/CreateDiscount": _WRITE,
    "/tollway.invoice.v1.DiscountService/EndDiscount": _WRITE,
    "/tollway.invoice.v1.DiscountService/ListDiscounts": _READ,
    "/tollway.invoice.v1.InvoiceService/PreviewInvoice": _READ,
    "/tollway.invoice.v1.InvoiceService/ExplainLine": _READ,
    "/tollway.invoice.v1.InvoiceService/FinalizeInvoice": _WRITE,
    "/tollway.invoice.v1.InvoiceService/VoidInvoice": _WRITE,
    "/tollway.invoice.v1.InvoiceService/ApplyLifecycle": _WRITE,
    "/tollway.webhook.v1.WebhookService/CreateEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/GetEndpoint": _READ,
    "/tollway.webhook.v1.WebhookService/ListEndpoints": _READ,
    "/tollway.webhook.v1.WebhookService/UpdateEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/EnableEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/DisableEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/DeleteEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/PingEndpoint": _ADMIN,
    "/tollway.webhook.v1.WebhookService/RotateEndpointSecret": _ADMIN,
    "/tollway.webhook.v1.WebhookService/ListEndpointSecrets": _READ,
    "/tollway.event.v1.EventService/PublishEvents": _WRITE,
    "/tollway.event.v1.EventService/ListEvents": _READ,
    "/tollway.event.v1.EventService/GetEvent": _READ,
    "/tollway.event.v1.EventService/GetTrail": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/ListDeliveries": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/GetDelivery": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/ListDeadLetters": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/ResendDelivery": _WRITE,
    "/tollway.webhook.v1.WebhookDeliveryService/GetBalance": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/ExplainDelivery": _READ,
    "/tollway.webhook.v1.WebhookDeliveryService/GetStats": _READ,
    "/tollway.webhook.v1.WebhookRecoveryService/PreviewRecovery": _READ,
    "/tollway.webhook.v1.WebhookRecoveryService/RecoverEndpoint": _WRITE,
    "/tollway.webhook.v1.WebhookRecoveryService/GetRecovery": _READ,
    "/tollway.webhook.v1.WebhookRecoveryService/ListRecoveries": _READ,
    "/tollway.webhook.v1.WebhookRecoveryService/CancelRecovery": _WRITE,
    "/tollway.event.v1.EventService/WatchEvents": _READ,
    "/tollway.scheduler.v1.SchedulerService/CreateTestClock": _ADMIN,
    "/tollway.scheduler.v1.SchedulerService/AdvanceTestClock": _ADMIN,
    "/tollway.scheduler.v1.SchedulerService/GetTestClock": _READ,
    "/tollway.scheduler.v1.SchedulerService/WatchTestClock": _READ,
    "/tollway.replay.v1.ReplayService/PlanReplay": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.replay.v1.ReplayService/StartReplay": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.replay.v1.ReplayService/GetReplay": Permission(Scope.READ, without_tenant=True),
    "/tollway.replay.v1.ReplayService/ListReplays": Permission(Scope.READ, without_tenant=True),
    "/tollway.replay.v1.ReplayService/WatchReplay": Permission(Scope.READ, without_tenant=True),
    "/tollway.replay.v1.ReplayService/PauseReplay": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.replay.v1.ReplayService/ResumeReplay": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.replay.v1.ReplayService/CancelReplay": Permission(Scope.ADMIN, without_tenant=True),
    "/tollway.operations.v1.OperationsService/GetStatus": Permission(
        Scope.READ, without_tenant=True
    ),
    "/tollway.operations.v1.OperationsService/ListDeadLetters": _OPERATOR,
    "/tollway.operations.v1.OperationsService/GetDeadLetter": _OPERATOR,
    "/tollway.operations.v1.OperationsService/RedriveDeadLetter": _OPERATOR,
    "/tollway.operations.v1.OperationsService/DiscardDeadLetter": _OPERATOR,
    "/tollway.operations.v1.OperationsService/GetLag": _OPERATOR,
    "/tollway.operations.v1.OperationsService/ListWaiting": _OPERATOR,
    "/tollway.operations.v1.OperationsService/Pause": _OPERATOR,
    "/tollway.operations.v1.OperationsService/Resume": _OPERATOR,
    "/tollway.operations.v1.OperationsService/ListAuditEntries": Permission(
        Scope.ADMIN, without_tenant=True
    ),
}
