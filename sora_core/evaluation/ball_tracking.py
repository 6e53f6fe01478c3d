"""The speed of one ball, to a fraction of a pixel, from the frame in which its place is known: for verbs.py.

tracking.py finds all bodies of a scene in any video, by the world's colours, but only in a small picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

SEEN = 0.3  # of the ball's pixels in the known frame: with fewer it is gone
NOISE = 1e-4  # variance that is added to that of every colour, so that the last bit of a render decides nothing
REACH = 2.0  # radii: how far from its last place it is looked for


class BallTracker:
    """Pixels are told from the ground's by the linear discriminant (Fisher 1936) of one frame in which the ball's place is known.

    Args:
        frame: [H, W, 3] in 0..1.
        place, radius: of the ball in it, across and down in pixels.
    """

    def __init__(self, frame: Tensor, place: Tensor, radius: float):
        self.place, self.radius = place.double(), radius
        pixels, away = _features(frame), _distance(frame, self.place)
        ball, ground = pixels[away < 0.85 * radius], pixels[away > 1.2 * radius]
        spread = (ball.T.cov() + ground.T.cov()) / 2 + NOISE * torch.eye(pixels.shape[-1])
        self.axis = torch.linalg.solve(spread, ball.mean(0) - ground.mean(0))
        self.low, self.high = ground.mean(0) @ self.axis, ball.mean(0) @ self.axis
        self.mass = self._ball(frame, self.place).sum()

    def _ball(self, frame: Tensor, near: Tensor) -> Tensor:
        """[H, W]: how much of the ball is in each pixel, 0 to 1, near where it was seen last."""
        share = (_features(frame) @ self.axis - self.low) / (self.high - self.low)
        return ((share - 0.3) / 0.4).clamp(0, 1).double() * (_distance(frame, near) < REACH * self.radius)

    def path(self, frames: Tensor) -> Tensor:
        """[T, 2] places in frames that go on from the known one, in either direction of time; NaN once the ball is gone."""
        places, last = torch.full((len(frames), 2), torch.nan, dtype=torch.float64), self.place
        down, across = _axes(frames[0])
        for t, frame in enumerate(frames):
            ball = self._ball(frame, last)
            if ball.sum() < SEEN * self.mass:
                break
            last = places[t] = torch.stack([(ball * across).sum(), (ball * down).sum()]) / ball.sum()
        return places


def _features(frame: Tensor) -> Tensor:
    """[H, W, 6]: the colour, and the colour whatever the light."""
    return torch.cat([frame, frame / (frame.sum(-1, keepdim=True) + 0.05)], -1)


def _axes(frame: Tensor) -> tuple[Tensor, Tensor]:
    down, across = (torch.arange(n, dtype=torch.float64) for n in frame.shape[:2])
    return down[:, None], across


def _distance(frame: Tensor, place: Tensor) -> Tensor:
    down, across = _axes(frame)
    return torch.hypot(across - place[0], down - place[1])


def speed(path: Tensor) -> float:
    """Pixels a frame across, by least squares, of places [T, 2]; 0 for a ball that is gone for half of the time."""
    seen = path[:, 0].isfinite()
    if seen.sum() <= len(path) / 2:
        return 0.0
    times = torch.arange(len(path), dtype=torch.float64)[seen]
    times = times - times.mean()
    return float((times * path[seen, 0]).sum() / times.square().sum())


def change_of_speed(given: Tensor, made: Tensor, place: Tensor, radius: float) -> float:
    """|speed in made frames - speed in given ones| / speed in given ones; 1 if the ball stands or is gone.

    Each speed is that of frames of one kind: a step from a given to a made frame would hold what the codec does to the ball's edge.

    Args:
        given, made: frames [T, H, W, 3] in 0..1 on the two sides of a border, both in the order that leads away from it.
        place, radius: of the ball in given[0], in pixels.
    """
    tracker = BallTracker(given[0], place, radius)
    before, after = -speed(tracker.path(given)), speed(tracker.path(made))
    return abs(after - before) / max(abs(before), 1e-6)
