"""Personal data: e-mail and IP addresses, phone and card numbers, IBANs become typed placeholders and are counted."""

import ipaddress
import re
from collections.abc import Callable

from pydantic import Field
from tld import get_tld

from core.config import Config

KINDS = ("email", "iban", "card", "ip", "phone")
"""In the order in which they are looked for: a card number is no phone number."""

# A finding may stand directly beside a letter of a script without spaces, so \w is not what bounds it.
_WORD = "A-Za-z0-9_"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_SPACE = " \u00a0\u2009\u202f"
_HYPHEN = "\\-\u2010\u2011\u2013"

# RFC 5321 without quoted names, RFC 6531 (letters of any spaced script in the name, of any script in the domain).
# 'git@host:path' is scp's, 'icon@2x.png' a picture for screens of double density.
_EMAIL = re.compile(
    rf"(?<![^\W{_UNSPACED}])(?<![.+%\-])"
    rf"[^\W_{_UNSPACED}](?:[^\W{_UNSPACED}]|[.+%\-]){{0,63}}"
    r"(?:@|\s?[\[(]at[\])]\s?)(?!\d(?:\.\d)?x\.)"
    r"(?>(?:[^\W_](?:[^\W_]|-){0,62}(?:\.|\s?[\[(]dot[\])]\s?)){1,8}"
    r"(?:[A-Za-z](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])|[^\W\d_A-Za-z]{2,30}))"
    rf"(?![{_WORD}@(]|:[{_WORD}~/.])"
)
_DOT = re.compile(r"\s?[\[(]dot[\])]\s?|\.")
_AT = re.compile(r"@|\s?[\[(]at[\])]\s?")
# ISO 13616: country, check digits, letters and digits, often in groups; how many is the country's
_IBAN = re.compile(rf"(?<![{_WORD}])[A-Z]{{2}}\d{{2}}(?:[{_SPACE}{_HYPHEN}]?[A-Z0-9]){{11,30}}(?![{_WORD}])")
# ISO/IEC 7812, printed as one run or in the groups that are on the cards
_CARD = re.compile(
    rf"(?<![{_WORD}.,\-/])(?:\d{{14,19}}"
    rf"|\d{{4}}(?P<four>[{_SPACE}{_HYPHEN}])\d{{4}}(?:(?P=four)\d{{4}}){{2}}(?:(?P=four)\d{{3}})?"
    rf"|\d{{4}}(?P<six>[{_SPACE}{_HYPHEN}])\d{{6}}(?P=six)\d{{4,5}})(?![{_WORD}\-/]|[.,]\d)"
)
_IPV4 = re.compile(rf"(?:(?<=//)|(?<![{_WORD}.\-/]))(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![{_WORD}\-]|\.\d)")
_IPV6 = re.compile(
    rf"(?<![{_WORD}:.])[23][0-9A-Fa-f]{{3}}:(?:[0-9A-Fa-f]{{1,4}}:){{0,6}}:?(?:[0-9A-Fa-f]{{1,4}}:?){{0,6}}(?![{_WORD}:])"
)
# ITU-T E.164 with its plus; the North American plan
_NUMBER = (
    rf"(?<![{_WORD}.+])\+[1-9]\d{{0,2}}(?:[{_SPACE}{_HYPHEN}./]?\(?\d{{1,5}}\)?){{2,6}}(?![{_WORD}]|[.,]\d)"
    rf"|(?<![{_WORD}.\-/+])(?:1[{_SPACE}{_HYPHEN}.])?(?:\(\d{{3}}\)[{_SPACE}]?|\d{{3}}[{_HYPHEN}.])\d{{3}}[{_HYPHEN}.]\d{{4}}"
    rf"(?![{_WORD}\-]|\.\d)"
)
# digits after a word that announces a phone number
_AFTER_WORD = (
    r"|(?i:(?:(?<=\btel)|(?<=\bfon)|(?<=\bfax)|(?<=phone)|(?<=telefon)|(?<=téléphone)|(?<=teléfono)|(?<=telefono)"
    r"|(?<=telefone)|(?<=telefoon)|(?<=\bmobil)|(?<=\bmobile)|(?<=\bhandy)|(?<=\bcell)|(?<=\bgsm)|(?<=тел)"
    rf"|(?<=телефон))(?=[.:：{_SPACE}])|(?<=电话)|(?<=電話)|(?<=手机))"
    rf"(?P<lead>[.:：{_SPACE}]{{0,3}}(?:\w{{0,3}}[.:] ?)?)\(?\d(?:[{_SPACE}{_HYPHEN}./()]{{0,3}}\d){{5,13}}(?!\d)"
)
_PLAIN_PHONE, _PHONE = re.compile(_NUMBER), re.compile(_NUMBER + _AFTER_WORD)
# Looking behind at every character takes 20 times as long as the rest; digits are few, and so are these near them.
_ANNOUNCES = re.compile("tel|fon|fax|phone|mobil|handy|cell|gsm|тел|电话|電話|手机", re.IGNORECASE)
_RUN = re.compile(rf"\d(?:[{_SPACE}{_HYPHEN}./()]{{0,3}}\d){{5}}")
_BEFORE_RUN = 20
"""Characters that hold what announces a number, the nine at most between the two, and a '('."""
_FOUR = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
_GROUP = re.compile(r"[23][0-9A-Fa-f]{3}:")
_DIGITS = re.compile(r"\D")
_DECIMAL = re.compile(r"\+\d+\.\d+")
_LEAST_OCTET = 32
_LEAST_COLONS = 3
_SOME_DIGITS = re.compile(r"\d(?:\D{0,3}\d){5}")

