"""Numbers as a reader wants them: digits that the interval supports, and a true minus sign."""

import math


def number(value: float | None, spread: float | None = None) -> str:
    """`value` to two significant digits of `spread`; without one, to three of its own."""
    if value is None or not math.isfinite(value):
        return "–"
    scale = abs(value) / 10 if not spread or not math.isfinite(spread) else spread
    decimals = 2 if scale == 0 else min(6, max(0, 1 - math.floor(math.log10(scale))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no interval"
    return f"{number(low, high - low)} to {number(high, high - low)}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def quantity(value: float) -> str:
    """A large count with its SI letter: 1.23 M."""
    for limit, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:,.0f}"
