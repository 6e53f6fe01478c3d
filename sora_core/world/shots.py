"""Several shots of one video: the same characters, with the same names, at another place and time of day, filmed anew."""

import random
from dataclasses import replace

from .sampling import place_cast, sample_scene, scene_for
from .scene import CAMERAS, COLOURS, MOTIONS, PLACES, SHAPES, TIMES_OF_DAY, Object, Scene, is_held_out
from .stories import sample_story
from .story_phrases import NAMES

CAST_ACTS = ("behind", "leave", "cover")  # what a character of any shape can do
STORY_SHARE = 0.5  # of the shots in which something happens
TRIES = 40  # arrangements before another motion, place or camera is drawn


def next_shot(scene: Scene, seed: int) -> Scene:
    """The same characters with the same motions, at another place, time of day and camera. Raises ValueError where that is impossible."""
    rng = random.Random(seed)
    cast = [(body.colour, body.shape, body.motion, body.size) for body in scene.objects]
    place = rng.choice([p for p in PLACES if p != scene.place])
    return scene_for(cast, place, rng.choice(TIMES_OF_DAY), rng.choice(CAMERAS), seed)


def sample_shots(seed: int, count: int, *, stage: str = "S4", held_out: bool | None = None, **limits) -> list[Scene]:
    """The scenes of `count` shots from a seed. Stage S4 has named characters that do something else in every shot; the stages before it
    repeat what the first shot shows. held_out: as in `sample_scene`, True when any shot has such a combination. limits: those of
    `sample_scene`, for stages S1 and S2.

    Raises ValueError where a stage before S4 cannot film the same cast again.
    """
    if stage != "S4" or count == 1:
        first = sample_scene(seed, stage=stage, held_out=held_out, **limits)
        return [first, *(next_shot(first, seed * 10 + k) for k in range(count - 1))]
    rng = random.Random(f"shots-{seed}")
    while True:
        cast, shots = _characters(rng), []
        for k in range(count):
            shots.append(_shot(rng, cast, shots[-1].place if shots else "", seed * 100 + k))
        if held_out is None or any(map(is_held_out, shots)) == held_out:
            return shots


def _characters(rng: random.Random) -> list[Object]:
    """One or two, told apart by colour, each with a name."""
    count = rng.choice((1, 2, 2))
    names, colours = rng.sample(NAMES, count), rng.sample(COLOURS, count)
    shapes = [rng.choice(SHAPES) for _ in names]
    sizes = ["small" if shape == "cube" else rng.choice(("small", "normal")) for shape in shapes]  # a wider one seldom passes behind a wall
    return [Object(*looks, name=name) for *looks, name in zip(shapes, colours, sizes, names, strict=True)]


def _shot(rng: random.Random, cast: list[Object], last: str, seed: int) -> Scene:
    """One shot of a cast, at another place than the `last`."""
    while True:
        seed += 1_000_003
        place, hour = rng.choice([p for p in PLACES if p != last]), rng.choice(TIMES_OF_DAY)
        if rng.random() < STORY_SHARE:
            order = rng.sample(cast, len(cast))
            return replace(sample_story(seed, (rng.choice(CAST_ACTS),), cast=tuple(order)), place=place, time_of_day=hour)
        acting = [replace(body, motion=rng.choice(("still", *MOTIONS))) for body in cast]
        scene = place_cast(rng, acting, place, hour, rng.choice(CAMERAS), seed, TRIES)
        if scene is not None:
            return scene
