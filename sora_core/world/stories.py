"""Scenes in which something happens: one or two acts, a bystander, a camera that may change its movement."""

import random
from dataclasses import dataclass

import torch

from . import camera as cameras
from .events import events
from .layout import GAP, IN_VIEW
from .motion import places_and_tips
from .parts import COVER_SECONDS
from .scene import CAMERAS, COLOURS, PLACES, SHAPES, STORY_CAMERAS, TIMES_OF_DAY, WALLS, Camera, Object, Scene, Wall, is_held_out
from .sight import boxes, sight, wall_faces
from .simulation import LAUNCHES, takes_part

CLIP = 5.0  # seconds in which all that is wanted happens
FIRST, SECOND = (0.6, 1.3), (2.7, 3.3)  # when the first and the second act begin
TIMES = torch.cat((torch.arange(0.0, 8.0, 0.1, dtype=torch.float64), torch.arange(8.0, 60.0, 0.83, dtype=torch.float64)))
BITTEN = ("red", "green", "yellow")
SHADES = COLOURS[:-1]  # a black lamp is not seen at night
CAMERA_SHARE = 0.45  # of the scenes have a camera that moves


@dataclass
class Room:
    """Where one act takes place: `x` its middle, `half` its half width, `when` it begins; who and what has come so far, and what must
    happen."""

    rng: random.Random
    colours: list[str]
    x: float
    half: float
    when: float
    objects: list[Object]
    walls: list[Wall]
    wanted: list[str]
    cast: list[Object]  # characters who have yet to come; others are made up

    def shape(self) -> str:
        """Of who comes next."""
        return self.cast[0].shape if self.cast else self.rng.choice(SHAPES)

    def add(self, shape: str, dx: float, z: float, motion: str = "still", size: str | None = None, **more) -> Object:
        """The next character, or a body of the next colour, at `dx` half widths from the middle."""
        member = self.cast.pop(0) if self.cast and self.cast[0].shape == shape else None
        size = size or self.rng.choice(("small", "normal") if self.half < 2.0 else ("small", "normal", "normal", "large"))
        colour = self.colours.pop()
        if member:
            size, colour, more = member.size, member.colour, {**more, "name": member.name}
        fair = {"apple": BITTEN, "lamp": SHADES}.get(shape, COLOURS)
        if colour not in fair and not member:
            colour = next(c for c in self.colours if c in fair)
            self.colours.remove(colour)
        turn = 0.0 if shape == "cube" else self.rng.uniform(0.2, 1.37)
        numbers = {"x": self.x + dx * self.half, "z": z, "turn": turn, **more}
        numbers = {name: round(value, 3) if isinstance(value, float) else value for name, value in numbers.items()}
        body = Object(shape=shape, colour=colour, size=size, motion=motion, **numbers)
        self.objects.append(body)
        return body


def _behind(room: Room) -> None:
    """Somebody passes behind a wall and comes out on the other side."""
    rng, side = room.rng, room.rng.choice(("left", "right"))
    shape = room.shape()
    motion = ("roll " if shape == "ball" and rng.random() < 0.6 else "slide ") + side
    reach, period = rng.uniform(1.7, 1.95) * room.half, rng.uniform(4.6, 5.6)
    x, z, size = rng.uniform(-0.05, 0.05), rng.uniform(-2.0, -1.5), rng.choice(("small", "normal"))
    body = room.add(shape, x, z, motion, size, reach=reach, period=period)
    x, width = body.x + rng.uniform(-0.25, 0.25), 2.3 * body.clearance + rng.uniform(0.3, 0.7)
    room.walls.append(Wall(round(x, 3), -0.35, round(width, 3), round(body.height + 0.3, 3), rng.choice(WALLS)))
    room.wanted += ["hide", "appear"]


def _leave(room: Room) -> None:
    """Somebody goes out of the picture and comes back."""
    rng, side = room.rng, room.rng.choice(("left", "right"))
    way, reach = (1.0 if side == "right" else -1.0), rng.uniform(6.3, 6.9)
    start = -way * rng.uniform(0.0, 0.5)
    shape = room.shape()
    size, period = rng.choice(("small", "normal")), rng.uniform(2.1, 2.35)
    middle = (start + way * reach / 2) / room.half
    room.add(shape, middle, rng.uniform(-1.4, 0.2), f"leave {side}", size, reach=reach, period=period)
    room.wanted += [f"leave {side}", f"return {side}"]


