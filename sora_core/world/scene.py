"""Scenes as data: who is there, how it moves, where, when, and how the camera moves.

A scene is a small frozen tree, the same for the same seed, JSON in and out. Lengths are in world units (a normal ball is 1.4 tall),
times in seconds, angles in radians; x points right, y up, z towards the camera's side of the world; the ground is y = 0.
"""

import json
import random
from dataclasses import asdict, dataclass, replace

SHAPES = ("ball", "cube", "cylinder", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "normal", "large")
MOTIONS = ("still", "slide left", "slide right", "bounce", "circle", "come closer")
PLACES = ("meadow", "beach", "snow", "room")
TIMES_OF_DAY = ("day", "sunset", "night")
CAMERAS = ("static", "orbit", "zoom in", "zoom out")

SIZE_RADIUS = {"small": 0.5, "normal": 0.7, "large": 0.92}
# (footprint radius or half edge, height) for a size radius of 1: the four look equally large, and a cone is clearly a cone
PROPORTIONS = {"ball": (1.0, 2.0), "cube": (0.86, 1.72), "cylinder": (0.74, 1.9), "cone": (1.0, 2.15)}

# Combinations that are never trained on (about 8 % of each table): what a model does with them shows that it composes.
HELD_OUT_COLOUR_SHAPE = frozenset({("purple", "cube"), ("yellow", "cone"), ("green", "cylinder")})
HELD_OUT_COLOUR_PLACE = frozenset({("orange", "snow"), ("blue", "beach"), ("red", "room")})
HELD_OUT_SHAPE_MOTION = frozenset({("cone", "circle"), ("cylinder", "bounce")})


@dataclass(frozen=True)
class Object:
    """One body. `x`, `z`: middle of its path on the ground; `reach`: length of a slide or approach, height of a bounce, radius of a
    circle; `period`: seconds of one leg, hop or turn; `phase` in turns (circle only); `turn`: heading of a cube in radians."""

    shape: str
    colour: str
    size: str = "normal"
    motion: str = "still"
    x: float = 0.0
    z: float = 0.0
    reach: float = 0.0
    period: float = 1.0
    phase: float = 0.0
    turn: float = 0.0

    @property
    def radius(self) -> float:
        """Footprint: the radius, or half the edge of a cube."""
        return PROPORTIONS[self.shape][0] * SIZE_RADIUS[self.size]

    @property
    def height(self) -> float:
        return PROPORTIONS[self.shape][1] * SIZE_RADIUS[self.size]

    @property
    def clearance(self) -> float:
        """Radius of the circle on the ground that holds the footprint at any heading."""
        return self.radius * (2**0.5 if self.shape == "cube" else 1.0)


@dataclass(frozen=True)
class Camera:
    """`azimuth`: where it stands around the scene; `sense`: +1 orbits to the right, -1 to the left; `period`: seconds of one arc."""

    kind: str = "static"
    height: float = 2.3
    azimuth: float = 0.0
    sense: int = 1
    period: float = 6.5


@dataclass(frozen=True)
class Scene:
    """`light`: azimuth of the sun or moon; `texture`: offset of the ground's pattern; `seed`: where it was sampled from."""

    objects: tuple[Object, ...]
    place: str = "meadow"
    time_of_day: str = "day"
    camera: Camera = Camera()
    light: float = 0.9
    texture: float = 0.0
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Scene":
        data = json.loads(text)
        objects = tuple(Object(**item) for item in data.pop("objects"))
        return Scene(objects=objects, camera=Camera(**data.pop("camera")), **data)


def is_held_out(scene: Scene) -> bool:
    """True when the scene has a combination of the three tables above."""
    return any(_object_held_out(o.shape, o.colour, o.motion, scene.place) for o in scene.objects)


def _object_held_out(shape: str, colour: str, motion: str, place: str) -> bool:
    return (
        (colour, shape) in HELD_OUT_COLOUR_SHAPE or (colour, place) in HELD_OUT_COLOUR_PLACE or (shape, motion) in HELD_OUT_SHAPE_MOTION
    )


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known to the world: use one of {', '.join(allowed)}.")


def sample_scene(
    seed: int,
    *,
    max_objects: int = 3,
    motions: tuple[str, ...] | None = None,
    cameras: tuple[str, ...] | None = None,
    held_out: bool | None = None,
    max_movers: int | None = None,
) -> Scene:
    """A scene from a seed: mostly one or two objects.

    motions, cameras: the ones allowed (default all). max_movers: how many objects may move. held_out: True for scenes with a held-out
    combination only, False for scenes without one, None for any.
    """
    motions, cameras = tuple(motions or MOTIONS), tuple(cameras or CAMERAS)
    for motion in motions:
        _check("motion", motion, MOTIONS)
    for camera in cameras:
        _check("camera", camera, CAMERAS)
    if not 1 <= max_objects <= 3:
        raise ValueError(f"max_objects={max_objects}: the world has room for 1 to 3 objects.")
    rng = random.Random(f"world-{seed}")
    while True:
        count = min(max_objects, rng.choices((1, 2, 3), weights=(45, 43, 12))[0])
        cast = _cast(rng, count, motions, count if max_movers is None else max_movers)
        if cast is None:
            continue
        place, time_of_day, camera = rng.choice(PLACES), rng.choice(TIMES_OF_DAY), rng.choice(cameras)
        held = any(_object_held_out(o.shape, o.colour, o.motion, place) for o in cast)
        if held_out is not None and held != held_out:
            continue
        scene = _place(rng, cast, place, time_of_day, camera, seed, tries=12)
        if scene is not None:
            return scene


