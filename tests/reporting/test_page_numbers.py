import math

import pytest

from ttoaa.reporting.page import format_duration, format_interval, format_number, format_quantity


@pytest.mark.parametrize(
    "value, spread, text",
    [
        (0.123456, 0.02, "0.123"),
        (-0.5, 0.2, "−0.50"),
        (12345.6, 500.0, "12,346"),
        (3.14159, None, "3.14"),
        (0.0, None, "0.00"),
        (0.0, 0.0, "0.00"),
        (None, None, "–"),
        (math.nan, 1.0, "–"),
    ],
)
def test_number(value, spread, text):
    assert format_number(value, spread) == text


def test_interval():
    assert format_interval(-0.0123, 0.0456) == "−0.012 to 0.046"
    assert format_interval(None, 1.0) == "no interval"


def test_duration_and_quantity():
    assert [format_duration(s) for s in (0.04, 59.9, 61, 3661)] == [
        "0.0 s", "59.9 s", "1 min 01 s", "1 h 01 min"]  # fmt: skip
    assert [format_quantity(n) for n in (950, 123456, 1.234e6, 5e15)] == [
        "950", "123,456", "1.23 M", "5 P"]  # fmt: skip
