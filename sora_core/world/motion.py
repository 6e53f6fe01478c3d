"""Where an object is at any second: closed formulas, so that any frame of any clip can be asked for alone.

A slide or an approach goes along a straight leg of `period` seconds, turns round and comes back, for ever: a minute stays in view. It
starts a little way into its first leg, so the first five seconds only ever go the way that the caption says.
"""

import math

import torch

from .scene import Object, Scene

LEG_START = 0.06  # share of the first leg that is already done at second 0: the turn is rounded, and a short clip should show speed
ROUNDING = 0.985  # 1 would turn round within an instant


def there_and_back(times: torch.Tensor, period: float) -> torch.Tensor:
    """[T] seconds -> [T] in -1..1: rises for one period, falls for the next, with a rounded turn."""
    return -torch.asin(ROUNDING * torch.cos(math.pi * (times / period + LEG_START))) / math.asin(ROUNDING)


def position(body: Object, times: torch.Tensor) -> torch.Tensor:
    """[T] seconds (float64) -> [T, 3], the middle of the object's underside."""
    x = torch.full_like(times, body.x)
    y = torch.zeros_like(times)
    z = torch.full_like(times, body.z)
    if body.motion in ("slide left", "slide right"):
        sign = 1.0 if body.motion == "slide right" else -1.0
        x = x + sign * body.reach / 2 * there_and_back(times, body.period)
    elif body.motion == "bounce":
        u = torch.frac(times / body.period + body.phase)
        y = 4 * body.reach * u * (1 - u)  # a parabola between two hits, as gravity makes it
    elif body.motion == "circle":
        angle = 2 * math.pi * (times / body.period + body.phase)
        x, z = x + body.reach * torch.cos(angle), z + body.reach * torch.sin(angle)
    elif body.motion == "come closer":
        z = z + body.reach / 2 * there_and_back(times, body.period)
    return torch.stack((x, y, z), dim=-1)  # (T, 3)


def positions(scene: Scene, times: torch.Tensor) -> torch.Tensor:
    """[T] seconds -> [T, K, 3] for the scene's K objects."""
    return torch.stack([position(body, times) for body in scene.objects], dim=1)


def cycle(body: Object, points: int) -> torch.Tensor:
    """[points, 3]: places that cover everything the object ever visits."""
    legs = 2.0 if body.motion in ("slide left", "slide right", "come closer") else 1.0
    if body.motion == "still":
        return position(body, torch.zeros(1, dtype=torch.float64))
    return position(body, torch.linspace(0.0, legs * body.period, points, dtype=torch.float64))