def _cover(room: Room) -> None:
    rng = room.rng
    until = room.when + COVER_SECONDS + rng.uniform(0.5, 1.0) if room.when < 1.5 and rng.random() < 0.8 else 0.0
    room.add(room.shape(), rng.uniform(-0.3, 0.3), rng.uniform(-0.6, 0.9), change="cover", at=room.when, until=until)
    room.wanted += ["cover", "uncover"] if until else ["cover"]


def _lamp(room: Room) -> None:
    rng, size = room.rng, room.rng.choice(("normal", "large"))
    room.add("lamp", rng.uniform(-0.3, 0.3), rng.uniform(-0.8, 0.6), size=size, change="switch on", at=room.when)
    room.wanted.append("switch on")


def _bite(room: Room) -> None:
    rng, size = room.rng, room.rng.choice(("normal", "large"))
    room.add("apple", rng.uniform(-0.3, 0.3), rng.uniform(0.2, 1.2), size=size, change="bite", at=room.when)
    room.wanted.append("bite")


def _knock(room: Room) -> None:
    """A ball rolls into a cylinder, which falls over and stays down."""
    side, z = room.rng.choice(("left", "right")), room.rng.uniform(-0.8, 0.7)
    way = 1.0 if side == "right" else -1.0
    size = "normal" if room.half > 2.0 else "small"
    room.add("ball", -way * 0.74, z, f"launch {side}", size, begin=room.when - 0.4, speed=room.rng.uniform(2.6, 3.4))
    room.add("cylinder", way * room.rng.uniform(0.02, 0.12), z, size=size)
    room.wanted.append("knock over")


def _push(room: Room) -> None:
    """A ball rolls into a cube or a cone and pushes it along."""
    side, z = room.rng.choice(("left", "right")), room.rng.uniform(-0.8, 0.7)
    way = 1.0 if side == "right" else -1.0
    size = "normal" if room.half > 2.0 else "small"
    room.add("ball", -way * 0.74, z, f"launch {side}", size, begin=room.when - 0.4, speed=room.rng.uniform(2.2, 3.0))
    room.add(room.rng.choice(("cube", "cube", "cone")), way * room.rng.uniform(0.0, 0.1), z, size=room.rng.choice(("small", size)))
    room.wanted.append("push")


def _collide(room: Room) -> None:
    """Two balls roll into each other and bounce apart."""
    z, begin = room.rng.uniform(-0.8, 0.7), room.when - 0.4
    for way, side in ((-1.0, "right"), (1.0, "left")):
        start, speed = way * (0.74 if room.half > 2.0 else 0.9), room.rng.uniform(1.5, 1.8)
        room.add("ball", start, z, f"launch {side}", begin=begin, speed=speed)
    room.wanted.append("collide")


def _fall(room: Room) -> None:
    """Somebody falls from above, bounces and comes to rest."""
    shape = room.rng.choice(("ball", "ball", "cube"))
    room.add(shape, room.rng.uniform(-0.3, 0.3), room.rng.uniform(-0.8, 0.8), "fall", begin=max(0.3, room.when - 0.5), reach=9.0)
    room.wanted.append("fall")


WIDE = {"behind": _behind, "leave": _leave}  # need the whole width; what else happens, happens in front
NARROW = {"cover": _cover, "lamp": _lamp, "bite": _bite, "knock over": _knock, "push": _push, "collide": _collide, "fall": _fall}
ACTS = tuple(WIDE | NARROW)
WEIGHTS = {"behind": 3, "leave": 2, "cover": 2, "push": 2, "collide": 2}  # hiding matters most, and the last two seldom find room


