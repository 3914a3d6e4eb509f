"""Dates as servers and tables write them: one form, or none, never an error."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_engine.records import iso_date


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2026-01-02", "2026-01-02T00:00:00Z"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
        ("Fri, 02 Jan 2026 03:04:05 GMT", "2026-01-02T03:04:05Z"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+01:00", ""),
        ("Fri, 31 Dec 9999 23:59:59 -0100", ""),
        ("yesterday", ""),
        (None, ""),
    ],
)
def test_a_date_has_one_form_and_one_beyond_the_calendar_is_none(text, date):
    assert iso_date(text) == date


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} [+-][0-9]+")
)
@example("Fri, 01 Jan 2026 00:00:00 +9999999999999999999")
def test_no_text_fails_and_every_date_is_read_again(text):
    date = iso_date(text)
    assert date == "" or datetime.fromisoformat(date).astimezone(UTC).timestamp() < 1 << 40
    assert iso_date(date) == date
