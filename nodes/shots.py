"""What a CONDITIONING of this pack carries when its words change with time: one extra entry, `Shots`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
    """

    rows: tuple[Tensor, ...]
    facts: tuple[dict[str, Tensor], ...]
    starts: tuple[float, ...]
    cuts: tuple[bool, ...]
    pictures: tuple[Tensor | None, ...] = ()


def shots_of(conditioning) -> Shots | None:
    """The Shots that a CONDITIONING carries; None if it is of plain words."""
    return next((extra[KEY] for _, extra in conditioning or () if KEY in extra), None)


def shots_in(rows: Tensor, extra: dict) -> Shots | None:
    """The Shots of an entry of CONDITIONING; None for one of plain words, or one whose rows the host's ConditioningZeroOut made zero."""
    shots = extra.get(KEY)
    zeroed = shots is not None and not rows.any() and shots.rows[0].any()  # a first shot without words is zero by itself
    return None if zeroed else shots


def heard_in(rows: Tensor, extra: dict, shot: int) -> tuple[Tensor, dict]:
    """What a shot hears of an entry of CONDITIONING: rows, and what belongs to them. Plain words are the same for all shots, and a
    storyboard of fewer shots, such as another negative, ends with its last one."""
    shots, extra = shots_in(rows, extra), {name: value for name, value in extra.items() if name != KEY}
    if shots is None:
        return rows, extra
    others = {name: value for name, value in extra.items() if name not in shots.facts[0]}
    shot = min(shot, len(shots.rows) - 1)
    return shots.rows[shot], others | shots.facts[shot]


def has_pictures(conditioning) -> bool:
    """Whether a storyboard has pictures that are not yet on the canvas."""
    shots = shots_of(conditioning)
    return bool(shots and shots.pictures)
