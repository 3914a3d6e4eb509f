"""Personal data: what is replaced, and the numbers that look like it and must stay."""

import pytest

from data_engine.pii import KINDS, PiiConfig, iban_valid, luhn, scrub


def scrubbed(text):
    return scrub(text, list(KINDS))


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("Write to anna.k+x@mail.example.co.uk.", "Write to <EMAIL>.", "email"),
        ("mail: <bob@example.org>", "mail: <<EMAIL>>", "email"),
        ("carla [at] example.de or", "<EMAIL> or", "email"),
        ("IBAN DE89 3704 0044 0532 0130 00, please", "IBAN <IBAN>, please", "iban"),
        ("GB82WEST12345698765432", "<IBAN>", "iban"),
        ("Konto: FR14 2004 1010 0505 0001 3M02 606.", "Konto: <IBAN>.", "iban"),
        ("Card 4111 1111 1111 1111 exp 12/29", "Card <CARD> exp 12/29", "card"),
        ("pay 5500-0000-0000-0004 now", "pay <CARD> now", "card"),
        ("amex 378282246310005.", "amex <CARD>.", "card"),
        ("from 81.2.69.142:53 to", "from <IP>:53 to", "ip"),
        ("host 2001:4860:4860::8888 answers", "host <IP> answers", "ip"),
        ("Call +49 30 1234567 today", "Call <PHONE> today", "phone"),
        ("Call (415) 555-2671 today", "Call <PHONE> today", "phone"),
        ("or 415-555-2671.", "or <PHONE>.", "phone"),
        ("+33 1 23 45 67 89", "<PHONE>", "phone"),
        ("Tel: 030 / 1234567", "Tel: <PHONE>", "phone"),
        ("phone 0171 2345678", "phone <PHONE>", "phone"),
        ("Тел. 8 (495) 123-45-67", "Тел. <PHONE>", "phone"),
        ("電話：03-1234-5678", "電話：<PHONE>", "phone"),
    ],
)
def test_personal_data_is_replaced_and_counted(text, expected, kind):
    assert scrubbed(text) == (expected, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 and 0.10.0.1",
        "listen on 127.0.0.1, 192.168.0.1 and 0.0.0.0",
        "192.0.2.1 and 2001:db8::1 are for documentation",
        "see section 10.4.2.1 of the manual",
        "4111 1111 1111 1112 fails the check",
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 01 fails the check",
        "2026-01-02 03:04:05",
        "550e8400-e29b-41d4-a716-446655440000",
        "pi is 3.14159265358979323846",
        "0x7fff5fbff8c0 and 1234567890123456",
        "array[1:2:3] and a::b and std::vector",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]",
        "@decorator and x @ y and user@localhost",
        "1,234,567,890 people",
        "ISBN 978-3-16-148410-0",
        "cell 12 of the telephone table 4",
        "RFC 2822 and ISO-8601",
        "1e-9 1e+10 +1 +22 -333",
        "12:30:45.123456",
        "Batmobile 1940-04-25",
        "[0. +0.38268343j, 0. -0.92387953j]",
        "+4.0614962 and +35236450.6 and +1e10",
        "requires >= 1.2.1.0, tested on 5.10.102.1-microsoft-standard and 8.8.8.8",
        "RFC 5890, section 2.3.2.4.",
    ],
)
def test_other_numbers_stay(text):
    assert scrubbed(text) == (text, {})


def test_kinds_can_be_switched_off():
    text = "anna@example.org +49 30 1234567"
    assert PiiConfig(email=False).kinds() == ["iban", "card", "ip", "phone"]
    assert scrub(text, PiiConfig(email=False).kinds())[0] == "anna@example.org <PHONE>"


def test_checks_equal_their_definition():
    for number in range(0, 100_000, 7):
        digits = [int(d) for d in reversed(str(number))]
        total = sum(d if i % 2 == 0 else sum(map(int, str(2 * d))) for i, d in enumerate(digits))
        assert luhn(str(number)) == (total % 10 == 0)
    # examples of the registry of ISO 13616
    for iban in (
        "BE71096123456769",
        "CH5604835012345678009",
        "NO8330001234567",
        "NL02ABNA0123456789",
        "ES7921000813610123456789",
    ):
        assert iban_valid(iban)
        assert not iban_valid(iban[:4] + ("1" if iban[4] != "1" else "2") + iban[5:])


def test_a_long_text_of_digits_takes_no_long_time():
    import time

    text = "1 2 3 4 5 6 7 8 9 0 - " * 20_000
    began = time.monotonic()
    scrubbed(text)
    assert time.monotonic() - began < 3
