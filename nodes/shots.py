"""What a CONDITIONING of this pack carries when its words change with time: one extra entry, `Shots`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..sora_core.canvas import Canvas
from ..sora_core.storyboard import ROUNDING
from .given import KEY


@dataclass(frozen=True)
class Shots:
    """The extra entry of a CONDITIONING whose words change with time.

    Args:
        rows: the words of each shot with those for all, [1, L, D].
        facts: what belongs to the rows of each shot: tensors that its text encoder gives beside them, such as an attention mask.
        starts: the second at which each begins; a cell that ends later than that belongs to it.
        cuts: whether it begins with a cut.
        pictures: an IMAGE or None for each shot, to be put on the canvas at its first frame; empty when there are none, or no more.
        seconds, fps: length of all shots, and the frames a second of which their borders were laid; 0 if nobody knows.
    """

    rows: tuple[Tensor, ...]
    facts: tuple[dict[str, Tensor], ...]
    starts: tuple[float, ...]
    cuts: tuple[bool, ...]
    pictures: tuple[Tensor | None, ...] = ()
    seconds: float = 0.0
    fps: float = 0.0


def shots_of(conditioning) -> Shots | None:
    """The Shots that a CONDITIONING carries; None if it is of plain words."""
    return next((extra[KEY] for _, extra in conditioning or () if KEY in extra), None)


def shots_in(rows: Tensor, extra: dict) -> Shots | None:
    """The Shots of an entry of CONDITIONING; None for one of plain words, or one whose rows the host's ConditioningZeroOut made zero.

    Raises:
        ValueError: other rows than those of the storyboard: the shots would not hear what a node has made of them.
    """
    shots = extra.get(KEY)
    if shots is None:
        return None
    first = shots.rows[0].to(rows)
    if rows.shape[1:] != first.shape[1:] or not rows.eq(first).all():
        if not rows.any():
            return None
        raise ValueError(
            "a node behind 'Sora Storyboard', such as ConditioningConcat or ConditioningAverage, has changed its words, which the shots "
            "would not hear: write them into the storyboard, or connect it directly"
        )
    return shots


def heard_in(rows: Tensor, extra: dict, shot: int) -> tuple[Tensor, dict]:
    """What a shot hears of an entry of CONDITIONING: rows, and what belongs to them. Plain words are the same for all shots, and a
    storyboard of fewer shots, such as another negative, ends with its last one."""
    shots, extra = shots_in(rows, extra), {name: value for name, value in extra.items() if name != KEY}
    if shots is None:
        return rows, extra
    others = {name: value for name, value in extra.items() if name not in shots.facts[0]}
    shot = min(shot, len(shots.rows) - 1)
    return shots.rows[shot], others | shots.facts[shot]


def disagreement(canvas: Canvas | None, shots: Shots | None) -> list[str]:
    """Where a storyboard and a canvas are not of one length or rate: sentences for the node."""
    if canvas is None or shots is None or not shots.fps:
        return []
    shape, (begin, end), said = canvas.shape, canvas.told, []
    if shape.fps != shots.fps:
        said.append(f"the storyboard is for {shots.fps:g} frames a second, the canvas has {shape.fps:g}: connect its fps to the canvas")
    if abs(end - begin - shots.seconds) > shape.strides.time / shape.fps + ROUNDING:
        what = "its end is not made" if shots.seconds > end - begin else "its last shot goes on to the end"
        said.append(f"the storyboard lasts {shots.seconds:g} s, what is made {end - begin:g} s: {what}; connect its seconds")
    return said


def has_pictures(conditioning) -> bool:
    """Whether a storyboard has pictures that are not yet on the canvas."""
    shots = shots_of(conditioning)
    return bool(shots and shots.pictures)