_ISSUERS = (
    *((4000, 4999, (16, 19)), (5100, 5599, (16,)), (2221, 2720, (16,)), (3400, 3499, (15,)), (3700, 3799, (15,))),
    *((6011, 6011, (16, 19)), (6440, 6599, (16, 19)), (6200, 6299, (16, 17, 18, 19)), (3528, 3589, (16, 19))),
    *((3000, 3059, (14,)), (3600, 3699, (14,)), (3800, 3999, (14, 16)), (5018, 5038, (16,))),
)
"""First four digits and lengths that are in use: Visa, Mastercard, American Express; Discover, UnionPay, JCB; Diners
Club, Maestro. One number in ten passes Luhn's check, so that other long numbers must be told from these."""

_IBAN_LENGTHS = {
    int(lengths.partition(":")[0]): frozenset(lengths.partition(":")[2].split())
    for lengths in (
        "15:NO", "16:BE", "18:DK FI FK FO GL NL SD", "19:MK SI", "20:AT BA EE KZ LT LU MN XK", "21:CH HR LI LV",
        "22:BG BH CR DE GB GE IE ME RS VA", "23:AE GI IL IQ OM SO TL", "24:AD CZ ES MD PK RO SA SE SK TN VG",
        "25:LY PT ST", "26:IS TR", "27:BI DJ FR GR IT MC MR SM", "28:AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29:BR EG PS QA UA", "30:JO KW MU YE", "31:MT SC", "32:LC", "33:RU",
    )
}  # fmt: skip
"""Countries by the length of their accounts: the registry of ISO 13616."""


class PiiConfig(Config):
    """What is scrubbed from the text of documents that stay."""

    email: bool = Field(True, description="e-mail addresses, also with [at], below a top-level domain that exists")
    ip: bool = Field(True, description="public IPv4 and IPv6 addresses; private and documentation ranges stay")
    phone: bool = Field(
        True, description="international and North American numbers, and digits after 'phone', 'Tel' and the like"
    )
    card: bool = Field(True, description="payment card numbers of a known issuer that pass the Luhn check")
    iban: bool = Field(
        True, description="bank accounts of their country's length that pass the check of ISO 13616 (mod 97)"
    )

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
            worth = digits or ":" in text
        else:
            worth = digits
        if not worth:
            continue
        for choose, length in _FINDERS[kind]:
            pattern = choose(text)
            if pattern is None:
                continue
            text, found = _replace(text, pattern, length, placeholder(kind))
            if found:
                counts[kind] = counts.get(kind, 0) + found
    return text, counts


