"""Money: integer millionths ("micros") of a currency's unit, and how people write it. Pure.

A bill is summed and compared, so nothing here is a float: `Decimal` in, `int` inside, text out.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

MICROS: Final = 1_000_000  # of one unit: of a euro, not of a cent
MAX_PRICE: Final = 10**9  # micros: for a million tokens, and for a request

# Active codes of national currencies. Source: ISO 4217:2015, list one (amendment 179, 2025).
_CODES: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN "
    "BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL "
    "GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF "
    "KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN "
    "MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD "
    "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH "
    "UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
CURRENCIES: Final = frozenset(_CODES.split())


class NotMoney(ValueError):
    """An amount that can't be a price; the sentence says why."""


def micros_of(amount: Decimal) -> int:
    """`amount` of a currency's unit in micros, exactly.

    Raises:
        NotMoney: it is no number, below 0, above 1,000, or has more than six decimals.
    """
    if not amount.is_finite():
        raise NotMoney(f"{amount} is no amount of money; write a number such as 0.15")
    if amount < 0:
        raise NotMoney(f"{amount} is below 0; a price is 0 or more")
    if amount > MAX_PRICE // MICROS:
        raise NotMoney(f"{amount} is above {MAX_PRICE // MICROS}, the highest price")
    # A product of Decimals is rounded; one of fractions isn't, but 1e-999999 would fill the memory.
    micros = Fraction(amount) * MICROS if amount.adjusted() >= -7 or not amount else Fraction(1, 2)
    if micros.denominator != 1:
        raise NotMoney(f"{amount} has more than six decimals; money is counted in millionths")
    return micros.numerator


def shown(micros: int, currency: str = "") -> str:
    """Micros as people write them: `-1.234567 EUR`, always with six decimals."""
    units, rest = divmod(abs(micros), MICROS)
    text = f"{'-' if micros < 0 else ''}{units}.{rest:06}"
    return f"{text} {currency}" if currency else text
