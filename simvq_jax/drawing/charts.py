"""Inline SVG charts without a plotting library: curves, sorted code usage, spectra over training.

Every chart is one well-formed `<svg>` element. Its colours are the CSS variables of `STYLE`, which the
page includes once, so charts follow the page's light or dark mode.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from simvq_jax.drawing.axes import Axis, fit_axis, number

WIDTH, HEIGHT = 560, 316
LEFT, RIGHT, BOTTOM = 58, 544, 274  # edges of the plot; its top depends on the rows of the legend
POINTS = 700  # a curve keeps about this many points: more than the pixels it is drawn on

# Okabe-Ito hues, told apart with every common colour blindness; lighter ones on a dark ground.
SERIES = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9147"),
    ("#009e73", "#35c99e"),
    ("#b0579a", "#e79fcf"),
    ("#a87400", "#f0c04a"),
    ("#5b6470", "#aab4c0"),
)
RAMP = (  # one line a step, from the first to the last: towards the strongest contrast in either mode
    ("#bfd8ec", "#27435c"),
    ("#9cc5e3", "#2f5a80"),
    ("#76aed6", "#3a74a6"),
    ("#5295c7", "#4a8fc9"),
    ("#347ab3", "#64a8e0"),
    ("#1f5f9a", "#88c1ee"),
    ("#12457c", "#b1d9f8"),
    ("#082c58", "#e0f2ff"),
)


def _style() -> str:
    def variables(mode: int) -> str:
        named = [(f"--series-{i}", c[mode]) for i, c in enumerate(SERIES)]
        named += [(f"--ramp-{i}", c[mode]) for i, c in enumerate(RAMP)]
        named += [("--grid", ("#e3e7ec", "#2c343e")[mode]), ("--muted", ("#5c6773", "#9aa6b2")[mode])]
        return ":root{" + ";".join(f"{name}:{color}" for name, color in named) + "}"

    return f"""{variables(0)}
@media (prefers-color-scheme: dark){{{variables(1)}}}
.chart{{display:block;width:100%;height:auto;font-size:12px;font-variant-numeric:tabular-nums;fill:currentColor}}
.chart .title{{font-size:14.5px;font-weight:600}}
.chart .muted{{fill:var(--muted)}}
.chart .grid{{stroke:var(--grid);stroke-width:1}}
.chart .axis{{stroke:var(--muted);stroke-width:1}}
.chart .curve{{fill:none;stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}}
"""


STYLE = _style()


class _Label(NamedTuple):
    """An entry of the legend: `name` in the color of a CSS variable, then `note` in bold."""

    name: str
    color: str
    note: str = ""


class _Curve(NamedTuple):
    label: _Label
    x: np.ndarray
    y: np.ndarray


def line_chart(
    series: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    include_y: Sequence[float] = (),
) -> str:
    """Curves y over x, each `(x, y)` of one length; returns an `<svg>` element.

    A value that is not finite (or, with `log_y`, not positive) leaves a gap; a lone point is a dot. The
    legend gives each curve's last finite value. `include_y`: values the axis reaches even without data.
    """
    curves = []
    for i, (name, (x, y)) in enumerate(series.items()):
        xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
        finite = ys[np.isfinite(ys)]
        note = number(float(finite[-1])) if finite.size else "no value"
        curves.append(_Curve(_Label(name, f"--series-{i % len(SERIES)}", note), xs, ys))
    return _curves_chart(curves, title, x_label, y_label, log_y, include_y)


def spectrum_chart(
    spectra: Mapping[int, Sequence[float] | np.ndarray], title: str, y_label: str, log_y: bool = True
) -> str:
    """Singular values (largest first) over their index, one line a step from light to dark.

    `spectra`: step -> (rank,) values. At most eight steps are drawn, evenly chosen, both ends among them.
    """
    steps = sorted(spectra)
    shown = [steps[i] for i in _spread(len(steps), len(RAMP))]
    colors = _spread(len(RAMP), len(shown)) if len(shown) > 1 else [len(RAMP) - 1]
    curves = []
    for step, color in zip(shown, colors, strict=False):
        values = np.asarray(spectra[step], np.float64)
        label = _Label(f"step {step:,}", f"--ramp-{color}")
        curves.append(_Curve(label, np.arange(1, len(values) + 1), values))
    return _curves_chart(curves, title, "index of the singular value", y_label, log_y, markers=False)


def usage_chart(counts: np.ndarray, title: str) -> str:
    """How many tokens each code takes, codes sorted by use: log frequency over rank, dead codes shaded.

    `counts`: (K,) non-negative integers.
    """
    used = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    size, dead = len(counts), len(counts) - len(used)
    mean = float(counts.sum()) / max(size, 1)
    legend = [
        _Label("used codes", "--series-0", f"{len(used):,}"),
        _Label("dead codes", "--series-1", f"{dead:,} ({dead / max(size, 1):.1%})"),
        _Label("even use", "--muted", f"{number(mean)} tokens a code"),
    ]
    top = _top(legend)
    x = fit_axis(np.array([0.0, size]), LEFT, RIGHT, False, 0.0)
    y = fit_axis(np.append(used, mean), BOTTOM, top, True, 0.06)
    body = []
    if used.size:
        kept = np.array(_spread(len(used), POINTS))
        xs, ys = x.place(np.append(kept, len(used))), y.place(np.append(used[kept], used[-1]))
        line, even = _path(xs, ys), float(y.place(np.array(mean)))
        body = [
            f'<path d="{line}V{BOTTOM}H{LEFT}Z" fill="var(--series-0)" opacity="0.18"/>',
            f'<path class="curve" d="{line}" stroke="var(--series-0)"/>',
            f'<rect x="{xs[-1]:.1f}" y="{top}" width="{RIGHT - xs[-1]:.1f}" height="{BOTTOM - top}" '
            f'fill="var(--series-1)" opacity="0.16"/>',
            _line(LEFT, RIGHT, even, even, 'class="axis" stroke-dasharray="5 4"'),
        ]
    return _svg(title, "rank of the code", "tokens (log scale)", x, y, body, legend)


def _curves_chart(
    curves: Sequence[_Curve],
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool,
    include_y: Sequence[float] = (),
    markers: bool = True,
) -> str:
    legend = [curve.label for curve in curves]
    top = _top(legend)
    y_label = f"{y_label} (log scale)".lstrip() if log_y else y_label
    x = fit_axis(np.concatenate([[], *(c.x for c in curves)]), LEFT, RIGHT, False, 0.0)
    y = fit_axis(np.concatenate([include_y, *(c.y for c in curves)]), BOTTOM, top, log_y, 0.06)
    body = []
    for curve in curves:
        kept = _thinned(curve.y)
        xs, ys = x.place(curve.x[kept]), y.place(curve.y[kept])
        body.append(f'<path class="curve" d="{_path(xs, ys)}" stroke="var({curve.label.color})"/>')
        body += [
            f'<circle cx="{xs[i]:.1f}" cy="{ys[i]:.1f}" r="2.6" fill="var({curve.label.color})"/>'
            for i in _dots(ys, markers)
        ]
    return _svg(title, x_label, y_label, x, y, body, legend)


def _thinned(y: np.ndarray) -> np.ndarray:
    """Indices to draw of a long curve: lowest, highest and first missing value of each bucket, so that no
    spike and no gap is lost."""
    if len(y) <= POINTS:
        return np.arange(len(y))
    kept = set()
    for bucket in np.array_split(np.arange(len(y)), POINTS // 2):
        finite = bucket[np.isfinite(y[bucket])]
        if len(finite):
            kept |= {finite[np.argmin(y[finite])], finite[np.argmax(y[finite])]}
        kept |= set(bucket[~np.isfinite(y[bucket])][:1])
    return np.array(sorted(kept | {len(y) - 1}))


def _spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0 .. count - 1, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist()


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Path data through the points; it is lifted where a coordinate is missing."""
    parts, pen = [], "M"
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        missing = math.isnan(x) or math.isnan(y)
        parts += [] if missing else [f"{pen}{x:.1f},{y:.1f}"]
        pen = "M" if missing else "L"
    return "".join(parts)


