"""Invoice path, rating: prices and what they charge, exactly, with a derivation for people."""

from billing.domain.pricing.charges import (
    Allowance,
    Charge,
    Flat,
    Matrix,
    Package,
    Percentage,
    PerUnit,
    Usage,
)
from billing.domain.pricing.config import parse_price, to_config
from billing.domain.pricing.price import (
    BillingTiming,
    Price,
    PriceModel,
    QuantityRounding,
    billing_timing,
)
from billing.domain.pricing.rating import (
    Progressive,
    Rated,
    RatedGroups,
    adjustment,
    rate,
    rate_groups,
    rate_progressive,
    true_up,
)
from billing.domain.pricing.steps import Step
from billing.domain.pricing.tiers import Graduated, Tier, Volume, check_tiers

__all__ = [
    "Allowance",
    "BillingTiming",
    "Charge",
    "Flat",
    "Graduated",
    "Matrix",
    "Package",
    "PerUnit",
    "Percentage",
    "Price",
    "PriceModel",
    "Progressive",
    "QuantityRounding",
    "Rated",
    "RatedGroups",
    "Step",
    "Tier",
    "Usage",
    "Volume",
    "adjustment",
    "billing_timing",
    "check_tiers",
    "parse_price",
    "rate",
    "rate_groups",
    "rate_progressive",
    "to_config",
    "true_up",
]
