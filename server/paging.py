"""The rim, step 4: pages of lists.

Invariant: a page token goes on with the list it came from and no other: it is bound to all other arguments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
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
    key = read_key(request, _ID_BYTES)
    return None if key is None else UUID(bytes=key)


def read_key(request: Message, size: int | None) -> bytes | None:
    """The key, of so many bytes or (None) of any length, of the last row of the page before; None for the first page.

    Raises PageTokenInvalid.
    """
    token: str = request.page_token  # type: ignore[attr-defined] # every list request has one
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError) as error:
        raise PageTokenInvalid() from error
    if raw[:_BINDING_BYTES] != _binding(request):
        raise PageTokenInvalid()
    if size is not None and len(raw) != _BINDING_BYTES + size:
        raise PageTokenInvalid()
    return raw[_BINDING_BYTES:]


def cut_page(
    request: Message, rows: Sequence[Row], ids: Sequence[UUID]
) -> tuple[Sequence[Row], str]:
    """The rows of this page and the token of the next, from up to one row more than the page holds."""
    return cut_keyed_page(request, rows, lambda place: ids[place].bytes)


def cut_keyed_page(
    request: Message, rows: Sequence[Row], key_at: Callable[[int], bytes]
) -> tuple[Sequence[Row], str]:
    """The same for rows whose key is longer than an id; `key_at` gives the key of the row at a place."""
    size = page_size(request.page_size)  # type: ignore[attr-defined] # every list request has one
    if len(rows) <= size:
        return rows, ""
    return rows[:size], make_token(request, key_at(size - 1))


def make_token(request: Message, key: bytes) -> str:
    """The token of the page behind a key, for a list that decides itself where its pages end."""
    return base64.urlsafe_b64encode(_binding(request) + key).decode().rstrip("=")


def _binding(request: Message) -> bytes:
    bound = type(request)()
    bound.CopyFrom(request)
    bound.ClearField("page_token")
    bound.ClearField("page_size")
    text = bound.DESCRIPTOR.full_name.encode() + b"\0" + bound.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()[:_BINDING_BYTES]
