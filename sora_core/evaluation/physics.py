"""How well a model foresees PhyWorld's scenes: where the balls of a video are, and how far that is from the truth.

Errors by three definitions, because the paper prints one and its code logs another:
    clip mean    |mean over the clip of v - v_true|: what the published numbers are
    per frame    mean |v - v_true|: the printed formula
    position     mean |x - x_true| over both axes, in units
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ..world.phyworld import FRAME_SECONDS, FRAMES, KINDS, WORLD, Clip, draw, sample
from .bench import SIZES, Bench
from .report import Row, mean_row

GIVEN = 3  # known frames; errors count from the next one on
DEFINITIONS = ("clip mean", "per frame", "position")
PUBLISHED = {"uniform": 0.0221, "collision": 0.0267, "parabola": 0.0509}  # DiT-S, 30K clips, in distribution (figure 3)


def parse(frames: Tensor, balls: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> [T, balls, 2] in units, y up: the mean place of a ball's pixels.

    A ball that is not there counts as gone to its side of the picture: a single or a blue one to the right, a red one of two to the left.
    """
    red, green, blue = frames.numpy().astype(int).transpose(3, 0, 1, 2)
    size = frames.shape[2]
    found = np.zeros((len(frames), balls, 2))
    for ball in range(balls):
        own, other = (red, blue) if ball == 0 else (blue, red)
        mask = (own > 127) & (green < 127) & (other < 127)
        before = np.array([0.0 if balls == 2 and ball == 0 else WORLD, WORLD / 2])
        for t, here in enumerate(mask):
            rows, columns = np.nonzero(here)
            if len(rows):
                centre = np.array([columns.mean() + 0.5, here.shape[0] - rows.mean() - 0.5]) / size * WORLD
                found[t, ball], before[1] = centre, centre[1]
            else:
                found[t, ball] = before
    return found


def errors(clip: Clip, frames: Tensor) -> dict[str, float]:
    """Of predicted frames uint8 [FRAMES, H, W, 3], by DEFINITIONS.

    Counted are frames from GIVEN on in which all balls are whole in view; of a collision those after it, and the x axis alone.
    """
    true, made = clip.paths, parse(frames, len(clip.radii))
    radii = np.array(clip.radii)[:, None]
    inside = ((true - radii >= 0) & (true + radii <= WORLD)).all((1, 2))
    rows = [t for t in range(GIVEN, FRAMES) if inside[t]]
    if clip.kind == "collision":
        speeds = np.diff(true[:, :, 0], axis=0) / FRAME_SECONDS
        turned = np.abs(np.diff(speeds, axis=0)).max(1) > 0.1
        rows = [t for t in rows if t > np.nonzero(turned)[0][-1]]
    axes = slice(0, 2) if clip.kind == "parabola" else slice(0, 1)
    wrong = (np.diff(made[rows], axis=0) - np.diff(true[rows], axis=0))[..., axes] / FRAME_SECONDS
    return {
        "clip mean": float(np.abs(wrong.mean(0)).sum(-1).mean()),
        "per frame": float(np.abs(wrong).sum(-1).mean()),
        "position": float(np.abs(made[rows] - true[rows]).mean()),
    }


def physics_rows(bench: Bench) -> Iterator[Row]:
    """PhyWorld: three known frames, no words, the rest foreseen. The reference begins with the floor: ground truth, drawn and parsed."""
    studio = bench.studio
    shape = studio.shape(*SIZES["1:1"], FRAMES, 1 / FRAME_SECONDS)
    for kind in KINDS:
        made, floor = [], []
        for seed in range(bench.budget.physics):
            clip = sample(kind, seed)
            frames = draw(clip, shape.width)
            given = [studio.encode(frames[t : t + 1]) for t in range(GIVEN)]
            foreseen = studio.video("", shape, seed, given[0], dict(enumerate(given[1:], 1)))[:FRAMES]
            made.append(errors(clip, foreseen))
            floor.append(errors(clip, frames))
            bench.say(f"{kind} {seed + 1}/{bench.budget.physics}")
        for definition in DEFINITIONS:
            lowest = np.mean([e[definition] for e in floor])
            published = f", DiT-S 30K {PUBLISHED[kind]}" if definition == "clip mean" else ""
            bar = f"<= {PUBLISHED[kind]}" if definition == "clip mean" else None
            yield mean_row(f"physics, {kind}: {definition}", [e[definition] for e in made], bar, f"floor {lowest:.4f}{published}")
