"""A line plot as SVG, in plain text: no plotting library is needed to draw or to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0b6e99", "#d9480f", "#5c940d", "#862e9c", "#868e96", "#e8590c")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 210, 20, 50


def line_plot(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, x_label: str, y_label: str
) -> str:
    """Draw lines over a common axis.

    Args:
        x: Values of the horizontal axis, rising.
        lines: Name -> a value for each of `x`.
        x_label: What `x` is.
        y_label: What the lines are.

    Returns:
        The text of an SVG file.
    """
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def across(value: float) -> float:
        return LEFT + (value - x[0]) / (x[-1] - x[0]) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for place in range(6):
        value = low + (high - low) * place / 5
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" '
            f'stroke="#dee2e6"/><text x="{LEFT - 6}" y="{up(value) + 4:.1f}" '
            f'text-anchor="end">{value:.3g}</text>'
        )
        value = x[0] + (x[-1] - x[0]) * place / 5
        parts.append(
            f'<text x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{value:.3g}</text>'
        )
    for place, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, line, strict=True))
        colour = COLOURS[place % len(COLOURS)]
        y = TOP + 16 + 20 * place
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="3"/>'
            f'<text x="{WIDTH - RIGHT + 40}" y="{y + 4}">{escape(name)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text></svg>\n'
    )
    return "".join(parts)
