"""Every path: the currencies, ISO 4217's active codes with their minor units.

Invariant: an unknown code is refused, never taken for two decimals. Codes without a minor unit
(gold, the IMF's drawing rights, test codes) are no currencies to invoice in.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from billing.domain.errors import UnknownCurrency

_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    # ANG and BGN were withdrawn in 2025 and 2026; old invoices still carry them.
    2: """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN
    BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP
    GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP
    LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR
    NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
    SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER
    ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

EXPONENTS: Final[Mapping[str, int]] = MappingProxyType(
    {code: exponent for exponent, codes in _BY_EXPONENT.items() for code in codes.split()}
)


def exponent_of(currency: str, *, path: str = "currency") -> int:
    """How many decimals the currency's minor unit has: 0 (JPY), 2 (EUR), 3 (KWD) or 4 (CLF)."""
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise UnknownCurrency.field(
            path, f"{currency[:8]!r} is not an ISO 4217 currency in use; write one like EUR."
        )
    return exponent
