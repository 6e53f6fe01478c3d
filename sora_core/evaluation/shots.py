"""Several shots in one video: is the cut where it was asked for, and is it the same character before and after it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from ..shapes import Strides
from ..world import Scene, caption, introduce, render, sample_shots
from .bench import SIZES, Bench
from .metrics import frame_differences
from .report import Row, share_row
from .tracking import seen_shape

FIRST_SEED = 9_300_000
CELLS, CUTS = 9, (3, 4, 5, 6)  # of a film, and at which of them the second shot begins, in turn
CUT_STEP, CUT_RATIO, AROUND = 0.03, 3.0, 6  # a cut: so large a step, so many times the median of so many steps on each side


def cuts_in(frames: Tensor) -> list[int]:
    """The frames with which something else begins: one step that is far larger than all around it."""
    steps = frame_differences(frames).tolist()
    found = []
    for i, step in enumerate(steps):
        near = steps[max(0, i - AROUND) : i] + steps[i + 1 : i + 1 + AROUND]
        if step >= CUT_STEP and step > max(near) and step >= CUT_RATIO * statistics.median(near):
            found.append(i + 1)
    return found


def same_characters(shots: list[Scene], parts: list[Tensor]) -> list[bool]:
    """Of every named character: whether what has its colour has its shape in all shots; `parts`: the frames of each, uint8 [T, H, W, 3]."""
    cast = [(body.colour, body.shape) for body in shots[0].objects if body.name]
    return [all(seen_shape(part, shot, colour) == shape for shot, part in zip(shots, parts)) for colour, shape in cast]


def render_shots(shots: list[Scene], lengths: list[int], fps: float, width: int, height: int) -> Tensor:
    """Renders of the shots, of so many frames each, one behind the other, each from its own second 0; uint8 [T, H, W, 3]."""
    return torch.cat([render(shot, [k / fps for k in range(n)], width, height) for shot, n in zip(shots, lengths, strict=True)])


def shot_rows(bench: Bench) -> Iterator[Row]:
    """Films of two shots with named characters; the reference is renders."""
    studio, fps = bench.studio, bench.studio.pipeline.header.native_fps
    shape = studio.shape(*SIZES["1:1"], Strides().frames(CELLS), fps)
    cuts, same, films = ([], []), ([], []), []  # of what was made, of renders; the film of each character
    for i in range(bench.budget.shots):
        seed, cell = FIRST_SEED + i, CUTS[i % len(CUTS)]
        cut = shape.strides.frames(cell)
        lengths = [cut, shape.frames - cut]
        shots = sample_shots(seed, 2, held_out=True)
        told = [caption(shot, "long", seed=seed, seconds=n / fps, introduced=True) for shot, n in zip(shots, lengths)]
        made = studio.video(introduce(shots, "en", seed), shape, seed, shots=dict(zip((0, cell), told)))
        for frames, at, kept in zip((made, render_shots(shots, lengths, fps, *SIZES["1:1"])), cuts, same):
            at.append(cuts_in(frames) == [cut])
            kept += same_characters(shots, [frames[:cut], frames[cut:]])
        films += [i] * (len(same[0]) - len(films))
        bench.say(f"film {i + 1}/{bench.budget.shots}")
    for name, (hits, true), of in (("cut at the frame asked for", cuts, None), ("same character in every shot", same, films)):
        yield share_row(f"shots: {name}", hits, None, sum(true) / len(true), of)
