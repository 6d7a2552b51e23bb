"""Webhook path, before step 1: which headers a tenant may add to its endpoint's requests.

Invariant: no header of a tenant's changes what is posted, what is signed, or how the connection is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from billing.domain.errors import Invalid, Violation

# The first belong to the message and the signature, the rest to the connection (RFC 9110, section 7.6.1).
REFUSED: Final = frozenset(
    {
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "host",
        "user-agent",
        "connection",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
REFUSED_BEGINNINGS: Final = ("webhook-", "svix-", "proxy-", "x-forwarded-")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?|")


class HeaderNotAllowed(Invalid):
    """An endpoint may not have this request header."""

    reason = "HEADER_NOT_ALLOWED"


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers by their names in lower case, sorted. Raises HeaderNotAllowed."""
    checked: dict[str, str] = {}
    for name, value in sorted(headers.items()):
        small = name.lower()
        if not _NAME.fullmatch(name):
            raise _refuse(name, "is not a header name")
        if small in REFUSED or small.startswith(REFUSED_BEGINNINGS):
            raise _refuse(name, "is the house's own; choose another name")
        if small in checked:
            raise _refuse(name, "is given twice")
        if not _VALUE.fullmatch(value):
            raise _refuse(name, "must have a value of printable ASCII without blanks at its ends")
        checked[small] = value
    return checked


def _refuse(name: str, description: str) -> HeaderNotAllowed:
    return HeaderNotAllowed(
        f"The header {name!r} {description}.",
        metadata={"header": name},
        violations=[Violation("headers", f"{name!r} {description}")],
    )
