"""Personal data: e-mail and IP addresses, phone and card numbers, IBANs become typed placeholders and are counted."""

import ipaddress
import re
from collections.abc import Callable

from pydantic import Field

from core.config import Config

KINDS = ("email", "iban", "card", "ip", "phone")
"""In the order in which they are looked for: a card number is no phone number."""

# RFC 5321 without quoted names; the domain needs a top level of letters
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}(?:@|\s?\[at\]\s?|\s?\(at\)\s?)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@-])"
)
# ISO 13616: country, check digits, up to 30 letters and digits, often in groups of four
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
# ISO/IEC 7812: 13 to 19 digits, single spaces or hyphens between groups
_CARD = re.compile(r"(?<![\d.,\-/])\d(?:[ \-]?\d){12,18}(?![\d\-/])(?![.,]\d)")
_IPV4 = re.compile(r"(?<![\d.\w\-/])(?:\d{1,3}\.){3}\d{1,3}(?![\w\-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2,7}:?(?:[0-9A-Fa-f]{1,4}:?){0,6}[0-9A-Fa-f]{0,4}(?![\w:])")
# ITU-T E.164 with its plus; the North American plan; digits after a word that announces a phone number
_PHONE = re.compile(
    r"(?<![\w.+])\+[1-9]\d{0,2}(?:[ .\-/]?\(?\d{1,5}\)?){2,6}(?!\w|[.,]\d)"
    r"|(?<![\w.\-/+])(?:1[ .\-])?(?:\(\d{3}\) ?|\d{3}[.\-])\d{3}[.\-]\d{4}(?![\w\-]|\.\d)"
    r"|(?i:(?<=\btel)|(?<=\bfon)|(?<=\bfax)|(?<=phone)|(?<=telefon)|(?<=téléphone)|(?<=teléfono)|(?<=telefono)|(?<=telefone)"
    r"|(?<=telefoon)|(?<=\bmobil)|(?<=\bmobile)|(?<=\bhandy)|(?<=\bcell)|(?<=\bgsm)|(?<=тел)|(?<=телефон)|(?<=电话)|(?<=電話))"
    r"(?P<lead>[.:： ]{1,3}(?:\w{0,3}[.:] ?)?)\(?\d(?:[ .\-/()]{0,3}\d){5,13}(?!\d)"
)
_DIGITS = re.compile(r"\D")
_DECIMAL = re.compile(r"\+\d+\.\d+")
_LEAST_OCTET = 32
_LEAST_COLONS = 3
_SOME_DIGITS = re.compile(r"\d(?:\D{0,3}\d){5}")


class PiiConfig(Config):
    """What is scrubbed from the text of documents that stay."""

    email: bool = Field(True, description="e-mail addresses, also with [at]")
    ip: bool = Field(True, description="public IPv4 and IPv6 addresses; private and documentation ranges stay")
    phone: bool = Field(
        True, description="international and North American numbers, and digits after 'phone', 'Tel' and the like"
    )
    card: bool = Field(True, description="payment card numbers that pass the Luhn check")
    iban: bool = Field(True, description="bank accounts that pass the check of ISO 13616 (mod 97)")

    def kinds(self) -> list[str]:
        """Those that are switched on, in order."""
        return [kind for kind in KINDS if getattr(self, kind)]


def placeholder(kind: str) -> str:
    """What stands in the place of a finding."""
    return f"<{kind.upper()}>"


def scrub(text: str, kinds: list[str]) -> tuple[str, dict[str, int]]:
    """Replace personal data. Returns the text and how many of each kind were found (kinds not found are left out)."""
    counts: dict[str, int] = {}
    digits = _SOME_DIGITS.search(text) is not None
    for kind in kinds:
        if kind == "email":
            worth = "@" in text or "at]" in text or "at)" in text
        elif kind == "ip":
            worth = digits or "::" in text or ":" in text
        else:
            worth = digits
        if not worth:
            continue
        for pattern, accept in _FINDERS[kind]:
            text, found = _replace(text, pattern, accept, placeholder(kind))
            if found:
                counts[kind] = counts.get(kind, 0) + found
    return text, counts


def _replace(text: str, pattern: re.Pattern[str], accept: Callable[[str], bool], mark: str) -> tuple[str, int]:
    found = 0

    def put(match: re.Match[str]) -> str:
        nonlocal found
        lead = match.groupdict().get("lead") or ""
        if not accept(match.group()[len(lead) :]):
            return match.group()
        found += 1
        return lead + mark

    return pattern.sub(put, text), found


def luhn(number: str) -> bool:
    """The check of ISO/IEC 7812-1: doubling every second digit from the right, the sum of digits divides by ten."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_valid(account: str) -> bool:
    """ISO 7064 mod 97-10: country and check digits moved to the end, letters as 10 to 35, remainder 1."""
    compact = account.replace(" ", "").replace("-", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _is_card(found: str) -> bool:
    number = _DIGITS.sub("", found)
    # 0, 1, 7 and 9 are no payment cards; all digits alike pass the check by accident
    return number[0] in "23456" and len(set(number)) > 1 and luhn(number)


def _is_public_ip(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found.rstrip(":") if found.endswith(":") and not found.endswith("::") else found)
    except ValueError:
        return False
    if address.version == 4:
        # four small numbers are a version or a section; one public address in 4,000 looks so
        return address.is_global and max(address.packed) >= _LEAST_OCTET
    return address.is_global and found.count(":") >= _LEAST_COLONS  # 1:: and a::b are slices and names


def _is_phone(found: str) -> bool:
    # +35236450.6 is a decimal
    return 6 <= len(_DIGITS.sub("", found)) <= 15 and not _DECIMAL.fullmatch(found)


_FINDERS: dict[str, list[tuple[re.Pattern[str], Callable[[str], bool]]]] = {
    "email": [(_EMAIL, lambda found: True)],
    "iban": [(_IBAN, iban_valid)],
    "card": [(_CARD, _is_card)],
    "ip": [(_IPV4, _is_public_ip), (_IPV6, _is_public_ip)],
    "phone": [(_PHONE, _is_phone)],
}
