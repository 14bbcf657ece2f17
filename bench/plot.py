"""plot: line plots as SVG text, several panels in one picture, both axes logarithmic.

Plain shapes and system fonts on white, no script and no style sheet: any viewer shows them."""
import math
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

PANEL_W, PANEL_H, LEFT, RIGHT, TOP, BOTTOM = 440, 300, 62, 16, 34, 46
TITLE_H, LEGEND_H = 34, 26
INK, FAINT, GRID = "#222222", "#666666", "#e4e4e4"
STYLES = {  # of a line: colour, dashes, markers
    "ours": ("#0b62c4", "", True),
    "ours 2": ("#12805c", "", True),
    "peer": ("#c2540a", "", True),
    "bound": ("#777777", "6 4", False),
    "bound 2": ("#a8a8a8", "2 3", False),
}


@dataclass
class Line:
    label: str   # lines of one label share an entry of the legend
    style: str   # a key of STYLES
    points: list  # (x, y), both greater than 0


@dataclass
class Panel:
    title: str
    lines: list
    x_ticks: list = field(default_factory=list)  # (value, text)


def ticks_of(low, high):
    """1, 2 and 5 times powers of ten inside low .. high; powers alone where there would be many."""
    found = [m * 10 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)]
    found = [v for v in found if low <= v <= high]
    return found if len(found) <= 9 else [v for v in found if math.log10(v) % 1 < 1e-9]


def number(v):
    return f"{v:,.0f}" if v >= 1 else f"{v:g}"


class Scale:
    def __init__(self, low, high, start, end):
        self.low, self.span, self.start, self.length = math.log(low), math.log(high) - math.log(low), start, end - start

    def __call__(self, v):
        return self.start + (math.log(v) - self.low) / self.span * self.length


def text(x, y, what, anchor="start", size=11, colour=INK, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{more}>{escape(what)}</text>'


def draw_line(line, x, y):
    colour, dashes, markers = STYLES[line.style]
    places = [(x(a), y(b)) for a, b in line.points]
    out = []
    if len(places) > 1:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
    if markers:
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.8" fill="{colour}"/>' for a, b in places]
    return out


def draw_panel(panel, left, top, x_label, y_label):
    """Axes cover the lines with a little room; the frame's corner is (left, top)."""
    xs = [p[0] for line in panel.lines for p in line.points]
    ys = [p[1] for line in panel.lines for p in line.points]
    x0, x1, y0, y1 = left + LEFT, left + PANEL_W - RIGHT, top + TOP, top + PANEL_H - BOTTOM
    x, y = Scale(min(xs) / 1.15, max(xs) * 1.15, x0, x1), Scale(min(ys) / 1.3, max(ys) * 1.3, y1, y0)
    out = [text((x0 + x1) / 2, top + 22, panel.title, "middle", 13, more=' font-weight="600"')]
    for v in ticks_of(min(ys) / 1.3, max(ys) * 1.3):
        out.append(f'<line x1="{x0}" y1="{y(v):.1f}" x2="{x1}" y2="{y(v):.1f}" stroke="{GRID}"/>')
        out.append(text(x0 - 6, y(v) + 4, number(v), "end", colour=FAINT))
    for v, label in panel.x_ticks:
        out.append(f'<line x1="{x(v):.1f}" y1="{y0}" x2="{x(v):.1f}" y2="{y1}" stroke="{GRID}"/>')
        out.append(text(x(v), y1 + 16, label, "middle", colour=FAINT))
    out.append(f'<path d="M{x0} {y0} V{y1} H{x1}" fill="none" stroke="{INK}"/>')
    out.append(text((x0 + x1) / 2, y1 + 36, x_label, "middle", 12))
    out.append(text(0, 0, y_label, "middle", 12, more=f' transform="translate({left + 14:.1f} {(y0 + y1) / 2:.1f}) rotate(-90)"'))
    for line in sorted(panel.lines, key=lambda one: not one.style.startswith("bound")):  # bounds lie beneath
        out += draw_line(line, x, y)
    return out


def draw_legend(panels, width, y):
    entries = {line.label: line.style for p in panels for line in p.lines}
    widths = [42 + 7.2 * len(label) for label in entries]
    at, out = (width - sum(widths)) / 2, []
    for (label, style), w in zip(entries.items(), widths):
        colour, dashes, markers = STYLES[style]
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        out.append(f'<line x1="{at:.1f}" y1="{y - 4}" x2="{at + 20:.1f}" y2="{y - 4}" stroke="{colour}" stroke-width="1.8"{dash}/>')
        if markers:
            out.append(f'<circle cx="{at + 10:.1f}" cy="{y - 4}" r="2.8" fill="{colour}"/>')
        out.append(text(at + 25, y, label, size=12))
        at += w
    return out


def picture(title, panels, x_label, y_label):
    """SVG with the panels in rows of two."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width, height = max(columns * PANEL_W, 620), TITLE_H + LEGEND_H + rows * PANEL_H
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="system-ui, Helvetica, Arial, sans-serif">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>', text(width / 2, 24, title, "middle", 15, more=' font-weight="600"')]
    out += draw_legend(panels, width, TITLE_H + 14)
    for i, panel in enumerate(panels):
        left = (width - columns * PANEL_W) / 2 + i % columns * PANEL_W
        out += draw_panel(panel, left, TITLE_H + LEGEND_H + i // columns * PANEL_H, x_label, y_label)
    return "\n".join(out) + "\n</svg>\n"
