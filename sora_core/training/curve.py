"""Draws the log of a run as an SVG picture: `python -m sora_core.training curve runs/s1 --values loss --out docs/loss.svg`."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from ..config import UserError
from .run import read_reports

WIDTH, HEIGHT, MARGIN = 640, 280, 48
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def read_log(folder: str | Path, value: str) -> list[tuple[float, float]]:
    """(step, value) of every report of a run that has the value."""
    return [(report["step"], report[value]) for report in read_reports(folder) if value in report]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / count or 1))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def draw(curves: dict[str, list[tuple[float, float]]], out: str | Path, title: str, *, across: str = "step",
         begin: float | None = 0.0) -> None:  # fmt: skip
    """Writes one SVG with a line for each named curve; `across` names what goes to the right, from `begin` on (None: the least).

    Raises:
        UserError: nothing to draw.
    """
    points = [p for curve in curves.values() for p in curve]
    if not points:
        raise UserError(f"{title}: the log has no such value")
    x0, x1 = min(x for x, _ in points) if begin is None else begin, max(x for x, _ in points)
    x1 = x1 if x1 > x0 else x0 + 1
    y0, y1 = min(y for _, y in points), max(y for _, y in points)
    y1 = y1 if y1 > y0 else y0 + 1

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + (x - x0) / (x1 - x0) * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - (y - y0) / (y1 - y0) * (HEIGHT - 2 * MARGIN)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{MARGIN}" y="20" font-size="13">{escape(title)}</text>')
    for y in ticks(y0, y1):
        _, py = place(x0, y)
        parts.append(f'<path d="M{MARGIN} {py:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(x0, x1):
        px, _ = place(x, y0)
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{x:g}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in curve)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{WIDTH - MARGIN}" y="{20 + 14 * i}" text-anchor="end" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{across}</text></svg>')
    Path(out).write_text("\n".join(parts))
