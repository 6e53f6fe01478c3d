"""Plans: in which passes the cells of a lattice are made, as plain data.

A *pass* makes some cells and sees others, which are given or were made by passes before it. Three kinds of plan:

    single      everything in one pass
    rollout     window after window, each seeing the last cells of the one before; every model can do it
    foresight   first a sketch of the whole length, at most `distance` cells apart; then each gap, seeing sketched cells on both sides,
                so that it knows what comes. No gap sees another, so errors do not pile up and any gap can be made again alone. Where
                nothing is given, the sketch goes on from an opening that is made before it

A *take* is a run of shots without a cut. Each take has a sketch of its own, and those after the first see some cells of the first, where
the characters come in: so a change of one shot leaves the passes of all other takes as they are, unless it is in the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .config import ModelHeader
from .shapes import Strides

KINDS = ("single", "rollout", "foresight")

DISTANCE = 8
"""Cells from one sketched cell to the next: 4 s at 8 frames a second."""

OVERLAP = 3
"""Cells of the window before that a window of a rollout sees."""

BESIDE = 2
"""Sketched cells that a gap sees on each side."""

OPENING = 9
"""Most cells of the opening of a foresight. What a model makes of cells far apart, of which training shows few, has another light than cell
0, which holds one frame: the step onto frame 1 was 4 times as large. A sketch that goes on from cells made together keeps their light."""

SMALLEST_PASS = 2 * BESIDE + DISTANCE
"""Cells that are enough for the gaps of a foresight, whatever the length: the least that a long video needs at once."""

REFERENCES = 4
"""Cells of the first take that the sketches of the others see."""


@dataclass(frozen=True)
class Lattice:
    """What a plan is made for.

    Args:
        cells: how many there are.
        known: numbers of the given ones.
        shots, takes: numbers of the shot and of the take of each cell, rising; empty where there is one.
    """

    cells: int
    known: frozenset[int] = frozenset()
    shots: tuple[int, ...] = ()
    takes: tuple[int, ...] = ()

    def shot_of(self, cell: int) -> int:
        return self.shots[cell] if self.shots else 0

    def take_of(self, cell: int) -> int:
        return self.takes[cell] if self.takes else 0

    def guides_of(self, p: Pass, places: Sequence[float]) -> list[int]:
        """Numbers of the guides that a pass sees, of which `places` are in cells from cell 0: those between its cells, in a take of which
        it makes a part. The cells of another take that it sees are references, and what lies between is none of its business."""
        takes = {self.take_of(k) for k in p.make}
        beside = (i for i, place in enumerate(places) if p.cells[0] - 1 < place <= p.cells[-1])
        return [i for i in beside if self.take_of(math.ceil(places[i])) in takes]

    @property
    def runs(self) -> list[range]:
        """The cells of each shot."""
        starts = [0, *(k for k in range(1, self.cells) if self.shot_of(k) != self.shot_of(k - 1)), self.cells]
        return [range(a, b) for a, b in itertools.pairwise(starts)]


@dataclass(frozen=True)
class Pass:
    """Makes the cells `make`, with the cells `see` as they are. Both rise. `seed` is in place of the user's, to make a pass anew."""

    name: str
    make: tuple[int, ...]
    see: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def cells(self) -> list[int]:
        return sorted(self.make + self.see)

    @property
    def made_at(self) -> list[int]:
        """Where among `cells` those stand that are made."""
        make = set(self.make)
        return [i for i, k in enumerate(self.cells) if k in make]

    @property
    def seen_at(self) -> list[int]:
        """Where among `cells` those stand that are only seen."""
        see = set(self.see)
        return [i for i, k in enumerate(self.cells) if k in see]


@dataclass(frozen=True)
class Plan:
    """Passes in an order in which they can run."""

    kind: str
    lattice: Lattice
    passes: tuple[Pass, ...] = field(default=())

    @property
    def largest(self) -> int:
        """Most cells that the model holds at once."""
        return max((len(p.cells) for p in self.passes), default=0)

    def groups(self, cells: int) -> list[list[int]]:
        """Numbers of the passes, in groups that one forward of at most so many cells may make, in an order in which these can run, which
        is not always that of the plan. The passes of a group are independent and have the same relative layout, which is all that the
        model sees, and one seed."""
        groups: list[list[int]] = []
        for number, p in enumerate(self.passes):
            after, home = set(), None  # after: what that group and those behind it make
            for group in reversed(groups):
                after.update(*(self.passes[n].make for n in group))
                if after.intersection(p.see):
                    break
                if self._form(p) == self._form(self.passes[group[0]]) and (len(group) + 1) * len(p.cells) <= cells:
                    home = group
                    break
            if home is None:
                groups.append([number])
            else:
                home.append(number)
        return groups

    def _form(self, p: Pass) -> tuple:
        """Its seed; distance from the first, whether it is made, and the shot, of each cell of a pass."""
        make, first = set(p.make), p.cells[0]
        return p.seed, [(k - first, k in make, self.lattice.shot_of(k)) for k in p.cells]

    def redo(self, seeds: dict[int, int]) -> Plan:
        """The plan with other seeds for the passes of these numbers. Raises ValueError for a number that is not there."""
        for number in seeds:
            if not 0 <= number < len(self.passes):
                there = f"use 0 to {len(self.passes) - 1}" if self.passes else "there is nothing to make"
                raise ValueError(f"redo: there is no pass {number}: {there}")
        return replace(self, passes=tuple(replace(p, seed=seeds.get(i, p.seed)) for i, p in enumerate(self.passes)))


