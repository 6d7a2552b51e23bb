"""Usage path: the conditions under which a meter counts a record.

Invariant: `parse_filters(filters_config(filters)) == filters`; all filters of a meter must pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from billing.domain.errors import InvalidMeter
from billing.domain.fields import Fields

FILTERS_MAX: Final = 20
FILTER_VALUES_MAX: Final = 100


class FilterOperator(StrEnum):
    """How a filter compares a property with its values."""

    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a property; an absent property is in no list of values."""

    property: str
    operator: FilterOperator
    values: frozenset[str] = frozenset()

    def accepts(self, properties: Mapping[str, str]) -> bool:
        """Whether a record with `properties` passes."""
        match self.operator:
            case FilterOperator.IN:
                return properties.get(self.property) in self.values
            case FilterOperator.NOT_IN:
                return properties.get(self.property) not in self.values
            case FilterOperator.EXISTS:
                return self.property in properties


def parse_filters(raw: object) -> tuple[Filter, ...]:
    """Filters in stored form, [{property, operator, values}]; InvalidMeter names fields."""
    if not isinstance(raw, list | tuple) or len(raw) > FILTERS_MAX:
        raise InvalidMeter.field("filters", f"give a list of at most {FILTERS_MAX}.")
    return tuple(
        _parse_filter(Fields(one, f"filters[{index}]", InvalidMeter))
        for index, one in enumerate(raw)
    )


def filters_config(filters: Iterable[Filter]) -> list[dict[str, object]]:
    """The stored form of filters, canonical; `parse_filters` gives equal ones back."""
    return [
        {"property": f.property, "operator": f.operator.value}
        | ({"values": sorted(f.values)} if f.values else {})
        for f in filters
    ]


def _parse_filter(fields: Fields) -> Filter:
    name = fields.text(fields.get("property"), fields.where("property"))
    raw = fields.get("operator")
    if raw not in list(FilterOperator):
        known = ", ".join(FilterOperator)
        raise InvalidMeter.field(fields.where("operator"), f"write one of {known}.")
    operator = FilterOperator(str(raw))
    values: frozenset[str] = frozenset()
    if operator is not FilterOperator.EXISTS:
        where = fields.where("values")
        texts = fields.items("values", FILTER_VALUES_MAX)
        values = frozenset(fields.text(text, where) for text in texts)
    fields.finish()
    return Filter(name, operator, values)
