"""Scenes as data: who is there, how it moves, where, when, and how the camera moves.

A scene is a small frozen tree, the same for the same seed, JSON in and out. Lengths are in world units (a normal ball is 1.4 tall),
times in seconds, angles in radians; x points right, y up, z towards the camera's side of the world; the ground is y = 0.
"""

import json
from dataclasses import asdict, dataclass

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
    return any(object_held_out(o.shape, o.colour, o.motion, scene.place) for o in scene.objects)


def object_held_out(shape: str, colour: str, motion: str, place: str) -> bool:
    """True when one object has a held-out combination."""
    return (colour, shape) in HELD_OUT_COLOUR_SHAPE or (colour, place) in HELD_OUT_COLOUR_PLACE or (shape, motion) in HELD_OUT_SHAPE_MOTION
