"""What is drawn: every object of a scene as solid parts, with their places in every frame."""

from dataclasses import dataclass

import torch

from .motion import places_and_tips, spin
from .scene import Object, Scene
from .simulation import LAUNCHES
from .solids import profile

SURFACE = {  # display colours, as far apart as eight can be in any of the three lights
    "red": (0.90, 0.05, 0.07),
    "orange": (1.00, 0.50, 0.03),
    "yellow": (1.00, 0.90, 0.08),
    "green": (0.05, 0.62, 0.16),
    "blue": (0.08, 0.22, 0.92),
    "purple": (0.58, 0.12, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.13, 0.13, 0.14),
    "grey": (0.55, 0.56, 0.58),
    "brown": (0.50, 0.32, 0.20),
    "leaf": (0.16, 0.45, 0.12),
    "cream": (0.96, 0.90, 0.70),
    "brass": (0.45, 0.40, 0.32),
    "cover": (0.47, 0.50, 0.56),
}
GLOSS = {"ball": 0.55, "apple": 0.4, "cylinder": 0.06, "cone": 0.06, "cube": 0.03}
ROUND, BOX, TIPPED = 0, 1, 2  # kinds of parts
LIFT, COVER_SECONDS = 9.0, 1.1  # how high above the ground a cover waits, out of every picture, and how long it is on its way
AWAY = 1e3  # a cover that waits casts no shadow into the picture
BITE = (0.72, 0.22, 0.66, 0.66)  # middle on the unit ball, towards the camera; radius
BITE_SECONDS = SWITCH_SECONDS = 0.2
MARKED = ("roll left", "roll right", *LAUNCHES)


@dataclass(frozen=True)
class Part:
    """One solid. half: half extents of a box across and in depth, or the radius twice; base [T, 3]: middle of the underside; tip,
    spin, glow, bite: [T] or None; a spin shows as a band round a ball, a glow in 0..1 is light of its own, a bite in 0..1 is missing."""

    kind: int
    half: tuple[float, float]
    height: float
    outline: tuple[float, float, float]
    surface: str
    gloss: float
    base: torch.Tensor
    turn: float = 0.0
    tip: torch.Tensor | None = None
    spin: torch.Tensor | None = None
    glow: torch.Tensor | None = None
    bite: torch.Tensor | None = None


def parts(scene: Scene, times: torch.Tensor) -> list[Part]:
    """All solids of a scene at `times` [T] seconds: walls first, because they hide most."""
    found = []
    for wall in scene.walls:
        base = torch.tensor([wall.x, 0.0, wall.z], dtype=times.dtype).expand(len(times), 3)
        found.append(Part(BOX, (wall.width / 2, wall.thickness / 2), wall.height, (0.0, 0.0, 0.0), wall.colour, 0.0, base))
    place, tip = places_and_tips(scene, times)
    for i, body in enumerate(scene.objects):
        found += _body(body, place[:, i], tip[:, i], times)
    return found


def _body(body: Object, place: torch.Tensor, tip: torch.Tensor, times: torch.Tensor) -> list[Part]:
    made = _lamp(body, place, times) if body.shape == "lamp" else [_solid(body, place, tip, times)]
    if body.shape == "apple":
        made.append(_post(0.1 * body.radius, 0.5 * body.radius, place, 0.93 * body.height, "leaf"))
    if body.change == "cover":
        made.append(cover(body, place, times))
    return made


def _solid(body: Object, place: torch.Tensor, tip: torch.Tensor, times: torch.Tensor) -> Part:
    kind = BOX if body.shape == "cube" else ROUND
    more = {}
    if tip.any():
        kind, place = TIPPED, tipped_base(place, tip, body.radius)
        more["tip"] = tip
    if body.shape == "ball" and body.motion in MARKED:
        more["spin"] = spin(body, place)
    if body.change == "bite":
        more["bite"] = done(times, body.at, BITE_SECONDS)
    half = (body.radius, body.radius)
    return Part(kind, half, body.height, profile(body), body.colour, GLOSS[body.shape], place, body.turn, **more)


def tipped_base(place: torch.Tensor, tip: torch.Tensor, radius: float) -> torch.Tensor:
    """[T, 3]: where the middle of an underside is when the body turns by angles [T] about the edge of its foot."""
    side = torch.sign(tip) * radius
    return place + torch.stack((side * (1 - torch.cos(tip)), side * torch.sin(tip), torch.zeros_like(tip)), -1)


def done(times: torch.Tensor, at: float, seconds: float) -> torch.Tensor:
    """[T] in 0..1: how much of something that begins at second `at` and takes `seconds` is done."""
    share = ((times - at) / seconds).clamp(0.0, 1.0)
    return share * share * (3 - 2 * share)


def _post(radius: float, height: float, foot: torch.Tensor, above: float, surface: str, shape: str = "cylinder", **more) -> Part:
    """An upright round part whose underside is `above` the foot."""
    outline = {"cylinder": (radius**2, 0.0, 0.0), "ball": (0.0, 2 * radius, -1.0)}.get(shape)
    if outline is None:
        outline = (radius**2, -2 * radius**2 / height, (radius / height) ** 2)
    lifted = foot + torch.tensor([0.0, above, 0.0], dtype=foot.dtype)
    return Part(ROUND, (radius, radius), height, outline, surface, 0.1, lifted, **more)


def _lamp(body: Object, foot: torch.Tensor, times: torch.Tensor) -> list[Part]:
    """A foot, a pole, a bulb and a coloured shade; bulb and shade glow once it is switched on."""
    r, h = body.radius, body.height
    glow = done(times, body.at, SWITCH_SECONDS) if body.change == "switch on" else torch.zeros_like(times)
    return [
        _post(0.62 * r, 0.05 * h, foot, 0.0, "brass"),
        _post(0.1 * r, 0.62 * h, foot, 0.05 * h, "brass"),
        _post(0.3 * r, 0.6 * r, foot, 0.6 * h, "grey", "ball", glow=glow),
        _post(r, 0.36 * h, foot, 0.64 * h, body.colour, "cone", glow=0.55 * glow),
    ]


def covered(body: Object, times: torch.Tensor) -> torch.Tensor:
    """[T] in 0..1: 0 while the cover is out of the picture, 1 while it stands over the body."""
    if body.change != "cover":
        return torch.zeros_like(times)
    down = done(times, body.at, COVER_SECONDS)
    return down - done(times, body.until, COVER_SECONDS) if body.until else down


def cover(body: Object, foot: torch.Tensor, times: torch.Tensor) -> Part:
    """What comes down over a body that is to be covered."""
    over = covered(body, times)
    height = torch.where(over > 0.0, LIFT * (1.0 - over), AWAY)
    base = foot + torch.stack((torch.zeros_like(height), height, torch.zeros_like(height)), -1)
    radius, tall = cover_size(body)
    return Part(ROUND, (radius, radius), tall, (radius**2, 0.0, 0.0), "cover", 0.06, base)


def cover_size(body: Object) -> tuple[float, float]:
    """(radius, height) of the cover that a body gets."""
    return body.clearance + 0.1, body.height + 0.15
