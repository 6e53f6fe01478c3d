"""PhyWorld's three scenes (Kang et al., arXiv 2411.02385): a ball flies on, two balls collide, a ball falls in a parabola.

A world of 10 x 10 units, simulated in steps of 0.01 s of which every tenth is kept: 32 frames of 0.1 s. White ground, ball 1 red, ball 2
blue, mass as the square of the radius, restitution 1, gravity -2.5 for the parabola only. Ranges are those of the released code's
in-distribution sets. Pixels are drawn and parsed at their centres, (i + 0.5) / size: the released code draws i / (size - 1) and parses
i / size, and that alone is nearly all of the floor that it reports on ground truth.

Errors by three definitions, because the paper prints one and its code logs another:
    clip mean    |mean over the clip of v - v_true|: what the published numbers are
    per frame    mean |v - v_true|: the printed formula
    position     mean |x - x_true| over both axes, in units
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WORLD, STEP, STRIDE, FRAMES = 10.0, 0.01, 10, 32
FRAME_SECONDS = STEP * STRIDE
GIVEN = 3  # known frames; errors count from the next one on
MARGIN = 0.05 * WORLD  # kept free above and below
GRAVITY = -2.5
LEAST_IN_VIEW = 24  # frames, of a single ball
LEAST_AROUND_CONTACT = 8  # frames before it, and after
EDGE = 0.03  # soft edge of a ball, share of its squared radius
COLOURS = ((255.0, 0.0, 0.0), (0.0, 0.0, 255.0))
KINDS = ("uniform", "collision", "parabola")
DEFINITIONS = ("clip mean", "per frame", "position")
PUBLISHED = {"uniform": 0.0221, "collision": 0.0267, "parabola": 0.0509}  # DiT-S, 30K clips, in distribution (figure 3)


@dataclass(frozen=True)
class Clip:
    """`paths` [FRAMES, balls, 2]: middles in units, y up; `radii` one a ball."""

    kind: str
    radii: tuple[float, ...]
    paths: np.ndarray


def sample(kind: str, seed: int) -> Clip:
    """A clip of one of KINDS; an unknown kind raises ValueError."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: use one of {', '.join(KINDS)}")
    rng = random.Random(f"phyworld-{kind}-{seed}")
    while True:
        radii, start, speeds = _collision(rng) if kind == "collision" else _single(rng, kind)
        paths, contact = simulate(radii, start, speeds, GRAVITY if kind == "parabola" else 0.0)
        if kind != "collision" or LEAST_AROUND_CONTACT <= contact <= FRAMES - LEAST_AROUND_CONTACT:
            return Clip(kind, radii, paths)


def _single(rng: random.Random, kind: str) -> tuple[tuple[float, ...], list, list]:
    radius, speed = rng.uniform(0.7, 1.4), rng.uniform(1.0, 4.0)
    last = WORLD - LEAST_IN_VIEW * speed * FRAME_SECONDS - radius
    x = rng.uniform(radius, last if last > radius else radius + rng.uniform(0.0, 0.5))
    top = WORLD - MARGIN - radius
    y = rng.uniform(top - 1.0 if kind == "parabola" else radius + MARGIN, top)
    return (radius,), [(x, y)], [(speed, 0.0)]


def _collision(rng: random.Random) -> tuple[tuple[float, ...], list, list]:
    radii = rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    speeds = rng.uniform(1.0, 4.0), rng.uniform(1.0, 4.0)
    closing, touch = sum(speeds) * FRAME_SECONDS, sum(radii)
    least = LEAST_AROUND_CONTACT * closing + touch
    apart = rng.uniform(least, max(least, min((FRAMES - LEAST_AROUND_CONTACT) * closing + touch, WORLD - touch)))
    x = rng.uniform(radii[0], max(radii[0], WORLD - radii[1] - apart))
    largest = max(radii)
    y = rng.uniform(largest + MARGIN, WORLD - MARGIN - largest)
    return radii, [(x, y), (min(x + apart, WORLD - radii[1]), y)], [(speeds[0], 0.0), (-speeds[1], 0.0)]


def simulate(radii: tuple[float, ...], start: list, speeds: list, gravity: float) -> tuple[np.ndarray, float]:
    """(paths [FRAMES, balls, 2], frame of contact or infinity): semi-implicit Euler; balls that touch exchange momentum elastically."""
    x, v = np.array(start, dtype=float), np.array(speeds, dtype=float)
    mass = np.square(radii)
    kept, contact = [], float("inf")
    for step in range(STRIDE * FRAMES):
        if len(radii) == 2 and x[1, 0] - x[0, 0] <= sum(radii) and v[0, 0] > v[1, 0]:
            together = (mass @ v[:, 0]) / mass.sum()
            v[:, 0] = 2 * together - v[:, 0]
            contact = step / STRIDE
        v[:, 1] += gravity * STEP
        x = x + v * STEP
        if step % STRIDE == 0:
            kept.append(x)
    return np.stack(kept), contact


def draw(clip: Clip, size: int = 128) -> Tensor:
    """Frames uint8 [FRAMES, size, size, 3]."""
    at = (np.arange(size) + 0.5) / size * WORLD
    frames = np.full((FRAMES, size, size, 3), 255.0)
    for ball, (radius, colour) in enumerate(zip(clip.radii, COLOURS)):
        x, y = clip.paths[:, ball, 0, None, None], clip.paths[:, ball, 1, None, None]
        squared = (at[None, None, :] - x) ** 2 + (WORLD - at[None, :, None] - y) ** 2
        cover = np.clip((radius**2 - squared) / (radius**2 * EDGE), 0, 1)[..., None]
        frames = (1 - cover) * frames + cover * np.array(colour)
    return torch.from_numpy(frames.astype(np.uint8))


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