def _replace(text: str, pattern: re.Pattern[str], length: Callable[[str], int], mark: str) -> tuple[str, int]:
    """Put `mark` in the place of each finding. length: how many of the characters that match are one, 0 for none."""
    parts = []
    done = at = found = 0
    while match := pattern.search(text, at):
        begin = match.start() + len(match.groupdict().get("lead") or "")
        characters = length(text[begin : match.end()])
        if characters:
            parts += [text[done:begin], mark]
            done = begin + characters
            found += 1
        at = begin + characters if characters else match.end()
    return ("".join([*parts, text[done:]]), found) if found else (text, 0)


def luhn(number: str) -> bool:
    """The check of ISO/IEC 7812-1: doubling every second digit from the right, the sum of digits divides by ten."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_valid(account: str) -> bool:
    """ISO 7064 mod 97-10: country and check digits moved to the end, letters as 10 to 35, remainder 1.

    account: letters and digits of ASCII alone.
    """
    return account[:2] in _IBAN_LENGTHS.get(len(account), ()) and (
        int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1
    )


def _email(found: str) -> int:
    """Up to the last label that is a top-level domain: 'org' of 'anna@example.org.Then'."""
    domain = found[_AT.search(found).end() :]  # type: ignore[union-attr]
    dots = [dot.start() for dot in _DOT.finditer(domain)]
    for end in [len(domain), *reversed(dots[1:])]:
        # in a script without spaces the sentence may go on behind the address
        least = end if domain[end - 1].isascii() else max(dot for dot in dots if dot < end) + 3
        for last in range(end, least - 1, -1):
            if get_tld(_DOT.sub(".", domain[:last]), fix_protocol=True, fail_silently=True):
                return len(found) - len(domain) + last
    return 0


def _iban(found: str) -> int:
    """As many characters as the country's accounts have; 'BIC ...' may follow in capitals."""
    places = [place for place, character in enumerate(found) if character.isalnum()]
    for size in sorted(_IBAN_LENGTHS):
        if found[:2] in _IBAN_LENGTHS[size] and len(places) >= size:
            end = places[size - 1] + 1
            whole = end == len(found) or not found[end].isalnum()
            account = "".join(found[place] for place in places[:size])
            return end if whole and iban_valid(account) else 0
    return 0


def _card(found: str) -> int:
    number = _DIGITS.sub("", found)
    issued = any(first <= int(number[:4]) <= last and len(number) in sizes for first, last, sizes in _ISSUERS)
    return len(found) if issued and luhn(number) else 0


def _public_ip(found: str) -> int:
    text = found.rstrip(":") if found.endswith(":") and not found.endswith("::") else found
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    if address.version == 4:
        # four small numbers are a version or a section; one public address in 4,000 looks so
        return len(text) if address.is_global and max(address.packed) >= _LEAST_OCTET else 0
    return len(text) if address.is_global and text.count(":") >= _LEAST_COLONS else 0  # 2000::5 is a slice


def _phone(found: str) -> int:
    # +35236450.6 is a decimal
    digits = len(_DIGITS.sub("", found))
    return len(found) if 6 <= digits <= 15 and not _DECIMAL.fullmatch(found) else 0


def _phone_pattern(text: str) -> re.Pattern[str]:
    """The pattern that finds as much in this text as the whole one does."""
    for run in _RUN.finditer(text):
        if _ANNOUNCES.search(text, max(0, run.start() - _BEFORE_RUN), run.start()):
            return _PHONE
    return _PLAIN_PHONE


_Choose = Callable[[str], re.Pattern[str] | None]
_FINDERS: dict[str, list[tuple[_Choose, Callable[[str], int]]]] = {
    "email": [(lambda text: _EMAIL, _email)],
    "iban": [(lambda text: _IBAN, _iban)],
    "card": [(lambda text: _CARD, _card)],
    "ip": [
        (lambda text: _IPV4 if _FOUR.search(text) else None, _public_ip),
        (lambda text: _IPV6 if _GROUP.search(text) else None, _public_ip),
    ],
    "phone": [(_phone_pattern, _phone)],
}
"""Of each kind: the pattern for a text, None where a cheaper look shows that it finds nothing, and how much of what it
finds is one."""
