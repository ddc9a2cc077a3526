"""Numbers as text for readers: the digits that an interval supports, and a true minus sign."""

import math


def format_number(value: float | None, spread: float | None = None) -> str:
    """Format `value` to two significant digits of `spread`; without it, to three digits."""
    if value is None or not math.isfinite(value):
        return "–"
    scale = abs(value) / 10 if not spread or not math.isfinite(spread) else spread
    decimals = 2 if scale == 0 else min(6, max(0, 1 - math.floor(math.log10(scale))))
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")  # no minus zero


def format_interval(low: float | None, high: float | None, few: bool = False) -> str:
    """Format an interval; without one, say whether there are too `few` items or groups.

    A bound is never rounded to zero if the interval excludes zero.
    """
    if low is None or high is None or not math.isfinite(high - low):
        return "too few" if few else "no interval"
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    bounds = []
    for bound in (low, high):
        shown = format_number(bound, high - low)
        vanishes = abs(bound) == nearest > 0 and not any(digit in shown for digit in "123456789")
        bounds.append(format_number(bound, nearest) if vanishes else shown)
    return " to ".join(bounds)


def format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def format_quantity(value: float) -> str:
    """Format a count: 209.7B, 1.48B, 12.4k; from 1e15 on as 1.78e21."""
    if value >= 1e15:
        return f"{value:.2e}".replace("e+", "e")
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:,.0f}"
