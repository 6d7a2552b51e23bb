"""Invoice path: stored rows of what stands below the lines, for the rim. Invariant: as in billing.services.rows."""

from queries.models import CreditLedger, InvoiceItem, Payment, TenantProfile

__all__ = ["CreditLedger", "InvoiceItem", "Payment", "TenantProfile"]