def sample_story(seed: int, acts: tuple[str, ...] | None = None, held_out: bool | None = None, cast: tuple[Object, ...] = ()) -> Scene:
    """A scene of stage S3 from a seed, with one or two of `acts` (default any of ACTS). held_out as in `sample_scene`.

    cast: characters, of whom only shape, colour, size and name count, in the order in which the acts take them; with one act of
    behind, leave or cover all of them come, and nobody else.
    """
    for act in acts or ():
        if act not in ACTS:
            raise ValueError(f"act={act!r} is not known to the world: use one of {', '.join(ACTS)}.")
    rng = random.Random(f"story-{seed}")
    while True:
        chosen, kind, then = _choose(rng, acts or ACTS), *_movements(rng)
        for _ in range(30):  # several arrangements before other acts, or the hard ones would be rare
            scene, wanted = _arrange(rng, chosen, kind, then, seed, cast)
            if (held_out is None or is_held_out(scene) == held_out) and _fits(scene, wanted):
                return scene


def _choose(rng: random.Random, acts: tuple[str, ...]) -> list[str]:
    first = rng.choices(acts, [WEIGHTS.get(act, 1) for act in acts])[0]
    others = [act for act in acts if act not in WIDE and act != first]
    if not others or rng.random() < 0.3:
        return [first]
    return [first, rng.choice(others)] if first in WIDE or rng.random() < 0.5 else [rng.choice(others), first]


def _movements(rng: random.Random) -> tuple[str, str]:
    """(first movement of the camera, second one or "")."""
    kinds = (*CAMERAS[1:], *STORY_CAMERAS)
    kind = rng.choice(kinds) if rng.random() < CAMERA_SHARE else "static"
    return kind, rng.choice([k for k in ("static", *kinds) if k not in (kind, "follow")]) if rng.random() < 0.25 else ""


def _arrange(
    rng: random.Random, acts: list[str], kind: str, then: str, seed: int, cast: tuple[Object, ...] = ()
) -> tuple[Scene, list[str]]:
    taken = {member.colour for member in cast}
    colours = [c for c in rng.sample(COLOURS, len(COLOURS)) if c not in taken]
    waiting = list(cast)
    objects: list[Object] = []
    walls: list[Wall] = []
    wanted: list[str] = []
    sides = [-1.0, 1.0]
    rng.shuffle(sides)
    two = len(acts) == 2 and acts[0] not in WIDE
    for k, act in enumerate(acts):
        wide = not two and k == 0
        when = rng.uniform(*(FIRST if k == 0 else SECOND)) if len(acts) == 2 else rng.uniform(0.6, 1.7)
        if acts[0] in WIDE and k == 1:
            when = rng.uniform(*rng.choice((FIRST, SECOND)))
        room = Room(rng, colours, 0.0 if wide else sides[k] * 1.35, 2.5 if wide else 1.2, when, objects, walls, wanted, waiting)
        (WIDE | NARROW)[act](room)
    while waiting or (not cast and len(objects) < 3 and rng.random() < 0.3):  # who stands by
        room = Room(rng, colours, rng.uniform(-2.2, 2.2), 1.0, 0.0, objects, walls, wanted, waiting)
        room.add(room.shape(), 0.0, rng.choice((rng.uniform(-2.4, -1.6), rng.uniform(0.8, 1.5))), size="small")
    movers = [i for i, body in enumerate(objects) if body.motion.startswith(("slide", "roll", "launch"))]
    if kind == "follow" and not movers:
        kind = "pan"
    view = Camera(
        kind=kind,
        height=round(rng.uniform(2.0, 2.8), 3),
        azimuth=round(rng.uniform(-0.12, 0.12), 3),
        sense=rng.choice((-1, 1)),
        period=round(rng.uniform(6.2, 7.2), 3),
        target=movers[0] if movers else 0,
        then=then if then != kind else "",
        change_at=round(rng.uniform(2.0, 3.0), 3) if then else 0.0,
    )
    light, texture = round(rng.choice((-1, 1)) * rng.uniform(0.7, 1.15), 3), round(rng.uniform(0.0, 20.0), 3)
    return Scene(tuple(objects), rng.choice(PLACES), rng.choice(TIMES_OF_DAY), view, light, texture, seed, tuple(walls)), wanted


def _fits(scene: Scene, wanted: list[str]) -> bool:
    """True when nothing runs through anything else, all is seen that should be, and what is wanted happens in a clip."""
    return _room_at_start(scene) and _apart(scene) and _seen(scene) and _happens(scene, wanted)


