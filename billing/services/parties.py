"""Invoice path, step 5: seller and buyer, as an invoice shows them.

Invariant: a final invoice shows both as they were when it became final, whatever they are called since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

import queries.profiles

from billing.runtime.db import Connection


@dataclass(frozen=True, slots=True)
class Party:
    """A name and an address, with line breaks; what is not known is empty."""

    name: str
    address: str = ""
    tax_number: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Brand:
    """What else a tenant puts on its invoices. `accent_color` is "#rrggbb" or empty."""

    accent_color: str = ""
    website: str = ""
    payment_instructions: str = ""
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Parties:
    """Who bills whom, and how the seller's papers look."""

    seller: Party
    buyer: Party
    brand: Brand
    time_zone: str  # the buyer's: in which days are shown


def read_parties(stored: str) -> Parties:
    """What an invoice or the view `invoice_parties` holds, as JSON."""
    given = json.loads(stored)
    seller, buyer = given["seller"], given["buyer"]
    names = ("name", "address", "tax_number", "email")
    return Parties(
        Party(*(seller[name] for name in names)),
        Party(*(buyer[name] for name in names)),
        Brand(
            seller["accent_color"],
            seller["website"],
            seller["payment_instructions"],
            seller["footer"],
        ),
        buyer.get("time_zone", "UTC"),
    )


async def current_parties(tx: Connection, tenant_id: UUID, customer_id: UUID) -> Parties:
    """Seller and buyer as they are now."""
    stored = await queries.profiles.get_invoice_parties(
        tx, tenant_id=tenant_id, customer_id=customer_id
    )
    assert stored is not None, "an invoice's customer exists, and so does its tenant"
    return read_parties(stored)
