"""Usage path, step 4, and invoice path, step 4: prices, read once per process.

Invariant: a price is never edited, only superseded, so what was read once is true for ever; a price whose stored
numbers cannot be read fails alone, when it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import queries.price_book
from queries.models import Price as PriceRow

from billing.domain.errors import BillingError
from billing.domain.pricing import Price, parse_price
from billing.runtime.db import Connection

PriceKey = tuple[UUID, UUID]  # tenant, price
KEPT_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class BookedPrice:
    """A price with its row. `terms` is the price itself, or why its stored numbers cannot be used."""

    row: PriceRow
    terms: Price | BillingError

    @property
    def price(self) -> Price:
        """The price to rate with. Raises what is wrong with it, such as InvalidPrice."""
        if isinstance(self.terms, BillingError):
            raise type(self.terms)(self.terms.message, metadata=self.terms.metadata)
        return self.terms


def price_of(row: PriceRow) -> Price:
    """The domain's price of a stored one. Raises InvalidPrice or UnknownCurrency."""
    return parse_price(row.model, json.loads(row.config), row.currency)


class PriceBook:
    """The prices that this process has met, at most KEPT_MAX."""

    def __init__(self) -> None:
        self._kept: dict[PriceKey, BookedPrice] = {}

    async def load(self, tx: Connection, keys: Sequence[PriceKey]) -> dict[PriceKey, BookedPrice]:
        """The prices of (tenant id, price id) pairs; one that does not exist is left out."""
        kept = self._kept
        missing = sorted({key for key in keys if key not in kept})
        fresh = {}
        if missing:
            rows = await queries.price_book.list_booked_prices(
                tx,
                tenant_ids=[tenant for tenant, _ in missing],
                price_ids=[price for _, price in missing],
            )
            fresh = {(row.tenant_id, row.id): _booked(row) for row in rows}
        found = {key: kept.get(key) or fresh[key] for key in keys if key in kept or key in fresh}
        if len(kept) + len(fresh) > KEPT_MAX:
            kept.clear()
        kept.update(fresh)
        return found


def _booked(row: PriceRow) -> BookedPrice:
    try:
        return BookedPrice(row, price_of(row))
    except BillingError as error:
        return BookedPrice(row, error)


# One book per process: it holds nothing but immutable facts, and no connection.
load_prices = PriceBook().load
