"""Cost against waiting, as an SVG that needs nothing to draw it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import log10

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 250, 20, 50
COLOURS = ("#7a7a7a", "#1b6ac9", "#0c8f6f", "#8a4fbf", "#c2571a", "#b3261e", "#5b6b00", "#d4a017")
WAIT = "95 % of jobs wait less than, minutes"
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


@dataclass(frozen=True)
class Point:
    """`wait` in minutes; those of a series are joined in their order."""

    name: str
    series: str
    cost: float
    wait: float


def svg(points: Sequence[Point]) -> str:
    most = max(point.cost for point in points) * 1.05
    ticks = [tick for tick in TICKS if 0.3 * min(p.wait for p in points) < tick]
    ticks = [tick for tick in ticks if tick < 3 * max(p.wait for p in points)]
    low, high = log10(ticks[0]), log10(ticks[-1])

    def x(cost: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * cost / most

    def y(wait: float) -> float:
        part = (log10(max(wait, ticks[0])) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    font = 'font-family="system-ui, sans-serif" font-size="12"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in ticks:
        at = y(tick)
        lines += [
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    step = 10 ** int(log10(most)) / (2 if most < 3 * 10 ** int(log10(most)) else 1)
    for number in range(int(most // step) + 1):
        at, level = x(number * step), HEIGHT - BOTTOM
        lines.append(
            f'<text x="{at:.1f}" y="{level + 18}" text-anchor="middle">{number * step:,.0f}</text>'
        )
    centred = 'text-anchor="middle"'
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines += [
        f'<text x="{middle}" y="{HEIGHT - 12}" {centred}>cost of a day, $</text>',
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" {centred}>{WAIT}</text>',
    ]
    for number, (series, of_series) in enumerate(groupby(points, key=lambda point: point.series)):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x(one.cost), y(one.wait), one) for one in of_series]
        path = "L".join(f"{across:.1f} {up:.1f}" for across, up, _ in places)
        lines.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-opacity=".5"/>')
        for across, up, one in places:
            words = escape(f"{one.name}: ${one.cost:,.0f}, {one.wait:.1f} min")
            lines.append(
                f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}">'
                f"<title>{words}</title></circle>"
            )
        level = TOP + 20 + 22 * number
        lines += [
            f'<circle cx="{WIDTH - RIGHT + 24}" cy="{level - 4}" r="4" fill="{colour}"/>',
            f'<text x="{WIDTH - RIGHT + 36}" y="{level}">{escape(series)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
