"""Scenes as data: who is there, how it moves, what happens, where, when, and how the camera moves.

A scene is a small frozen tree, the same for the same seed, JSON in and out. Lengths are in world units (a normal ball is 1.4 tall),
times in seconds, angles in radians; x points right, y up, z towards the camera's side of the world; the ground is y = 0.

The world grows by stages, and a model is told the words of its own stage only:
    S1  stills and one mover, a camera that stands
    S2  up to three bodies, all of MOTIONS and CAMERAS
    S3  STORY_MOTIONS, walls, changes that last, and the order of what happens; more cameras, which may change their movement
    S4  several shots with the same named characters
"""

import json
from dataclasses import asdict, dataclass, replace

SHAPES = ("ball", "cube", "cylinder", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "normal", "large")
MOTIONS = ("still", "slide left", "slide right", "bounce", "circle", "come closer")
PLACES = ("meadow", "beach", "snow", "room")
TIMES_OF_DAY = ("day", "sunset", "night")
CAMERAS = ("static", "orbit", "zoom in", "zoom out")

STAGES = ("S1", "S2", "S3", "S4")
STORY_SHAPES = ("lamp", "apple")
# leave: goes out of the picture and comes back; launch: is sent off and then obeys physics alone, as does what falls
STORY_MOTIONS = ("roll left", "roll right", "leave left", "leave right", "launch left", "launch right", "fall")
CHANGES = ("switch on", "bite", "cover")
STORY_CAMERAS = ("pan", "tilt", "rise", "follow")
WALLS = ("grey", "brown")

SIZE_RADIUS = {"small": 0.5, "normal": 0.7, "large": 0.92}
# (footprint radius or half edge, height) for a size radius of 1: the four look equally large, and a cone is clearly a cone
PROPORTIONS = {"ball": (1.0, 2.0), "cube": (0.86, 1.72), "cylinder": (0.74, 1.9), "cone": (1.0, 2.15)}
PROPORTIONS |= {"lamp": (0.8, 2.6), "apple": (0.85, 1.7)}

# Combinations that are never trained on (about 8 % of each table, 15 % of the last): what a model does with them shows that it composes.
HELD_OUT_COLOUR_SHAPE = frozenset({("purple", "cube"), ("yellow", "cone"), ("green", "cylinder")})
HELD_OUT_COLOUR_PLACE = frozenset({("orange", "snow"), ("blue", "beach"), ("red", "room")})
HELD_OUT_SHAPE_MOTION = frozenset({("cone", "circle"), ("cylinder", "bounce")})
HELD_OUT_COLOUR_CHANGE = frozenset({("green", "switch on"), ("yellow", "bite"), ("blue", "cover")})


@dataclass(frozen=True)
class Object:
    """One body. `x`, `z`: middle of its path on the ground; `reach`: length of a slide or approach, height of a bounce, radius of a
    circle, height of a fall; `period`: seconds of one leg, hop or turn; `phase` in turns (circle only); `turn`: heading of a cube.

    `begin`, `speed`: when a launched body is sent off and how fast, when a falling one is let go. `change`: one of CHANGES, which
    happens at second `at` and lasts; a cover is lifted again at second `until`, or never when that is 0."""

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
    name: str = ""
    begin: float = 0.0
    speed: float = 0.0
    change: str = ""
    at: float = 0.0
    until: float = 0.0

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
    """`azimuth`: where it stands around the scene; `sense`: +1 orbits or pans to the right or tilts up, -1 the other way; `period`:
    seconds of one arc; `target`: the object that it follows. At second `change_at` the movement `then` takes over, unless it is ""."""

    kind: str = "static"
    height: float = 2.3
    azimuth: float = 0.0
    sense: int = 1
    period: float = 6.5
    target: int = 0
    then: str = ""
    change_at: float = 0.0

    @property
    def stands(self) -> bool:
        """True when it never moves."""
        return self.kind == "static" and not self.then


@dataclass(frozen=True)
class Wall:
    """A free-standing wall that hides what is behind it; `x`, `z`: middle of its foot; `colour`: one of WALLS."""

    x: float
    z: float
    width: float
    height: float
    colour: str = "grey"
    thickness: float = 0.24


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
    walls: tuple[Wall, ...] = ()

    @property
    def has_story(self) -> bool:
        """True when it has anything that stage S2 does not know."""
        bodies = any(o.shape in STORY_SHAPES or o.motion in STORY_MOTIONS or o.change or o.name for o in self.objects)
        return bool(bodies or self.walls or self.camera.then or self.camera.kind in STORY_CAMERAS)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Scene":
        data = json.loads(text)
        objects = tuple(Object(**item) for item in data.pop("objects"))
        walls = tuple(Wall(**item) for item in data.pop("walls", ()))
        return Scene(objects=objects, camera=Camera(**data.pop("camera")), walls=walls, **data)


def away(body: Object) -> Object:
    """The body at rest, so far off that neither it nor its shadow is in any picture: a scene without it needs somebody to have."""
    return replace(body, x=1e3, motion="still", change="")


def is_held_out(scene: Scene) -> bool:
    """True when the scene has a combination of the tables above."""
    return any(
        object_held_out(o.shape, o.colour, o.motion, scene.place) or (o.colour, o.change) in HELD_OUT_COLOUR_CHANGE for o in scene.objects
    )


def object_held_out(shape: str, colour: str, motion: str, place: str) -> bool:
    """True when one object has a held-out combination of shape, colour, motion or place."""
    return (colour, shape) in HELD_OUT_COLOUR_SHAPE or (colour, place) in HELD_OUT_COLOUR_PLACE or (shape, motion) in HELD_OUT_SHAPE_MOTION