# -- which plan ----------------------------------------------------------------------------------------------------------------------


def window_of(header: ModelHeader, strides: Strides) -> int:
    """Cells of the longest clip that a model was trained on."""
    return strides.cells(1 + round(header.max_seconds * header.native_fps))


def kind_for(cells: int, window: int, foresight: bool) -> str:
    """The plan that suits a model: one pass while it fits, then what the model was trained for."""
    if cells <= window:
        return "single"
    return "foresight" if foresight else "rollout"


def make_plan(kind: str, lattice: Lattice, *, window: int, overlap: int = OVERLAP, distance: int = DISTANCE) -> Plan:
    """A plan of the named kind.

    Args:
        window: most cells of a window of a rollout. overlap: of them, how many were made before.
        distance: of sketched cells, for foresight.

    Raises:
        ValueError: an unknown kind, or a number out of its range.
    """
    if kind == "single":
        return single(lattice)
    if kind == "rollout":
        return rollout(lattice, window, overlap)
    if kind == "foresight":
        return foresight(lattice, distance)
    raise ValueError(f"plan {kind!r} is not known: use one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class PlanSettings:
    """What a user says of the plan: "auto" or a kind; `window` 0 is the model's; `seeds` of passes to make anew, (number, seed), which
    were numbered on a lattice whose shots begin at `starts`."""

    kind: str = "auto"
    window: int = 0
    overlap: int = OVERLAP
    distance: int = DISTANCE
    seeds: tuple[tuple[int, int], ...] = ()
    starts: tuple[float, ...] = ()

    def plan(self, lattice: Lattice, window: int, foresight: bool) -> Plan:
        """The plan for a lattice, on a model with a window of so many cells. Raises ValueError as make_plan and redo do."""
        window = self.window or window
        kind = kind_for(lattice.cells, window, foresight) if self.kind == "auto" else self.kind
        return make_plan(kind, lattice, window=window, overlap=self.overlap, distance=self.distance).redo(dict(self.seeds))


def single(lattice: Lattice) -> Plan:
    """Everything at once."""
    make = tuple(k for k in range(lattice.cells) if k not in lattice.known)
    return Plan("single", lattice, (Pass("whole", make, tuple(sorted(lattice.known))),) if make else ())


def rollout(lattice: Lattice, window: int, overlap: int = OVERLAP) -> Plan:
    """Windows from left to right; none crosses the border of a shot. Each sees what is given inside it and just behind it."""
    if window < 2:
        raise ValueError(f"window {window}: a rollout goes on from what is there, so its windows have 2 cells or more")
    if not 1 <= overlap < window:
        raise ValueError(f"overlap {overlap} does not fit a window of {window} cells: use 1 to {window - 1}")
    known, passes = lattice.known, []
    for run in lattice.runs:
        first = run.start
        while (first := next((k for k in range(first, run.stop) if k not in known), run.stop)) < run.stop:
            before = range(max(0, first - overlap), first)
            end, behind = _window(known, first, window - len(before), run.stop, overlap)
            make = tuple(k for k in range(first, end) if k not in known)
            given = (k for k in range(first, end) if k in known)
            passes.append(Pass("window", make, (*before, *given, *behind)))
            first = end
    return Plan("rollout", lattice, tuple(passes))


def _window(known: frozenset[int], first: int, room: int, stop: int, overlap: int) -> tuple[int, list[int]]:
    """The end of a window from cell `first` on, and what is given just behind it, which takes its place in the window's room."""
    for end in range(min(first + room, stop), first, -1):
        behind = list(itertools.takewhile(known.__contains__, range(end, end + overlap)))
        if end - first + len(behind) <= room:
            return end, behind
    return first + 1, behind[: room - 1]


def foresight(lattice: Lattice, distance: int = DISTANCE) -> Plan:
    """An opening where nothing is given; a sketch of every take, then every gap between sketched cells."""
    if distance < 1:
        raise ValueError(f"distance {distance} is too small: use 1 or more cells")
    first = range(min(OPENING, distance + 1, lattice.cells))
    opening = () if lattice.known else tuple(k for k in first if lattice.take_of(k) == lattice.take_of(0))
    begun = replace(lattice, known=lattice.known.union(opening))
    known, sketch = begun.known, sketched(begun, distance)
    takes = [list(cells) for _, cells in itertools.groupby(sketch, lattice.take_of)]
    sketches, gaps = [Pass("opening", opening)] if opening else [], []
    for take in takes:
        make = tuple(k for k in take if k not in known)
        references = spread(takes[0], REFERENCES) if take is not takes[0] else []
        if make:
            sketches.append(Pass("sketch", make, tuple(sorted({*outline(known, distance), *references}))))
        for i, (a, b) in enumerate(itertools.pairwise(take), start=1):
            if b - a > 1:
                gaps.append(Pass("gap", tuple(range(a + 1, b)), tuple(take[max(0, i - BESIDE) : i + BESIDE])))
    return Plan("foresight", lattice, tuple(sketches + gaps))


def sketched(lattice: Lattice, distance: int) -> list[int]:
    """The given cells, the first and last cell of each shot, and between them as many, evenly, that none is over `distance` away."""
    ends = {k for run in lattice.runs for k in (run[0], run[-1])}
    fixed = sorted(ends | lattice.known)
    cells = [fixed[0]]
    for a, b in itertools.pairwise(fixed):
        pieces = -(-(b - a) // distance)
        cells += [a + (b - a) * i // pieces for i in range(1, pieces + 1)]
    return cells


def outline(known: Iterable[int], distance: int) -> list[int]:
    """Of every run of given cells the BESIDE first and last ones, and between them some that are at most `distance` apart: what a sketch
    sees of a given video grows no faster than what it makes."""
    seen = []
    for run in unbroken(sorted(known)):
        inner = run[BESIDE:-BESIDE]
        seen += [*run[:BESIDE], *inner[distance - 1 :: distance], *(run[-BESIDE:] if inner else run[BESIDE:])]
    return seen


def spread(cells: list[int], count: int) -> list[int]:
    """At most `count` of the cells, evenly in time, the first and the last among them."""
    step = (cells[-1] - cells[0]) / (count - 1)
    return sorted({min(cells, key=lambda k: abs(k - cells[0] - i * step)) for i in range(count)})


# -- what a plan must be -------------------------------------------------------------------------------------------------------------


def check(plan: Plan) -> None:
    """Raises ValueError unless every cell is given or made once, and every pass sees only what is there and begins as a model knows it."""
    there = set(plan.lattice.known)
    for number, p in enumerate(plan.passes):
        where = f"pass {number} ({p.name})"
        if wrong := there.intersection(p.make):
            raise ValueError(f"{where} makes cell {min(wrong)}, which is there already")
        if missing := set(p.see) - there:
            raise ValueError(f"{where} sees cell {min(missing)}, which nothing before it has made")
        if p.cells[0] != 0 and p.cells[0] not in p.see:
            # Cell 0 holds one frame, every other one several: a pass must start with cell 0 or with a known cell.
            raise ValueError(f"{where} begins with cell {p.cells[0]}: the first cell of a pass must be cell 0 or known")
        there.update(p.make)
    if left := set(range(plan.lattice.cells)) - there:
        raise ValueError(f"no pass makes cell {min(left)}")


# -- for people ----------------------------------------------------------------------------------------------------------------------

MADE, SEEN, ABSENT = "#", "o", "."


def picture(plan: Plan, rows: int = 24) -> str:
    """The plan as text: a row a pass, a sign a cell (# made, o seen, . not there), at most so many rows.

    0 opening #####........
    1 sketch  oo.oo...#...#
    2 gap     ...oo###o...o
    3 gap     ....o...o###o
    """
    lines = list(itertools.islice(_rows(plan), rows))
    if len(plan.passes) > rows:
        lines.append(f"... and {len(plan.passes) - rows} more passes")
    return "\n".join(lines)


def _rows(plan: Plan) -> Iterator[str]:
    digits = len(str(len(plan.passes) - 1))
    width = max((len(p.name) for p in plan.passes), default=0)
    for number, p in enumerate(plan.passes):
        make, see = set(p.make), set(p.see)
        signs = "".join(MADE if k in make else SEEN if k in see else ABSENT for k in range(plan.lattice.cells))
        yield f"{number:>{digits}} {p.name:<{width}} {signs}" + (f"  seed {p.seed}" if p.seed is not None else "")


def summary(plan: Plan) -> str:
    """One line: kind, number of passes, size of the largest."""
    count = len(plan.passes)
    return f"{plan.kind}: {count} {'pass' if count == 1 else 'passes'}, at most {plan.largest} of {plan.lattice.cells} cells at once"


def spans(cells: Iterable[int]) -> str:
    """Cells in few words: 0-3, 8, 16-18."""
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in unbroken(cells))


def unbroken(cells: Iterable[int]) -> list[list[int]]:
    """Rising cells, parted where one is left out."""
    runs = itertools.groupby(enumerate(cells), key=lambda pair: pair[1] - pair[0])
    return [[cell for _, cell in run] for _, run in runs]
