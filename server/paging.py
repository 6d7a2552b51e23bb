"""The rim, step 4: pages of lists.

Invariant: a page token goes on with the list it came from and no other: it is bound to all other arguments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from billing.domain.errors import Invalid

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 200
_BINDING_BYTES: Final = 8
_ID_BYTES: Final = 16

Row = TypeVar("Row")


class PageTokenInvalid(Invalid):
    """The page_token does not belong to this list and these arguments; start from the first page."""

    reason = "PAGE_TOKEN_INVALID"


def page_size(asked: int) -> int:
    """0 is the default; more than the maximum is taken as the maximum."""
    return min(asked, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT


def read_token(request: Message) -> UUID | None:
    """The id of the last row of the page before; None for the first page. Raises PageTokenInvalid."""
    token: str = request.page_token  # type: ignore[attr-defined] # every list request has one
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError) as error:
        raise PageTokenInvalid() from error
    if len(raw) != _BINDING_BYTES + _ID_BYTES or raw[:_BINDING_BYTES] != _binding(request):
        raise PageTokenInvalid()
    return UUID(bytes=raw[_BINDING_BYTES:])


def cut_page(
    request: Message, rows: Sequence[Row], ids: Sequence[UUID]
) -> tuple[Sequence[Row], str]:
    """The rows of this page and the token of the next, from up to one row more than the page holds."""
    size = page_size(request.page_size)  # type: ignore[attr-defined] # every list request has one
    if len(rows) <= size:
        return rows, ""
    token = base64.urlsafe_b64encode(_binding(request) + ids[size - 1].bytes).decode().rstrip("=")
    return rows[:size], token


def _binding(request: Message) -> bytes:
    bound = type(request)()
    bound.CopyFrom(request)
    bound.ClearField("page_token")
    bound.ClearField("page_size")
    text = bound.DESCRIPTOR.full_name.encode() + b"\0" + bound.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()[:_BINDING_BYTES]