def _dots(ys: np.ndarray, markers: bool) -> Iterable[int]:
    """Points to mark: all of a short curve; of a long one those that no line reaches."""
    there = np.isfinite(ys)
    if markers and len(ys) <= 40:
        return np.flatnonzero(there)
    around = np.concatenate([[False], there, [False]])
    return np.flatnonzero(there & ~around[:-2] & ~around[2:])


def _rows(legend: Sequence[_Label]) -> list[list[tuple[float, _Label]]]:
    """The legend's entries in rows, each with its left edge; the widths of text are generous estimates."""
    rows: list[list[tuple[float, _Label]]] = [[]]
    left = 0.0
    for label in legend:
        width = 46 + 6.6 * len(label.name) + 7.2 * len(label.note)
        if rows[-1] and left + width > WIDTH + 16:
            rows, left = [*rows, []], 0.0
        rows[-1].append((left, label))
        left += width
    return rows


def _top(legend: Sequence[_Label]) -> int:
    """Upper edge of the plot: below the title, the rows of the legend and the label of the y axis."""
    return 54 + 18 * len(_rows(legend))


def _legend(legend: Sequence[_Label]) -> list[str]:
    parts = []
    for row, entries in enumerate(_rows(legend)):
        y = 40 + 18 * row
        for left, (name, color, note) in entries:
            parts.append(_line(left, left + 16, y - 4, y - 4, f'stroke="var({color})" stroke-width="3"'))
            bold = f' <tspan font-weight="600">{escape(note)}</tspan>' if note else ""
            parts.append(f'<text x="{left + 22:.1f}" y="{y}">{escape(name)}{bold}</text>')
    return parts


def _line(x1: float, x2: float, y1: float, y2: float, attributes: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {attributes}/>'


def _text(x: float, y: float, anchor: str, kind: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _svg(
    title: str, x_label: str, y_label: str, x: Axis, y: Axis, body: Sequence[str], legend: Sequence[_Label]
) -> str:
    """The whole chart: grid and ticks under the drawing `body`, title, legend and labels around it."""
    top = _top(legend)
    parts = [_text(0, 18, "start", "title", title), *_legend(legend)]
    parts.append(_text(LEFT - 8, top - 9, "start", "muted", y_label))
    parts.append(_text(RIGHT, HEIGHT - 6, "end", "muted", x_label))
    if any("<path" in part and ' d=""' not in part for part in body):
        for place, label in y.ticks():
            parts.append(_line(LEFT, RIGHT, place, place, 'class="grid"'))
            parts.append(_text(LEFT - 8, place + 4, "end", "muted", label))
        for place, label in x.ticks():
            parts.append(_line(place, place, BOTTOM, BOTTOM + 4, 'class="axis"'))
            parts.append(_text(place, BOTTOM + 18, "middle", "muted", label))
    else:
        parts.append(_text((LEFT + RIGHT) / 2, (top + BOTTOM) / 2, "middle", "muted", "no values"))
    parts.append(_line(LEFT, RIGHT, BOTTOM, BOTTOM, 'class="axis"'))
    name = escape(title, quote=True)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'{opening} role="img" aria-label="{name}">{"".join([*parts, *body])}</svg>'
