"""Chart axes: ranges, round ticks, and numbers written as people read them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """A range of values laid on the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, values: np.ndarray) -> np.ndarray:
        """Pixels of values of any shape; NaN where a value is not finite or has no logarithm."""
        values, low, high = _scaled(values, self.log), *_scaled(np.array([self.low, self.high]), self.log)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) of each tick."""
        ticks = log_ticks(self.low, self.high) if self.log else []
        labels = [number(tick) for tick in ticks]
        if len(ticks) < 3:
            ticks = linear_ticks(self.low, self.high)
            labels = _linear_labels(ticks)
        return list(zip(self.place(np.array(ticks)).tolist(), labels, strict=True))


def _scaled(values: np.ndarray, log: bool) -> np.ndarray:
    values = np.asarray(values, np.float64)
    values = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    return np.log10(values) if log else values


def fit_axis(values: np.ndarray, start: float, end: float, log: bool, margin: float) -> Axis:
    """The axis that shows all the values, with a share `margin` of its length left free at both ends.

    `values`: any shape; what is not finite (with `log`, not positive) does not count.
    """
    scaled = _scaled(values, log)
    scaled = scaled[np.isfinite(scaled)]
    low, high = (float(scaled.min()), float(scaled.max())) if scaled.size else (0.0, 1.0)
    positive = low >= 0 and not log
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: it lies in the middle
        half = 0.5 if log else abs(low) / 2 or 1.0
        low, high = low - half, high + half
    pad = margin * (high - low)
    low, high = max(low - pad, 0.0) if positive else low - pad, high + pad
    return Axis(10**low, 10**high, start, end, log) if log else Axis(low, high, start, end, log)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], thinned to at most seven; between them 2 and 5 on a short axis."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first > 2:
        return [10.0**e for e in range(first, last + 1, math.ceil((last - first + 1) / 7))]
    ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _linear_labels(ticks: Sequence[float]) -> list[str]:
    largest = max(map(abs, ticks))
    exponent = math.floor(math.log10(largest) + 1e-9) if largest else 0
    unit, suffix = 1.0, ""
    if exponent < -3 or exponent >= 9:
        unit, suffix = 10.0**exponent, _power(exponent)
    elif exponent >= 4:
        unit, suffix = (1e6, "M") if exponent >= 6 else (1e3, "k")
    step = (ticks[1] - ticks[0]) / unit if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick / unit:,.{decimals}f}{suffix}" if round(tick / unit, 9) else "0" for tick in ticks]


def _power(exponent: int) -> str:
    return "·10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def number(value: float) -> str:
    """A number as people read it: `8,192`, `27.31`, `3·10⁻⁵`."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    if value and not 1e-3 <= abs(value) < 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}{_power(int(exponent))}".removeprefix("1·")
    if float(value).is_integer() or abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.4g}"
