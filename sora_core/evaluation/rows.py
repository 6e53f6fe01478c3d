"""The rows of the scorecard, in the order in which they are printed.

A function here measures one thing on a bench and yields its rows (report.py has `share_row` and `mean_row`). It stands in the file of what
it measures; to add one, write it there and name it below. `--rows` and the scorecard know it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .adherence import adherence_rows, first_stage_rows, observer_rows, paired_rows
from .bench import Bench
from .cameras import camera_rows
from .geometry import geometry_rows
from .hearing import hearing_rows
from .minute import cast_rows, exact_rows, minute_cost_rows, return_rows, take_rows
from .permanence import permanence_rows
from .physics import physics_rows
from .quality import cost_rows, drift_rows, picture_rows, reconstruction_rows
from .report import Row
from .shots import shot_rows
from .story_events import story_rows
from .surprise import surprise_rows

Rows = Callable[[Bench], Iterator[Row]]


def _of_films(rows: Rows) -> Rows:
    """Rows of long videos: none where the budget has no films."""
    return lambda bench: rows(bench) if bench.budget.films else iter(())


ROWS: dict[str, Rows] = {
    "observer": observer_rows,
    "reconstruction": reconstruction_rows,
    "adherence": adherence_rows,
    "first stage": first_stage_rows,
    "pairs": paired_rows,
    "hearing": hearing_rows,
    "stories": story_rows,
    "cameras": camera_rows,
    "pictures": picture_rows,
    "permanence": permanence_rows,
    "surprise": surprise_rows,
    "physics": physics_rows,
    "3-D": geometry_rows,
    "shots": shot_rows,
    "drift": drift_rows,
    "cost": cost_rows,
    "exact": _of_films(exact_rows),
    "takes": _of_films(take_rows),
    "returns": _of_films(return_rows),
    "casts": _of_films(cast_rows),
    "minute cost": _of_films(minute_cost_rows),
}
