"""Personal data: what is replaced, and the numbers that look like it and must stay."""

import random

import pytest

from data_engine import pii
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
        # names and domains of other scripts; no space before or behind
        ("info@例え.jp へ", "<EMAIL> へ", "email"),
        ("邮箱info@example.com谢谢", "邮箱<EMAIL>谢谢", "email"),
        ("请联系bob@例子.中国的朋友", "请联系<EMAIL>的朋友", "email"),
        ("почта: иван@почта.рф, да", "почта: <EMAIL>, да", "email"),
        ("bob@xn--e1afmkfd.xn--p1ai", "<EMAIL>", "email"),
        ("info@example.com으로", "<EMAIL>으로", "email"),
        # the sentence goes on without a space, the address is written out
        ("to bob@example.org.Then he", "to <EMAIL>.Then he", "email"),
        ("carla [at] example [dot] de or", "<EMAIL> or", "email"),
        ("https://anna@example.org/inbox", "https://<EMAIL>/inbox", "email"),
        # groups by other characters than a space, capitals that follow
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "<IBAN>", "iban"),
        ("ES79 2100 0813 6101 2345 6789 BIC CAIXESBB", "<IBAN> BIC CAIXESBB", "iban"),
        ("卡号4111111111111111。", "卡号<CARD>。", "card"),
        ("3056 930902 5904", "<CARD>", "card"),
        ("http://81.2.69.142:8080/x", "http://<IP>:8080/x", "ip"),
        ("地址81.2.69.142是", "地址<IP>是", "ip"),
        ("[2A00:1450:4001:81b::200e]:443", "[<IP>]:443", "ip"),
        ("2345:0425:2CA1:0000:0000:0567:5673:23b5", "<IP>", "ip"),
        ("::ffff:81.2.69.142", "::ffff:<IP>", "ip"),
        ("+33\u00a01\u202f23\u00a045\u00a067\u00a089", "<PHONE>", "phone"),
        ("+49(0)30 1234567", "<PHONE>", "phone"),
        ("tel:+14155552671", "tel:<PHONE>", "phone"),
        ("415\u2011555\u20112671", "<PHONE>", "phone"),
        ("拨打+8613912345678咨询", "拨打<PHONE>咨询", "phone"),
        ("电话13912345678。", "电话<PHONE>。", "phone"),
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
        # pictures for dense screens, scp, matrix products, packages: no e-mail addresses
        "icon foo@2x.png, a@1.5x.ai and sprite@3x.webp",
        "git clone git@github.com:org/repo.git",
        "x = A@B.sum() + A@w.dot(y)",
        "@types/node@18.0.0 lodash@4.17.min.js",
        "postgres://u:p@db.example.com:5432/x",
        # one number in ten passes Luhn's check: digests, article numbers, device numbers, tables, lists of pages
        "d2717554524500176 and 9f86d081884c7d659a2feaa4111111111111111a",
        "EAN 4006381333931, IMEI 490154203237518",
        "5 3 4 2 6 1 5 3 4 2 6 1 5 3 4 9",
        "3005 3006 3007 3008, 3428 3429 3430 343",
        # one in a hundred passes that of accounts
        "key AB12 3456 7890 1234 5678, DE8937040044053201300",
        # clocks, fingerprints, hardware addresses, slices
        "12:34:56:78:90:12:34:56 aa:bb:cc:dd:ee:ff:00:11 00:1a:2b:3c:4d:5e 2000::5",
        "fe80::1ff:fe23:4567:890a ::1",
    ],
)
def test_other_numbers_stay(text):
    assert scrubbed(text) == (text, {})


def test_every_finding_is_counted_by_its_kind():
    text = "anna@example.org, bob@example.org, DE89 3704 0044 0532 0130 00 GB82WEST12345698765432 and +33 1 23 45 67 89"
    assert scrubbed(text) == (
        "<EMAIL>, <EMAIL>, <IBAN> <IBAN> and <PHONE>",
        {"email": 2, "iban": 2, "phone": 1},
    )


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


def test_a_cheaper_look_passes_over_nothing(monkeypatch):
    pieces = [
        "Tel.",
        "TEL:",
        "fon",
        "phone ",
        "Téléphone: ",
        "cell ",
        "тел. ",
        "电话",
        " ",
        ".",
        "1.: ",
        "ab. ",
        "(030) ",
    ]
    pieces += ["12. ", "2: ", "+49 ", "555-123-4567", "0301234567", "030 1234 567", "45", "6", "8.8.8.8", "7.8.9.200"]
    pieces += ["2600:1:2:3::4", "3000", " / ", "(", "x", "１２３４５６７"]
    rng = random.Random(0)
    texts = ["".join(rng.choices(pieces, k=rng.randrange(1, 12))) for _ in range(4000)]
    found = [scrubbed(text) for text in texts]
    whole = {"ip": (pii._IPV4, pii._IPV6), "phone": (pii._PHONE,)}
    for kind, patterns in whole.items():
        entries = zip(patterns, pii._FINDERS[kind], strict=True)
        monkeypatch.setitem(pii._FINDERS, kind, [(lambda _, p=pattern: p, entry[1]) for pattern, entry in entries])
    assert found == [scrubbed(text) for text in texts]
    assert sum("phone" in counts for _, counts in found) > 100
