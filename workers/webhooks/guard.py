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
from typing import Any, Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# What `is_global` calls public, or has called so in some Python, and what is none: translation and tunnel prefixes that
# lead to any IPv4 address, and special blocks of the IANA registries.
DENIED: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
        "ff00::/8",
    )
)


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
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        real = mapped or address
        if any(real in network for network in self.allowed):
            return True
        return real.is_global and not any(real in network for network in DENIED)

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
