"""Where an object is at any second: closed formulas, so that any frame of any clip can be asked for alone; only what is launched or
falls, and what it may hit, is simulated.

A slide or an approach goes along a straight leg of `period` seconds, turns round and comes back, for ever: a minute stays in view. It
starts a little way into its first leg, so the first five seconds only ever go the way that the caption says.
"""

import math

import torch

from .scene import Object, Scene
from .simulation import DYNAMIC, Trace, simulate, takes_part

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
    if body.motion.startswith(("slide", "roll", "leave")):
        sign = 1.0 if body.motion.endswith("right") else -1.0
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
    return places_and_tips(scene, times)[0]


def places_and_tips(scene: Scene, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T] seconds -> (middles of the undersides [T, K, 3], angles from upright [T, K], positive towards +x)."""
    place = torch.stack([position(body, times) for body in scene.objects], dim=1)
    tip = torch.zeros(place.shape[:2], dtype=place.dtype)
    part, trace = physics(scene)
    if trace is not None:
        place[:, part], tip[:, part] = trace.at(times)
    return place, tip


def physics(scene: Scene) -> tuple[list[int], Trace | None]:
    """(the objects that take part in a simulation, its Trace); no Trace when nothing is launched or falls."""
    part = [i for i, body in enumerate(scene.objects) if takes_part(body)]
    if not any(body.motion in DYNAMIC for body in scene.objects):
        return part, None
    return part, simulate(tuple(scene.objects[i] for i in part))


def spin(body: Object, path: torch.Tensor) -> torch.Tensor:
    """[T, 3] -> [T]: how far a ball has turned about the axis of sight when it rolled to these places, clockwise negative."""
    return body.turn - path[:, 0] / body.radius


def cycle(body: Object, points: int) -> torch.Tensor:
    """[points, 3]: places that cover everything that an object with one of MOTIONS ever visits."""
    legs = 2.0 if body.motion.startswith(("slide", "roll", "leave", "come")) else 1.0
    if body.motion == "still":
        return position(body, torch.zeros(1, dtype=torch.float64))
    return position(body, torch.linspace(0.0, legs * body.period, points, dtype=torch.float64))