def scene_for(
    objects: list[tuple[str, ...]], place: str = "meadow", time_of_day: str = "day", camera: str = "static", seed: int = 0
) -> Scene:
    """A scene with the given facts; only positions are sampled. objects: (colour, shape[, motion[, size]]), ordered left to right.

    Raises ValueError for unknown words, and when no arrangement keeps the objects apart and in view."""
    _check("place", place, PLACES)
    _check("time_of_day", time_of_day, TIMES_OF_DAY)
    _check("camera", camera, CAMERAS)
    cast = []
    for item in objects:
        colour, shape, motion, size = (*item, *("still", "normal")[len(item) - 2 :])
        for name, value, allowed in zip(
            ("colour", "shape", "motion", "size"), (colour, shape, motion, size), (COLOURS, SHAPES, MOTIONS, SIZES), strict=True
        ):
            _check(name, value, allowed)
        cast.append(Object(shape=shape, colour=colour, size=size, motion=motion))
    if not 1 <= len(cast) <= 3:
        raise ValueError(f"{len(cast)} objects: the world has room for 1 to 3.")
    scene = _place(random.Random(f"world-for-{seed}"), cast, place, time_of_day, camera, seed, tries=600)
    if scene is None:
        raise ValueError("These objects do not fit side by side in the picture: use smaller ones, or fewer that move.")
    return scene


def _cast(rng: random.Random, count: int, motions: tuple[str, ...], max_movers: int) -> list[Object] | None:
    """Who is there and what they do, without positions; no two of one colour and shape, seldom two of one colour."""
    cast = []
    for _ in range(count):
        size = rng.choices(SIZES, weights=(25, 50, 25))[0]
        # half of the bodies rest once more than one is there: two movers are harder to tell apart than one and a neighbour
        pool = ("still",) if count > 1 and "still" in motions and rng.random() < 0.35 else motions
        cast.append(Object(shape=rng.choice(SHAPES), colour=rng.choice(COLOURS), size=size, motion=rng.choice(pool)))
    pairs = {(o.shape, o.colour) for o in cast}
    colours = {o.colour for o in cast}
    if len(pairs) < count or (len(colours) < count and rng.random() < 0.7):
        return None
    movers = [i for i, o in enumerate(cast) if o.motion != "still"]
    if len(movers) > max_movers:
        if "still" not in motions:
            return None
        for i in movers[max_movers:]:
            cast[i] = replace(cast[i], motion="still")
    return cast


def _place(rng, cast, place, time_of_day, camera, seed, tries) -> Scene | None:
    """Positions for a cast, left to right, that keep it apart and in view; None when `tries` arrangements fail."""
    from .layout import fits

    for _ in range(tries):
        scene = Scene(
            objects=_stand(rng, cast),
            place=place,
            time_of_day=time_of_day,
            camera=Camera(
                kind=camera,
                height=round(rng.uniform(2.0, 2.8), 3),
                azimuth=round(rng.uniform(-0.15, 0.15), 3),
                sense=rng.choice((-1, 1)),
                period=round(rng.uniform(6.2, 7.2), 3),
            ),
            light=round(rng.choice((-1, 1)) * rng.uniform(0.7, 1.15), 3),
            texture=round(rng.uniform(0.0, 20.0), 3),
            seed=seed,
        )
        if fits(scene):
            return scene
    return None


def _stand(rng: random.Random, cast: list[Object]) -> tuple[Object, ...]:
    """A random arrangement: columns from left to right, with a random depth."""
    count = len(cast)
    objects = []
    for i, body in enumerate(cast):
        column = (i + 0.5) / count * 2 - 1  # -1..1
        x = column * 2.3 + rng.uniform(-0.5, 0.5) * (2.2 if count == 1 else 1.0)
        z = rng.uniform(-1.2, 0.9)
        reach, period = 0.0, 1.0
        if body.motion.startswith("slide"):
            reach, period = rng.uniform(2.2 if count < 3 else 1.2, 3.6), rng.uniform(6.2, 7.2)
            x = rng.uniform(-0.4, 0.4) if rng.random() < 0.5 else x * 0.6
            z = rng.uniform(-1.8, 1.2)
        elif body.motion == "bounce":
            reach, period = rng.uniform(0.9, 1.6), rng.uniform(1.0, 1.5)
        elif body.motion == "circle":
            reach, period = rng.uniform(0.6, 1.0), rng.uniform(3.6, 5.5)
        elif body.motion == "come closer":
            reach, period, z = rng.uniform(3.8, 5.2), rng.uniform(6.2, 7.2), rng.uniform(-1.4, -0.7)
            x *= 0.8
        objects.append(
            replace(
                body,
                x=round(x, 3),
                z=round(z, 3),
                reach=round(reach, 3),
                period=round(period, 3),
                phase=round(rng.random(), 3),
                turn=round(rng.uniform(0.2, 1.37), 3),
            )
        )
    return tuple(objects)
