"""Scenes from a seed, and scenes made to order."""

import random
from dataclasses import replace

from .layout import fits
from .scene import (
    CAMERAS,
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    STAGES,
    TIMES_OF_DAY,
    Camera,
    Object,
    Scene,
    object_held_out,
)
from .stories import sample_story

STORIES = 0.75  # share of stage S3; the rest are scenes of S2, so that what was learned stays


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known to the world: use one of {', '.join(allowed)}.")


def sample_scene(
    seed: int,
    *,
    stage: str = "S2",
    max_objects: int = 3,
    motions: tuple[str, ...] | None = None,
    cameras: tuple[str, ...] | None = None,
    held_out: bool | None = None,
    max_movers: int | None = None,
) -> Scene:
    """A scene from a seed: mostly one or two objects.

    stage: S1 has one mover and a camera that stands, S2 all of MOTIONS and CAMERAS, S3 and S4 mostly stories. motions, cameras: the ones
    allowed (default all of the stage). max_movers: how many objects may move. held_out: True for scenes with a held-out combination only,
    False for scenes without one, None for any.
    """
    _check("stage", stage, STAGES)
    if stage == "S1":
        max_movers, cameras = min(1, 1 if max_movers is None else max_movers), cameras or ("static",)
    elif stage != "S2":
        if motions or cameras or max_objects != 3 or max_movers is not None:
            raise ValueError(f"stage={stage!r} takes no limits of objects, motions, movers or cameras: use stage 'S1' or 'S2' with them.")
        if random.Random(f"stage-{seed}").random() < STORIES:
            return sample_story(seed, held_out=held_out)
    motions, cameras = tuple(motions or MOTIONS), tuple(cameras or CAMERAS)
    for motion in motions:
        _check("motion", motion, MOTIONS)
    for camera in cameras:
        _check("camera", camera, CAMERAS)
    if not 1 <= max_objects <= 3:
        raise ValueError(f"max_objects={max_objects}: the world has room for 1 to 3 objects.")
    rng = random.Random(f"world-{seed}")
    while True:
        count = min(max_objects, rng.choices((1, 2, 3), weights=(42, 46, 12))[0])
        cast = _cast(rng, count, motions, count if max_movers is None else max_movers)
        if cast is None:
            continue
        place, time_of_day, camera = rng.choice(PLACES), rng.choice(TIMES_OF_DAY), rng.choice(cameras)
        held = any(object_held_out(o.shape, o.colour, o.motion, place) for o in cast)
        if held_out is not None and held != held_out:
            continue
        # several sizes before another cast: big movers would else be rare in company
        for _ in range(4):
            scene = place_cast(rng, cast, place, time_of_day, camera, seed, tries=12)
            if scene is not None:
                return scene
            cast = [_smaller(body) for body in cast]


def scene_for(
    objects: list[tuple[str, ...]], place: str = "meadow", time_of_day: str = "day", camera: str = "static", seed: int = 0
) -> Scene:
    """A scene with the given facts; only positions are sampled. objects: (colour, shape[, motion[, size]]), ordered left to right.

    Raises ValueError for unknown words, and when no arrangement keeps the objects apart, in view and moving as told."""
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
    rng = random.Random(f"world-for-{seed}")
    scene = place_cast(rng, cast, place, time_of_day, camera, seed, tries=300)
    if scene is None:  # sizes that were not asked for give way
        cast = [body if len(item) > 3 else _smaller(body) for body, item in zip(cast, objects, strict=True)]
        scene = place_cast(rng, cast, place, time_of_day, camera, seed, tries=600)
    if scene is None:
        raise ValueError(
            f"No arrangement of these {len(cast)} objects keeps apart, in view and moving as told under camera={camera!r}: "
            "use smaller objects, fewer that move, or another camera (an object cannot come closer while the camera zooms out)."
        )
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


def _smaller(body: Object) -> Object:
    return replace(body, size=SIZES[max(SIZES.index(body.size) - 1, 0)])


def place_cast(rng, cast, place, time_of_day, camera, seed, tries) -> Scene | None:
    """Positions for a cast, left to right, that keep it apart and in view; None when `tries` arrangements fail."""
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
    """A random arrangement, roughly left to right. What slides among others has a lane of its own, in front of or behind them, or a
    short way on its own side."""
    count = len(cast)
    closing = any(body.motion == "come closer" for body in cast)
    lanes = {1: [0.0], 2: [-1.4, 1.0], 3: [-2.5, -0.7, 1.1]}[count]
    rng.shuffle(lanes)
    in_lanes = count == 3 or (count == 2 and not closing and rng.random() < 0.7)
    objects = []
    for i, body in enumerate(cast):
        x = ((i + 0.5) / count * 2 - 1) * 2.5 + rng.uniform(-0.4, 0.4) * (3.0 if count == 1 else 1.0)
        z = rng.uniform(-1.3, 0.9)
        reach, period, phase = 0.0, 1.0, 0.0
        if body.motion.startswith("slide"):
            period = rng.uniform(6.2, 7.2)
            if count == 1 or in_lanes:
                reach, x = rng.uniform(2.2, 3.6), rng.uniform(-0.4, 0.4)
            else:
                reach, x = rng.uniform(1.3, 1.9), x * 1.1
        elif body.motion == "bounce":
            reach, period, phase = rng.uniform(0.9, 1.6), rng.uniform(1.0, 1.5), rng.random()
        elif body.motion == "circle":
            reach, period, phase = rng.uniform(0.5, 1.0 if count == 1 else 0.7), rng.uniform(3.6, 5.5), rng.random()
        elif body.motion == "come closer":
            reach, period, z = rng.uniform(3.4, 5.0), rng.uniform(6.2, 7.2), rng.uniform(-1.4, -0.7)
        if in_lanes and body.motion != "come closer":
            z = lanes[i] + rng.uniform(-0.25, 0.25)
        numbers = {"x": x, "z": z, "reach": reach, "period": period, "phase": phase, "turn": rng.uniform(0.2, 1.37)}
        objects.append(replace(body, **{name: round(value, 3) for name, value in numbers.items()}))
    return tuple(objects)
