"""The rim, step 4: field masks of updates.

Invariant: an update changes the fields that its mask names and no other; a field that cannot be changed is refused.
"""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask

from billing.domain.errors import Invalid


def refuse_unknown_fields(mask: FieldMask, known: Collection[str]) -> None:
    """Raises Invalid when the mask is empty or names what cannot be changed."""
    unknown = sorted(set(mask.paths) - set(known))
    if unknown or not mask.paths:
        named = f"{unknown[0]!r} cannot be changed" if unknown else "names no field"
        raise Invalid.field("update_mask", f"{named}; possible is: {', '.join(known)}.")