def _room_at_start(scene: Scene) -> bool:
    """A quick look before anything is simulated."""
    spots = [(o.x, o.z, _footprint(o)) for o in scene.objects if not o.motion.startswith("leave")]
    for i, (x, z, r) in enumerate(spots):
        if abs(x) + r > IN_VIEW * (cameras.DISTANCE - z) and scene.camera.kind != "follow":
            return False
        if any((x - u) ** 2 + (z - w) ** 2 < (r + q + GAP) ** 2 for u, w, q in spots[:i]):
            return False
    return True


def _footprint(body: Object) -> float:
    """Radius of the ground that a body needs, with room for a cover if it gets one."""
    return body.clearance + (0.2 if body.change == "cover" else 0.0)


def _apart(scene: Scene) -> bool:
    place, tip = places_and_tips(scene, TIMES)
    place, lies = place[..., ::2], tip[-1].abs() > 1.0  # T K 2, K
    bodies = scene.objects
    for i, a in enumerate(bodies):
        for b, other in zip(range(i), bodies, strict=False):
            if takes_part(a) and takes_part(other) and any(o.motion in LAUNCHES for o in (a, other)):
                if abs(a.z - other.z) < 0.01 or abs(a.z - other.z) > a.clearance + other.clearance + GAP:
                    continue  # physics keeps them apart
                return False
            if (place[:, i] - place[:, b]).norm(dim=-1).min().item() < _footprint(a) + _footprint(other) + GAP:
                return False
        for wall in scene.walls:
            away = (place[:, i, 1] - wall.z).abs() - wall.thickness / 2 - a.clearance
            beside = (place[:, i, 0] - wall.x).abs() - wall.width / 2 - a.clearance
            if torch.maximum(away, beside).min().item() < GAP:
                return False
    for i in lies.nonzero()[:, 0].tolist():  # where it lies is not where it stood
        a, half = bodies[i], bodies[i].height / 2
        x = place[-1, i, 0] + tip[-1, i].sign() * (a.radius + half)
        for wall in scene.walls:
            if abs(x - wall.x) < half + wall.width / 2 + GAP and abs(a.z - wall.z) < a.radius + wall.thickness / 2 + GAP:
                return False
        for b, other in enumerate(bodies):
            away = torch.maximum((place[:, b, 0] - x).abs() - half, (place[:, b, 1] - a.z).abs() - a.radius).min().item()
            if not takes_part(other) and away < _footprint(other) + GAP:
                return False
    return True


def _seen(scene: Scene) -> bool:
    """Everybody is in the picture at the start and apart there; who does not leave, fall or get left behind stays in it."""
    box, _ = boxes(scene, TIMES)
    limit = torch.tensor([-IN_VIEW, IN_VIEW, -IN_VIEW, IN_VIEW], dtype=box.dtype)
    inside = ((box[..., ::2] > limit[::2]) & (box[..., 1::2] < limit[1::2])).all(-1)  # T K
    follows = scene.camera.kind == "follow"
    for i, body in enumerate(scene.objects):
        if body.motion == "fall":
            if not inside[-1, i]:
                return False
        elif not inside[0, i] or (not body.motion.startswith("leave") and not follows and not inside[:, i].all()):
            return False
        for j in range(i):
            if "fall" not in (body.motion, scene.objects[j].motion):
                overlap = min(box[0, i, 1], box[0, j, 1]) - max(box[0, i, 0], box[0, j, 0])
                if overlap > 0.25 * min(box[0, i, 1] - box[0, i, 0], box[0, j, 1] - box[0, j, 0]):
                    return False
    if not scene.walls:
        return True
    outer, _, _ = wall_faces(scene, TIMES)
    stays = bool(((outer[..., ::2] > limit[::2]) & (outer[..., 1::2] < limit[1::2])).all())
    return (stays or follows) and bool(sight(scene, TIMES[:1]).free.all())


def _happens(scene: Scene, wanted: list[str]) -> bool:
    told = [event.kind for event in events(scene, 0.0, CLIP)]
    if any(kind not in told for kind in wanted):
        return False
    if scene.camera.kind != "follow":
        return True
    path = cameras.pose(scene.camera, TIMES[:50], scene).eye[:, 0]
    return (path[-1] - path[0]).abs().item() > 1.5
