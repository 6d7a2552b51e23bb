"""Webhook path, before step 1: which URLs an endpoint may have.

Invariant: what is stored is plain ASCII that names a host and no credentials. Where it leads is decided when it is
dialled (workers/webhooks/guard.py): a name may point elsewhere tomorrow. A host that is itself an address which will
never be dialled is refused here already, so that nobody waits for deliveries to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

from billing.domain.address import Network, addresses_in, may_dial
from billing.domain.errors import Invalid, Violation

URL_LENGTH_MAX: Final = 2048
PORT_MAX: Final = 65535


class UrlNotAllowed(Invalid):
    """The URL cannot be an endpoint's."""

    reason = "URL_NOT_ALLOWED"


def check_url(url: str, *, test_mode: bool, allowed: Sequence[Network]) -> None:
    """Raises UrlNotAllowed unless `url` is https, or http to loopback or for a tenant in test mode.

    `allowed` are the networks that the operator allows beside the public internet.
    """
    if len(url) > URL_LENGTH_MAX:
        raise _refuse(url, f"must have at most {URL_LENGTH_MAX} characters")
    if not all("!" <= letter <= "~" for letter in url):
        raise _refuse(url, "must be printable ASCII; write other letters as %XX, and hosts as xn--")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refuse(url, "is not a URL with a valid host and port") from error
    if wrong := _wrong_part(url, parts, port):
        raise _refuse(url, wrong)
    literal = addresses_in(parts.hostname or "")
    is_loopback = any(address.is_loopback for address in literal)
    if parts.scheme == "http" and not (test_mode or is_loopback):
        raise _refuse(url, "must begin with https://, except to loopback and in test mode")
    if literal and not any(may_dial(address, allowed) for address in literal):
        raise _refuse(
            url,
            "must lead to the public internet; the operator may allow a network by"
            " TOLLWAY_WEBHOOK_ALLOW_NETWORKS, and `tollway webhooks listen` forwards to a local port",
        )


def _wrong_part(url: str, parts: SplitResult, port: int | None) -> str | None:
    if parts.scheme not in {"https", "http"} or "\\" in url:
        return "must begin with https:// and contain no backslash"
    if not parts.hostname:
        return "must name a host"
    if "@" in parts.netloc:
        return "must not carry a user or password; the signature authenticates the house"
    if "#" in url:
        return "must have no fragment"
    if port == 0:
        return f"must name a port from 1 to {PORT_MAX}, or none"
    return None


def _refuse(url: str, description: str) -> UrlNotAllowed:
    return UrlNotAllowed(
        f"url {description}.",
        metadata={"url": url[:URL_LENGTH_MAX]},
        violations=[Violation("url", description)],
    )
