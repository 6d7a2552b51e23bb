"""`tollway pricing check`: one case through the rules, by its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from billing.domain.cases import dates, invoices, measuring, tiered, units
from billing.domain.cases.case import Case, NotSupported, Section
from billing.domain.cases.compare import Failed, Outcome, Unsupported, compare
from billing.domain.cases.prices import Got
from billing.domain.errors import BillingError, UsageNotRatable

# capacity_tier, commitment_overage and refunds are not in the product, on purpose.
MODELS: Final[Mapping[str, Callable[[Case], Got]]] = {
    "graduated": tiered.tiered,
    "volume": tiered.tiered,
    "volume_package": tiered.tiered,
    "graduated_blocks": tiered.blocks,
    "volume_blocks": tiered.blocks,
    "graduated_percentage": tiered.graduated_percentage,
    "graduated_progressive": tiered.progressive,
    "package_progressive": tiered.progressive,
    "package": units.package,
    "per_unit": units.per_unit,
    "per_unit_transformed": units.per_unit_transformed,
    "per_unit_with_minimum": units.per_unit_with_minimum,
    "minimum_prorated": units.minimum_prorated,
    "minimum_commitment": units.minimum_commitment,
    "percentage": units.percentage,
    "rounding": units.rounding,
    "proration_first_period": dates.proration,
    "proration_after_trial": dates.proration,
    "proration_termination": dates.proration,
    "proration_upgrade": dates.proration,
    "proration_change_interval": dates.proration,
    "billing_anchor": dates.billing_anchor,
    "weighted_sum": measuring.weighted,
    "aggregation": measuring.aggregation,
    "credit_note_unused_period": invoices.credit_note_unused_period,
    "invoice_totals": invoices.invoice,
    "invoice_balance": invoices.invoice,
}


def run_case(raw: Mapping[str, object]) -> Outcome:
    """Passed, Failed with both sides, or Unsupported with the name of what is missing.

    A case that the rules refuse (a wrong number, tiers out of order) has failed with their message.
    """
    case_id = str(raw.get("id", ""))
    model = str(raw.get("model", ""))
    if model not in MODELS:
        return Unsupported(case_id, f"model={model}")
    try:
        currency = raw.get("currency")
        case = Case(
            model,
            str(currency) if currency else None,
            Section.of(raw.get("config"), "config"),
            Section.of(raw.get("usage"), "usage"),
            raw.get("expected_amount"),
        )
        return compare(case_id, case.expected, MODELS[model](case))
    except NotSupported as missing:
        return Unsupported(case_id, str(missing))
    except UsageNotRatable:
        return Unsupported(case_id, "usage without the single events that the price needs")
    except BillingError as refusal:
        return Failed(case_id, {}, {"error": refusal.message})
    except (ArithmeticError, ValueError) as fault:
        return Failed(case_id, {}, {"error": f"The case cannot be calculated: {fault}."})
