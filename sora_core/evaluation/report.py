"""The scorecard on paper: JSON, a markdown table, a picture of the shares with their intervals, sheets of the worst clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np

from ..config import UserError
from .intervals import bootstrap, independent, mean, wilson

OF_ONE_MODEL = ("hash", "steps", "guidance")  # of a scorecard: rows with others do not belong in one table
SHARES = ("prompt adherence", "surprise", "returns", "shots")  # how the names of rows begin that the plot shows
WIDTH, LEFT, RIGHT, STEP, TOP = 640, 250, 40, 22, 44


@dataclass(frozen=True)
class Row:
    """One number with its 95 % interval (None where there is none), how many were counted, the bar, and what it stands beside."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    bar: str | None = None
    reference: float | str | None = None


def share_row(name: str, hits: Sequence[bool], bar: float | None = None, reference: float | str | None = None,
              clips: Sequence[int] | None = None) -> Row:  # fmt: skip
    """A share of what was counted; bar: at least so much; clips: of each the clip, where some are of the same."""
    n, share = len(hits), sum(hits) / len(hits)
    worth = n if clips is None else independent(hits, clips)
    return Row(name, share, *wilson(share * worth, worth), n, None if bar is None else f">= {bar:g}", reference)


def mean_row(name: str, values: Sequence[float], bar: str | None = None, reference: float | str | None = None,
             statistic: Callable[[np.ndarray], float] = mean) -> Row:  # fmt: skip
    """A mean, or another statistic, of values that do not depend on each other, one a clip."""
    interval = bootstrap(values, statistic) if len(values) > 1 else (None, None)
    return Row(name, statistic(np.array(values)), *interval, len(values), bar, reference)


def met(row: Row) -> bool | None:
    """Whether the bar is met, None without one: '>= x', '<= x', 'within x' of 0, or one of them after '0 inside, or '; '> x' asks it of
    the whole interval."""
    if row.bar is None:
        return None
    if row.bar.startswith("0 inside") and row.low is not None and row.low <= 0 <= row.high:
        return True
    sign, limit = row.bar.split()[-2:]
    limit = float(limit)
    if sign == ">":
        return row.low is not None and row.low > limit
    if sign == ">=":
        return row.value >= limit
    if sign == "<=":
        return row.value <= limit
    return abs(row.value) <= limit


def to_json(rows: Sequence[Row], model: dict) -> str:
    """`model` says what was measured: file, hash of its weights, settings."""
    return json.dumps({"model": model, "rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False) + "\n"


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| row | value | 95 % | n | bar | | reference |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        between = "" if row.low is None else f"{_number(row.low)} to {_number(row.high)}"
        mark = {None: "", True: "met", False: "**not met**"}[met(row)]
        lines.append(f"| {row.name} | {_number(row.value)} | {between} | {row.n} | {row.bar or ''} | {mark} | {_number(row.reference)} |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], title: str) -> str:
    """SVG of shares: a dot with its interval, a tick at the bar (red) and one at the reference (grey), all from 0 to 1."""

    def x(share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    height = TOP + STEP * len(rows) + 24
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">']
    parts.append(f'<rect width="{WIDTH}" height="{height}" fill="white"/><text x="8" y="20" font-size="13">{escape(title)}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{x(share):.1f} {TOP - 12}V{height - 22}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(share):.1f}" y="{height - 8}" text-anchor="middle">{share:g}</text>')
    for i, row in enumerate(rows):
        y = TOP + STEP * i
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>')
        for colour, at in (("#999", row.reference), ("#d62728", row.bar and float(row.bar.split()[-1]))):
            if isinstance(at, float):
                parts.append(f'<path d="M{x(at):.1f} {y - 7}v14" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<path d="M{x(row.low):.1f} {y}H{x(row.high):.1f}" stroke="#1f77b4" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y}" r="3.5" fill="#1f77b4"/>')
    return "\n".join([*parts, "</svg>"])


def earlier(folder: Path, model: dict) -> list[Row]:
    """Rows of the scorecard in a folder, to which some are to be added; none where there is no scorecard.

    Raises:
        UserError: it is of another model, or of other settings than `model` says.
    """
    path = folder / "scorecard.json"
    if not path.is_file():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    if other := [name for name in OF_ONE_MODEL if data["model"].get(name) != model[name]]:
        was = ", ".join(f"{name} {data['model'].get(name)}" for name in other)
        raise UserError(f"out: {folder} holds the scorecard of another model or settings ({was}): give another folder, or all rows")
    return [Row(**row) for row in data["rows"]]


def merged(before: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Rows in place of those of the same names before them; new ones at the end."""
    named = {row.name: row for row in before} | {row.name: row for row in rows}
    return list(named.values())


def write(folder: Path, rows: Sequence[Row], model: dict, sections: dict[str, str] | None = None) -> None:
    """scorecard.json, .svg and .md in `folder`.

    Args:
        sections: of the page, title -> markdown. Others that the page has stay: they show rows that were not measured this time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scorecard.json").write_text(to_json(rows, model), encoding="utf-8")
    shares = [row for row in rows if row.low is not None and row.name.startswith(SHARES)]
    lines = ["# Scorecard", "", "Made by `python -m sora_core.evaluation`. " + ", ".join(f"{k} {v}" for k, v in model.items()) + ".", ""]
    if shares:
        (folder / "scorecard.svg").write_text(plot(shares, "shares; grey: reference, red: bar"), encoding="utf-8")
        lines += ["![shares](scorecard.svg)", ""]
    lines.append(table(rows))
    page = folder / "scorecard.md"
    before = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.is_file() else []
    titled = {title: text.strip() for title, _, text in (part.partition("\n") for part in before)} | (sections or {})
    for title, text in titled.items():
        lines += [f"## {title}", "", text, ""]
    page.write_text("\n".join(lines), encoding="utf-8")
