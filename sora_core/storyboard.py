"""Storyboards: shots typed as plain text, and which cells belong to which.

    characters: Mo, a red ball. place: beach at sunset.
    [0-8 s] Mo rolls from left to right past a blue cube. camera follows.
    [8-14 s] cut. close-up of Mo bouncing twice.
    [14-20 s] cut. from above: Mo stops beside a white lamp; the lamp lights up.

What stands before the first bracket counts for all shots. A line that begins with a bracket begins a shot; its words go on to the next.
`cut.` in front of them is a hard cut, `continuous.` or neither goes on in the same take. Errors name line and column, from 1.

The same from fields: the words for all, and for each shot its length, its words and whether it begins with a cut (`listed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .config import UserError
from .plan import Lattice
from .shapes import MAX_SECONDS, Strides, frames_for_seconds
from .text import PromptError, encode_bytes

SECONDS = r"\s*(?:s|secs?|seconds?|秒)?\s*"
TIMES = re.compile(rf"(\d+(?:\.\d+)?){SECONDS}(?:[-–—−－~～]|to|到|至){SECONDS}(\d+(?:\.\d+)?){SECONDS}")
BRACKET = re.compile(rf"\[\s*{TIMES.pattern}\]")
# "cut. a ball", "hard cut: a ball", "- CUT - a ball", "cut to a ball", "cut" on a line of its own, "切 球", "切到海滩";
# but no cut flowers, and no cut-out
TRANSITION = re.compile(
    r"(?:[-–—]\s*)?(?:hard\s+|硬)?(cut|continuous|切|连续)"
    r"(?:\s+to(?:\s*:\s*|\s+)|\s*[.:,;!。：，；！、]\s*|\s+[-–—]\s+|(?<=切)(?:——|换?[到至])\s*|(?<=[切续])\s+|[^\S\n]*(?:\n|$))",
    re.IGNORECASE,
)
BRACKETS = str.maketrans("【】［］", "[][]")
CUTS = ("cut", "切")

ROUNDING = 1e-6
"""Of times in seconds: far below a frame, far above what binary fractions lose."""


class ScriptError(UserError):
    """What is wrong with a script, and where."""

    def __init__(self, line: int, column: int, says: str):
        super().__init__(f"line {line}, column {column}: {says}")
        self.line, self.column = line, column


@dataclass(frozen=True)
class Shot:
    """Seconds `start` to `end`, its own words, whether it begins with a cut, and the line of the script where it begins (0: no script)."""

    start: float
    end: float
    words: str
    cut: bool = False
    line: int = 0


@dataclass(frozen=True)
class Storyboard:
    """Words for all shots, and the shots, one after the other from second 0."""

    words: str
    shots: tuple[Shot, ...]

    @property
    def seconds(self) -> float:
        return self.shots[-1].end

    @property
    def texts(self) -> list[str]:
        """What each shot listens to: the words for all and its own."""
        return [f"{self.words} {shot.words}".strip() for shot in self.shots]


# -- reading -------------------------------------------------------------------------------------------------------------------------


def parse(script: str) -> Storyboard:
    """Reads a script. Raises ScriptError: the first thing that is wrong, with line and column."""
    words, shots = [], []
    for number, line in enumerate(script.removeprefix("\ufeff").translate(BRACKETS).splitlines(), start=1):
        text = line.strip()
        if hidden := BRACKET.search(line, len(line) - len(line.lstrip()) + 1):
            raise ScriptError(number, hidden.start() + 1, f"{hidden[0]} begins a shot: begin a line of its own with it")
        if text.startswith("["):
            shots.append(_shot(line, number, shots[-1] if shots else None))
        elif text and shots:
            shots[-1] = replace(shots[-1], words=f"{shots[-1].words}\n{text}")
        elif text:
            words.append(text)
    if not shots:
        last = max(1, len(script.splitlines()))
        raise ScriptError(last, 1, "there is no shot: begin a line with its seconds, such as [0-5 s] a red ball rolls")
    return _checked(Storyboard(" ".join(words), (_begun(shots[0], first=True), *map(_begun, shots[1:]))))


def listed(words: str, fields: Sequence[tuple[float, str, bool]]) -> Storyboard:
    """A storyboard from fields: the words for all shots; seconds, own words and whether it begins with a cut, for each shot.

    Raises:
        UserError: a shot without words or length, or too much of either. ScriptError: shots in the words for all.
    """
    for number, line in enumerate(words.translate(BRACKETS).splitlines(), start=1):
        if line.strip().startswith("["):
            raise ScriptError(
                number, line.index("[") + 1, "here a shot begins, but the shots have fields: leave only the words for all shots"
            )
    shots: list[Shot] = []
    for seconds, own, cut in fields:
        start = shots[-1].end if shots else 0.0
        shots.append(Shot(start, start + seconds, " ".join(own.split()), cut and bool(shots)))
        if not seconds > 0:
            raise UserError(f"shot {len(shots)}: {seconds:g} s are no length: use more than 0")
        if shots[-1].end > MAX_SECONDS + ROUNDING:
            raise UserError(f"shot {len(shots)} ends at {shots[-1].end:g} s: a video lasts at most {MAX_SECONDS:g}")
    return _checked(Storyboard(" ".join(words.split()), tuple(shots)))


def _checked(board: Storyboard) -> Storyboard:
    for number, shot in enumerate(board.shots, start=1):
        if not shot.words:
            raise _wrong(shot, number, "the shot has no words: say what it shows" + (" behind the bracket" if shot.line else ""))
    return board


def check_length(board: Storyboard) -> None:
    """For the text encoder of this pack; others have limits of their own.

    Raises:
        UserError: a shot whose words, with those for all, are too long; ScriptError if it is in a script.
    """
    for number, (shot, text) in enumerate(zip(board.shots, board.texts), start=1):
        try:
            encode_bytes(text)
        except PromptError as error:
            raise _wrong(shot, number, f"with the words for all, {error}") from error


def _wrong(shot: Shot, number: int, says: str) -> UserError:
    """What is wrong with a shot: where it stands in the script, or which one it is."""
    return ScriptError(shot.line, 1, says) if shot.line else UserError(f"shot {number}: {says}")


def _shot(line: str, number: int, before: Shot | None) -> Shot:
    open_at = line.index("[")
    close_at = line.find("]")
    if close_at < 0:
        raise ScriptError(number, open_at + 1, "the bracket is not closed: write the seconds as [0-5 s]")
    match = TIMES.fullmatch(line[open_at + 1 : close_at].strip())
    if match is None:
        raise ScriptError(number, open_at + 2, f"'{line[open_at + 1 : close_at].strip()}' are no seconds: write them as 0-5 s")
    start, end = map(float, match.groups())
    inner = len(line[open_at + 1 : close_at]) - len(line[open_at + 1 : close_at].lstrip())
    first, second = (open_at + 2 + inner + match.start(i) for i in (1, 2))
    expected = before.end if before else 0.0
    if abs(start - expected) > ROUNDING:
        why = "the shot before it ends there" if before else "the first shot begins there"
        raise ScriptError(number, first, f"the shot begins at {start:g} s: use {expected:g}, {why}")
    if end <= start:
        raise ScriptError(number, second, f"the shot ends at {end:g} s, not after it begins: use more than {start:g}")
    if end > MAX_SECONDS:
        raise ScriptError(number, second, f"the shot ends at {end:g} s: a video lasts at most {MAX_SECONDS:g}")
    return Shot(start, end, line[close_at + 1 :].strip(), line=number)


def _begun(shot: Shot, first: bool = False) -> Shot:
    """A shot without the transition in front of its words, which are one line."""
    words = shot.words.strip()
    transition = TRANSITION.match(words)
    cut = transition is not None and not first and transition[1].lower() in CUTS
    return replace(shot, words=" ".join(words[transition.end() if transition else 0 :].split()), cut=cut)


# -- on the lattice ------------------------------------------------------------------------------------------------------------------


def snap(board: Storyboard, fps: float, strides: Strides) -> Storyboard:
    """The storyboard with its borders where cells end, at frame s k; the last end rounded up, as a canvas does it.

    Raises:
        UserError: a shot that is left without a cell; ScriptError if it is in a script.
    """
    cell = strides.time / fps
    last = (frames_for_seconds(board.seconds, fps, strides) - 1) // strides.time
    borders = [0, *(round(shot.end / cell) for shot in board.shots[:-1]), last]
    for number, (shot, a, b) in enumerate(zip(board.shots, borders, borders[1:]), start=1):
        if b <= a:
            says = f"the shot from {shot.start:g} to {shot.end:g} s is shorter than one cell: use {cell:g} s or more, in steps of {cell:g}"
            raise _wrong(shot, number, says)
    snapped = (replace(shot, start=a * cell, end=b * cell) for shot, a, b in zip(board.shots, borders, borders[1:]))
    return replace(board, shots=tuple(snapped))


def first_frame(start: float, fps: float) -> int:
    """The first frame of a shot that starts at second `start`: the frame on a border is the last one of the shot before it."""
    return math.floor(start * fps + ROUNDING) + 1 if start else 0


def shots_at(seconds: Sequence[float], starts: Sequence[float]) -> list[int]:
    """The shot of each cell or guide, by the second at which it ends and those at which the shots start (the first: 0)."""
    return [max(0, sum(start < t - ROUNDING for start in starts) - 1) for t in seconds]


def takes_of(shots: Sequence[int], cuts: Sequence[bool]) -> list[int]:
    """The take of each cell: its number rises with every shot that begins with a cut."""
    return [sum(cuts[1 : shot + 1]) for shot in shots]


def lattice_of(seconds: Sequence[float], known: frozenset[int], starts: Sequence[float], cuts: Sequence[bool]) -> Lattice:
    """The cells that end at these seconds, with their shots and takes, for a plan."""
    shots = shots_at(seconds, starts)
    return Lattice(len(seconds), known, tuple(shots), tuple(takes_of(shots, cuts)))


def describe(board: Storyboard, fps: float) -> str:
    """A snapped storyboard for people: seconds and frames of each shot."""
    lines = []
    for i, shot in enumerate(board.shots):
        how = "" if i == 0 else "cut, " if shot.cut else "goes on, "
        lines.append(f"{shot.start:g}-{shot.end:g} s, {how}frames {first_frame(shot.start, fps)}-{round(shot.end * fps)}: {shot.words}")
    return "\n".join(lines)
