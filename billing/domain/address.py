"""Webhook path: which addresses the house may dial.

Invariant: what `may_dial` allows is on the public internet or in a network that the operator named. The sender asks it
for every address that it is about to dial; whoever stores a URL asks it early, for a host that is an address itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

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
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,16}|0[0-7]{0,20}|[1-9][0-9]{0,20}")
_LOOPBACK: Final = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


def may_dial(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether the house may dial this address; `allowed` are the operator's networks."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    real = mapped or address
    if any(real in network for network in allowed):
        return True
    return real.is_global and not any(real in network for network in DENIED)


def addresses_in(host: str) -> tuple[Address, ...]:
    """The addresses that a host names without being resolved: literals in any spelling, and localhost; else none."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return _LOOPBACK
    try:
        return (ipaddress.ip_address(name.split("%", 1)[0]),)
    except ValueError:
        pass
    odd = _odd_ipv4(name)
    return (odd,) if odd is not None else ()


def _odd_ipv4(name: str) -> ipaddress.IPv4Address | None:
    """What resolvers take for an IPv4 address, too: 127.1, 0x7f000001, 017700000001, 2130706433."""
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    *bytes_, last = [_number(part) for part in parts]
    # The last number fills all the bytes that the others leave.
    if any(byte > 255 for byte in bytes_) or last >= 256 ** (4 - len(bytes_)):
        return None
    return ipaddress.IPv4Address(int.from_bytes(bytes([*bytes_]).ljust(4, b"\0"), "big") + last)


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text, 16)
    return int(text, 8 if text.startswith("0") and text != "0" else 10)
