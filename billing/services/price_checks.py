"""Usage path, before step 1: is a price fit for its meter, and can it be rated?

Invariant: a price that passes here can be rated; a wrong field is named by its path in the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from queries.models import Meter

from billing.domain.errors import Invalid, InvalidPrice, Violation
from billing.domain.meter import Aggregation
from billing.domain.pricing import Matrix, Price, PriceModel, parse_price

# Of the whole request; all other fields stand in the model's own message.
_ABOVE: Final = ("minimum_amount", "maximum_amount", "quantity_rounding", "model", "currency")


def check_price(
    model: str, config: Mapping[str, object], currency: str, meter: Meter | None
) -> Price:
    """The price that the rules will compute with. Raises InvalidPrice, InvalidDecimal or UnknownCurrency."""
    try:
        price = parse_price(model, config, currency)
        _check_fit(price, meter)
    except Invalid as error:
        raise _as_requested(error, model) from error
    return price


def _check_fit(price: Price, meter: Meter | None) -> None:
    if meter is None:
        return
    if price.model is PriceModel.PERCENTAGE and meter.aggregation != Aggregation.SUM:
        raise InvalidPrice.field(
            "rate_percent",
            f"a percentage is taken of amounts, and the meter {meter.key!r} does not sum any.",
        )
    if isinstance(price.charge, Matrix):
        for place, name in enumerate(price.charge.dimensions):
            if name not in meter.group_by:
                raise InvalidPrice.field(
                    f"dimensions[{place}]",
                    f"the meter {meter.key!r} does not group by {name!r}; make one that does.",
                )


def _as_requested(error: Invalid, model: str) -> Invalid:
    """The same error with the paths of the request: the fields of a model stand under its name."""
    wrong = [Violation(_path(one.path, model), one.description) for one in error.violations]
    if not wrong:
        return error
    message = f"{wrong[0].path}: {wrong[0].description}"
    return type(error)(message, metadata=error.metadata, violations=wrong)


def _path(path: str, model: str) -> str:
    if path.startswith(_ABOVE):
        return path
    return f"{model}.unit_amount" if (model, path) == ("flat", "amount") else f"{model}.{path}"
