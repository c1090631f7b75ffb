"""The toy's picture: a panel a method, tokens, and each code's way from its start to its end."""

from html import escape
from typing import Any

SIDE, MARGIN, HEAD = 300, 14, 40  # pixels of a panel, around it, and above it
LIMITS = (-3.2, 5.2)  # of both axes
STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.note{fill:#5c6773;font-size:12px}.frame{fill:none;stroke:#c8d0d9}"
    ".token{fill:#aab4c0}.way{fill:none;stroke:#d55e00;stroke-width:.8;opacity:.6}.end{fill:#0072b2}"
    ".ground{fill:#ffffff}"
)


def draw(toy: dict[str, Any]) -> str:
    """An `<svg>` of toy.json's content."""
    panels = [_panel(toy, name, i * (SIDE + MARGIN) + MARGIN) for i, name in enumerate(toy["methods"])]
    width, height = len(panels) * (SIDE + MARGIN) + MARGIN, SIDE + HEAD + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{STYLE}</style>'
        f'<rect class="ground" width="{width}" height="{height}"/>{"".join(panels)}</svg>'
    )


def _panel(toy: dict[str, Any], name: str, left: int) -> str:
    found = toy["methods"][name]
    codes = len(found["codes"][0])

    def place(point) -> str:
        low, high = LIMITS
        x, y = ((value - low) / (high - low) * SIDE for value in point)
        return f"{left + x:.1f},{HEAD + SIDE - y:.1f}"

    def dot(point, kind: str, radius: float) -> str:
        x, y = place(point).split(",")
        return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"/>'

    ways = zip(*found["codes"], strict=True)
    return "".join(
        [
            f'<text x="{left}" y="16">{escape(name)}</text>',
            f'<text class="note" x="{left}" y="32">{found["used"][-1]} of {codes} codes in use after'
            f" {toy['steps'][-1]} steps</text>",
            f'<rect class="frame" x="{left}" y="{HEAD}" width="{SIDE}" height="{SIDE}"/>',
            *[dot(token, "token", 1.6) for token in toy["tokens"]],
            *[f'<polyline class="way" points="{" ".join(place(point) for point in way)}"/>' for way in ways],
            *[dot(point, "end", 2.2) for point in found["codes"][-1]],
        ]
    )
