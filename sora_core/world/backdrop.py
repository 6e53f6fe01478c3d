"""What is there without the objects: the light of a time of day, and the ground and background of a place.

Colours are linear (display value squared). Patterns are sums of a few sines, at least a unit long, and fade with distance: a small
autoencoder can reproduce them and they do not flicker.
"""

import math
from dataclasses import dataclass

import torch

from .scene import Scene


def linear(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """Display colour in 0..1 -> linear light; the picture's curve is a square root."""
    return red * red, green * green, blue * blue


@dataclass(frozen=True)
class Light:
    """elevation in radians; linear colours: direct light, light from all sides, sky above and at the horizon. ground: what the ground
    gives back of it; below 1 the bodies stand out, so that their colours are told apart at night."""

    elevation: float
    direct: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ground: float = 1.0


LIGHTS = {
    "day": Light(0.85, (0.80, 0.76, 0.68), (0.33, 0.36, 0.40), linear(0.16, 0.45, 0.88), linear(0.72, 0.88, 0.98)),
    "sunset": Light(0.50, (0.88, 0.62, 0.36), (0.35, 0.28, 0.29), linear(0.38, 0.24, 0.50), linear(1.0, 0.58, 0.22)),
    "night": Light(0.75, (0.54, 0.56, 0.66), (0.15, 0.165, 0.23), linear(0.02, 0.03, 0.11), linear(0.10, 0.15, 0.33), 0.5),
}

ALBEDO = {  # two tones of the ground
    "meadow": (linear(0.32, 0.58, 0.20), linear(0.45, 0.68, 0.26)),
    "beach": (linear(0.86, 0.74, 0.52), linear(0.94, 0.84, 0.63)),
    "snow": (linear(0.84, 0.88, 0.95), linear(0.94, 0.95, 0.97)),
    "room": (linear(0.50, 0.31, 0.17), linear(0.64, 0.42, 0.24)),
}
FAR = {  # what stands behind: hills, sea, mountains, wall
    "meadow": linear(0.25, 0.46, 0.27),
    "beach": linear(0.10, 0.46, 0.62),
    "snow": linear(0.55, 0.64, 0.78),
    "room": linear(0.80, 0.72, 0.60),
}
SHORE_Z, WALL_Z = -6.8, -6.0
WINDOW = (4.2, 1.15, 1.15, 2.9)  # distance between windows, half width, sill and lintel heights
FOG_DISTANCE = 45.0
DOWN = -1e-4  # slope of a ray that meets the ground

Planes = list[torch.Tensor]  # three colour planes


def light_direction(scene: Scene) -> tuple[float, float, float]:
    """Unit vector towards the sun or moon: from the side, a little behind the camera, so that faces are lit and shadows are long."""
    elevation = LIGHTS[scene.time_of_day].elevation
    level = math.cos(elevation)
    return level * math.sin(scene.light), math.sin(elevation), level * math.cos(scene.light)


def ground_light(light: Light) -> tuple[Planes, Planes]:
    """(light that level ground gives back in the open, share of it that a shadow takes away), three floats each."""
    direct = [c * math.sin(light.elevation) for c in light.direct]
    total = [a + d for a, d in zip(light.ambient, direct, strict=True)]
    return [light.ground * t for t in total], [d / t for d, t in zip(direct, total, strict=True)]


def to_ground(height: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """How many times a ray of slope `dy` goes from a height to the ground; far where it never does."""
    return torch.where(dy < DOWN, height / (-dy).clamp_min(-DOWN), 1e4)


def to_wall(z: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """How many times a ray goes from z to a room's wall."""
    return (WALL_Z - z) / dz.clamp_max(-1e-4)


def paint(scene: Scene, eye: torch.Tensor, rays: Planes) -> Planes:
    """eye [n, 3], rays three planes [n, h, w] (not normalised) -> three planes of linear light, without objects or shadows."""
    light = LIGHTS[scene.time_of_day]
    dx, dy, dz = rays
    ex, ey, ez = (eye[:, i, None, None] for i in range(3))
    level = torch.sqrt(dx * dx + dz * dz)
    rise = dy / level
    down = dy < DOWN
    distance = to_ground(ey, dy)
    gx, gz = ex + distance * dx, ez + distance * dz
    sky = _sky(scene, light, rise, dx / level)
    ground = _ground(scene, light, gx, gz, distance)
    if scene.place == "room":
        reach = to_wall(ez, dz)
        wall = _wall(scene, light, ex + reach * dx, ey + reach * dy, sky)
        behind = gz < WALL_Z
        return [torch.where(behind, w, g) for w, g in zip(wall, ground, strict=True)]
    fog = (distance / FOG_DISTANCE).square_().neg_().exp_()
    return [torch.where(down, h + (g - h) * fog, s) for h, g, s in zip(_haze(scene, light), ground, sky, strict=True)]


def _mix(a: tuple, b: tuple, share: torch.Tensor) -> Planes:
    return [x + (y - x) * share for x, y in zip(a, b, strict=True)]


def _haze(scene: Scene, light: Light) -> tuple[float, ...]:
    """What the ground fades to far away."""
    lit = [light.ground * f * (a + 0.5 * d) for f, a, d in zip(FAR[scene.place], light.ambient, light.direct, strict=True)]
    return tuple(0.6 * x + 0.4 * h for x, h in zip(lit, light.horizon, strict=True))


def _sky(scene: Scene, light: Light, rise: torch.Tensor, side: torch.Tensor) -> Planes:
    """rise: tangent of the ray's elevation; side: sine of its azimuth."""
    height = (rise.clamp_min(0.0) * 2.2).clamp_max(1.0).sqrt()
    sky = _mix(light.horizon, light.zenith, height)
    if scene.place == "beach":
        return sky  # the sea ends in a straight horizon
    shift = scene.texture
    if scene.place == "meadow":
        ridge = 0.035 + 0.02 * torch.sin(5.0 * side + shift) + 0.012 * torch.sin(11.0 * side + 2.0 * shift)
    else:
        ridge = 0.075 + 0.055 * torch.sin(6.0 * side + shift) * torch.sin(2.7 * side + 1.3 * shift) + 0.02 * torch.sin(17.0 * side)
    solid = ((ridge - rise) * 150.0).clamp_(0.0, 1.0)  # a soft edge of about a pixel
    haze = _haze(scene, light)
    return [s + (h - s) * solid for s, h in zip(sky, haze, strict=True)]


def _ground(scene: Scene, light: Light, gx: torch.Tensor, gz: torch.Tensor, distance: torch.Tensor) -> Planes:
    shift = scene.texture
    fade = 1.0 / (1.0 + (distance * (1 / 16.0)) ** 2)
    lit, _ = ground_light(light)
    dark, bright = ([c * t for c, t in zip(tone, lit, strict=True)] for tone in ALBEDO[scene.place])
    if scene.place == "room":
        planks = torch.sin(gx * 3.4 + shift) * 2.2  # long boards that run away from the viewer
        pattern = 0.5 + 0.5 * planks.clamp_(-1.0, 1.0) * fade
        return _mix(dark, bright, pattern)
    pattern = torch.sin(1.3 * gx + 0.5 * gz + shift) + torch.sin(0.7 * gz - 1.1 * gx + 2 * shift) + torch.sin(2.1 * gz + 0.4 * gx)
    ground = _mix(dark, bright, 0.5 + 0.16 * pattern * fade)
    if scene.place != "beach":
        return ground
    offshore = SHORE_Z + 0.35 * torch.sin(0.6 * gx + shift) - gz
    sea = _mix(*_sea(light), (0.08 * offshore).clamp(0.0, 1.0))
    foam = (1.0 - (offshore - 0.25).abs() * 2.5).clamp_(0.0, 1.0)
    water = (offshore * 4.0).clamp(0.0, 1.0)
    white = [0.85 * t for t in lit]
    out = [g + (s - g) * water for g, s in zip(ground, sea, strict=True)]
    return [o + (w - o) * foam for o, w in zip(out, white, strict=True)]


def _sea(light: Light) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Water near the shore and far out, with some of the sky's light in it."""
    lit, _ = ground_light(light)
    near = tuple(0.8 * f * t + 0.12 * h for f, t, h in zip(linear(0.25, 0.68, 0.74), lit, light.horizon, strict=True))
    far = tuple(0.7 * f * t + 0.22 * h for f, t, h in zip(FAR["beach"], lit, light.horizon, strict=True))
    return near, far


def _wall(scene: Scene, light: Light, wx: torch.Tensor, wy: torch.Tensor, sky: Planes) -> Planes:
    """A plain wall with a row of windows on the sky outside, and a skirting board."""
    step, half, sill, lintel = WINDOW
    wall = [light.ground * f * (0.85 * a + 0.32 * d) for f, a, d in zip(FAR["room"], light.ambient, light.direct, strict=True)]
    across = torch.remainder(wx + scene.texture, step) - step / 2
    inside = torch.minimum(half - across.abs(), torch.minimum(wy - sill, lintel - wy))
    pane = (inside * 12.0).clamp(0.0, 1.0)
    frame = ((inside + 0.16) * 12.0).clamp_(0.0, 1.0)
    board = ((0.35 - wy) * 12.0).clamp_(0.0, 1.0)
    trim = [light.ground * (0.9 * a + 0.35 * d) for a, d in zip(light.ambient, light.direct, strict=True)]
    share = torch.maximum(frame, board)
    framed = [w + (t - w) * share for w, t in zip(wall, trim, strict=True)]
    return [f + (s - f) * pane for f, s in zip(framed, sky, strict=True)]
