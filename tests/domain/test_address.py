"""Hosts that are addresses themselves, in the spellings that resolvers take."""

import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.address import addresses_in

NUMBERS = st.integers(0, 2**32).flatmap(
    lambda n: st.sampled_from([str(n), hex(n), f"0{n:o}", hex(n).upper().replace("0X", "0x")])
)


@given(st.lists(NUMBERS, min_size=1, max_size=4).map(".".join))
def test_an_odd_spelling_means_what_the_c_library_says(text: str) -> None:
    expected: tuple[IPv4Address, ...]
    try:
        expected = (IPv4Address(socket.inet_aton(text)),)
    except OSError:
        expected = ()
    assert addresses_in(text) == expected


@pytest.mark.parametrize(
    "host", ["example.com", "1.2.3.4.5", "0x", "08", "1.2.3.256", "a.b", "", "256.1"]
)
def test_what_is_no_address_names_none(host: str) -> None:
    assert addresses_in(host) == ()
