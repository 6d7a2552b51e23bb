"""Webhook path, step 2: which addresses the house dials.

Invariant: every connection is opened by a socket that was made here for the very address it then dials. Names,
spellings and redirects decide nothing, so whatever a tenant's URL says, it reaches the public internet or a network
that the operator named.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from billing.domain.address import Address, Network, may_dial


class AddressDenied(OSError):
    """The address is not public, and not in a network that TOLLWAY_WEBHOOK_ALLOW_NETWORKS names."""


@dataclass(slots=True)
class Dial:
    """What one attempt dialled: the last address that it was allowed, and those that it was not."""

    address: str = ""
    denied: list[str] = field(default_factory=list)


# The dial of the attempt that runs in this task and in those that race for its connection.
current_dial: Final[ContextVar[Dial | None]] = ContextVar("tollway_webhook_dial", default=None)


@dataclass(frozen=True, slots=True)
class Guard:
    """Makes sockets for allowed addresses only; `allowed` are the operator's networks."""

    allowed: Sequence[Network] = ()

    def allows(self, address: Address) -> bool:
        """Whether the house may dial this address."""
        return may_dial(address, self.allowed)

    def open_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """The `socket_factory` of the connector. Raises AddressDenied."""
        family, kind, protocol, _, sockaddr = addr_info
        host = str(sockaddr[0])
        dial = current_dial.get()
        # A scope ("%eth0") says through which door, not where to.
        if not self.allows(ipaddress.ip_address(host.split("%", 1)[0])):
            if dial is not None:
                dial.denied.append(host)
            raise AddressDenied(f"{host} is not a public address")
        if dial is not None:
            dial.address = host
        return socket.socket(family=family, type=kind, proto=protocol)
