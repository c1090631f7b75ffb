"""HTML of a report: the document with its style, and the few parts it is made of. Every text is escaped."""

from collections.abc import Iterable
from html import escape

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b232c;--edge:#e1e5ea;--note:#fff3d6}
@media (prefers-color-scheme: dark){
:root{--page:#12161b;--card:#1a2027;--ink:#e6ebf0;--edge:#2b333d;--note:#40351a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 12px}
h3{font-size:15px;margin:0 0 8px}
.subtitle,figcaption,dt,.projection p{color:var(--muted)}
.subtitle{margin:0 0 24px}
.card,.tiles>div,details{background:var(--card);border:1px solid var(--edge);border-radius:10px}
.card{padding:16px 18px}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr))}
.tiles{display:grid;gap:12px;margin:0;grid-template-columns:repeat(auto-fill,minmax(168px,1fr))}
.tiles>div{padding:12px 14px;display:flex;flex-direction:column-reverse;justify-content:flex-end}
dt{font-size:13px;line-height:1.3}
dd{margin:0;font-size:20px;white-space:nowrap;font-weight:600;line-height:1.35;font-variant-numeric:tabular-nums}
.note{background:var(--note);border-radius:8px;padding:10px 14px;margin:16px 0 0}
.pairs{display:grid;gap:16px 14px;grid-template-columns:repeat(auto-fill,minmax(128px,1fr))}
figure{margin:0}
figcaption{font-size:13px;text-align:center;margin-top:4px;font-variant-numeric:tabular-nums}
img{display:block;width:100%;height:auto;border-radius:4px}
.pixelated{image-rendering:pixelated}
.sound img,.waveform{display:block;width:100%;height:72px;border-radius:4px}
.sound audio{display:block;width:100%;height:36px;margin:6px 0 14px}
.waveform{margin-bottom:4px}
.projection{display:grid;gap:12px 28px;margin-top:16px;align-items:center;
grid-template-columns:minmax(0,1fr) minmax(0,3fr)}
@media (max-width:800px){.projection{grid-template-columns:1fr}}
.projection p{font-size:14px;margin:12px 0 0}
.legend{list-style:none;margin:0;padding:0}
.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:8px}
details{margin-bottom:10px;padding:0 16px}
summary{cursor:pointer;padding:11px 0;font-weight:600}
pre,.scroll{overflow-x:auto;margin:0 0 14px;font-size:13px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td{padding:4px 28px 4px 0;border-top:1px solid var(--edge);vertical-align:top}
"""


def document(title: str, subtitle: str, style: str, sections: Iterable[str]) -> str:
    """A complete HTML document; `style` is added to the page's own CSS, `sections` are HTML."""
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
{body}
</main></body>
</html>
"""


def section(title: str, content: str) -> str:
    """A titled section of HTML; nothing for empty content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def grid(cards: Iterable[str]) -> str:
    """Cards of HTML, two beside each other where there is room; nothing for no cards."""
    cells = "".join(f'<div class="card">{card}</div>' for card in cards)
    return f'<div class="grid">{cells}</div>' if cells else ""


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Headline figures from (label, value) pairs."""
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in figures)
    return f'<dl class="tiles">{cells}</dl>'


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """A plain table of texts."""
    cells = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
    return f'<div class="scroll"><table>{"".join(f"<tr>{row}</tr>" for row in cells)}</table></div>'


def details(summary: str, content: str) -> str:
    """HTML content folded away under its summary."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def legend(entries: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """A list of (red, green, blue) dots with their texts."""
    items = (f'<li><i style="background:rgb{color}"></i>{escape(text)}</li>' for color, text in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'
