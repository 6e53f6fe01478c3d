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

from ..world.phyworld import FRAME_SECONDS, FRAMES, KINDS, WORLD, Clip, draw, sample, whole
from .bench import SIZES, Bench
from .report import Row, mean_row

GIVEN = 3  # known frames; errors count from the next one on
DEFINITIONS = ("clip mean", "per frame", "position")
PUBLISHED = {"uniform": 0.0221, "collision": 0.0267, "parabola": 0.0509}  # DiT-S, 30K clips, in distribution (figure 3)
OUTSIDE_PUBLISHED = {"uniform": 0.435, "collision": 0.187, "parabola": 0.306}  # the same, out of distribution


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
    inside = whole(clip)
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
    for kind in KINDS:
        for outside, name, published in ((False, kind, PUBLISHED), (True, f"{kind}, outside", OUTSIDE_PUBLISHED)):
            made, floor = zip(*(_foreseen(bench, kind, seed, outside) for seed in range(bench.budget.physics)), strict=True)
            for definition in DEFINITIONS:
                lowest, theirs = np.mean([e[definition] for e in floor]), definition == DEFINITIONS[0]
                reference = f"floor {lowest:.4f}" + f", DiT-S 30K {published[kind]}" * theirs
                bar = f"<= {published[kind]}" if theirs and not outside else None
                yield mean_row(f"physics, {name}: {definition}", [e[definition] for e in made], bar, reference)


def _foreseen(bench: Bench, kind: str, seed: int, outside: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Errors of what is foreseen of a clip, and of the clip itself."""
    studio = bench.studio
    shape, clip = studio.shape(*SIZES["1:1"], FRAMES, 1 / FRAME_SECONDS), sample(kind, seed, outside)
    frames = draw(clip, shape.width)
    given = [studio.encode(frames[t : t + 1]) for t in range(GIVEN)]
    foreseen = studio.video("", shape, seed, given[0], dict(enumerate(given[1:], 1)))[:FRAMES]
    bench.say(f"{kind} {seed + 1}/{bench.budget.physics}")
    return errors(clip, foreseen), errors(clip, frames)
