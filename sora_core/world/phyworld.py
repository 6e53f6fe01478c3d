"""PhyWorld's three scenes (Kang et al., arXiv 2411.02385): a ball flies on, two balls collide, a ball falls in a parabola.

A world of 10 x 10 units beside the other one, simulated in steps of 0.01 s of which every tenth is kept: 32 frames of 0.1 s. White ground,
ball 1 red, ball 2 blue, mass as the square of the radius, restitution 1, gravity -2.5 for the parabola only. Ranges are those of the
released code's in-distribution sets, and of the paper's outside of them. Pixels are drawn at their centres, (i + 0.5) / size: the released
code draws i / (size - 1) and parses i / size, and that alone is nearly all of the floor that it reports on ground truth.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WORLD, STEP, STRIDE, FRAMES = 10.0, 0.01, 10, 32
FRAME_SECONDS = STEP * STRIDE
MARGIN = 0.05 * WORLD  # kept free above and below
GRAVITY = -2.5
LEAST_IN_VIEW = 24  # frames, of a single ball
LEAST_AROUND_CONTACT = 8  # frames before it, and after
LEAST_SEEN_AFTER = 4  # frames with both balls whole in view
SLOWEST = 0.3  # units a second at which two balls meet
EDGE = 0.03  # soft edge of a ball, share of its squared radius
COLOURS = ((255.0, 0.0, 0.0), (0.0, 0.0, 255.0))
KINDS = ("uniform", "collision", "parabola")
OUTSIDE = {"radius": ((0.3, 0.6), (1.5, 2.0)), "speed": ((0.0, 0.8), (4.5, 6.0))}


@dataclass(frozen=True)
class Clip:
    """`paths` [FRAMES, balls, 2]: middles in units, y up; `radii` one a ball."""

    kind: str
    radii: tuple[float, ...]
    paths: np.ndarray


def sample(kind: str, seed: int, outside: bool = False) -> Clip:
    """A clip of one of KINDS, or with radii and speeds outside of what models are trained on; an unknown kind raises ValueError."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: use one of {', '.join(KINDS)}")
    rng = random.Random(f"phyworld-{kind}-{seed}" + "-outside" * outside)
    while True:
        radii, start, speeds = _collision(rng, outside) if kind == "collision" else _single(rng, kind, outside)
        paths, contact = simulate(radii, start, speeds, GRAVITY if kind == "parabola" else 0.0)
        clip = Clip(kind, radii, paths)
        if kind != "collision":
            return clip
        in_time = LEAST_AROUND_CONTACT <= contact <= FRAMES - LEAST_AROUND_CONTACT
        if in_time and (not outside or _measurable(clip, contact)):
            return clip


def _measurable(clip: Clip, contact: float) -> bool:
    """Fast balls are soon gone, and slow ones hardly turn."""
    first, second = clip.paths[1, :, 0] - clip.paths[0, :, 0]
    return whole(clip)[math.ceil(contact) + 1 :].sum() >= LEAST_SEEN_AFTER and first - second > SLOWEST * FRAME_SECONDS


def whole(clip: Clip) -> np.ndarray:
    """[FRAMES]: whether all balls are whole in view."""
    radii = np.array(clip.radii)[:, None]
    return ((clip.paths - radii >= 0) & (clip.paths + radii <= WORLD)).all((1, 2))


def _drawn(rng: random.Random, name: str, usual: tuple[float, float], outside: bool) -> float:
    """One of the usual ones, or of those outside, each as likely."""
    if outside:
        return rng.uniform(*rng.choices(OUTSIDE[name], [high - low for low, high in OUTSIDE[name]])[0])
    return rng.uniform(*usual)


def _single(rng: random.Random, kind: str, outside: bool) -> tuple[tuple[float, ...], list, list]:
    radius, speed = _drawn(rng, "radius", (0.7, 1.4), outside), _drawn(rng, "speed", (1.0, 4.0), outside)
    last = WORLD - LEAST_IN_VIEW * speed * FRAME_SECONDS - radius
    x = rng.uniform(radius, last if last > radius else radius + rng.uniform(0.0, 0.5))
    top = WORLD - MARGIN - radius
    y = rng.uniform(top - 1.0 if kind == "parabola" else radius + MARGIN, top)
    return (radius,), [(x, y)], [(speed, 0.0)]


def _collision(rng: random.Random, outside: bool) -> tuple[tuple[float, ...], list, list]:
    radii = tuple(_drawn(rng, "radius", (0.5, 1.5), outside) for _ in range(2))
    speeds = tuple(_drawn(rng, "speed", (1.0, 4.0), outside) for _ in range(2))
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
