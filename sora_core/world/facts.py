"""What is true of a scene within a window of time: what captions say, and what an observer of a video is asked."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from . import camera as cameras
from .camera import ZOOM_SECONDS
from .events import events, lasting
from .layout import MIN_SLIDE, always_left_of
from .motion import LEG_START, places_and_tips
from .scene import CAMERAS, Object, Scene
from .sight import boxes, sight

TURN_SLACK = 0.3  # seconds beyond a turning point that nobody sees, as the turn is slow
LEAST_ZOOM = 0.035  # of all its way in a second, which is 2 % of the distance: slower, and it is not seen
LEAST_MOVEMENT = 0.8  # seconds of a camera movement that are worth a word, before or after a change
LEAST_FOLLOWING = 0.1  # that a camera which follows goes to the side: less, and it stands
SAMPLE = 0.1  # seconds between the moments of a story that are looked at
LEAST_WAY, LONG_ENOUGH = 0.6, 4.0  # units that a body goes in so many seconds or more; in fewer a part of them, at the same speed
OPPOSITE = {"slide left": "slide right", "slide right": "slide left", "come closer": "move away"}
BOTH_WAYS = {"slide left": "slide back and forth", "slide right": "slide back and forth", "come closer": "come and go"}
SIDES = {"orbit": ("right", "left"), "pan": ("right", "left"), "tilt": ("up", "down")}  # of a leg out and a leg back, when sense is +1


class Fact(NamedTuple):
    """kind: count, colour, shape, size, motion (value: (object index, word)), left of (value: (i, j)), place, time of day, camera,
    camera direction, light from (value: word).

    In a story also: name (value: (object index, word)), wall (value: colour), event (value: the Event), order (value: two Events, the
    first over before the second begins), lasting (value: (object index, word)), camera then, camera then direction (value: word)."""

    kind: str
    value: object


def facts(scene: Scene, start: float = 0.0, seconds: float = 5.0) -> list[Fact]:
    """All that is true in the window of `seconds` from second `start`; objects are named by their index in the scene."""
    if scene.has_story:
        return _story(scene, start, seconds)
    found = [Fact("count", len(scene.objects))]
    for i, body in enumerate(scene.objects):
        found += [Fact("colour", (i, body.colour)), Fact("shape", (i, body.shape)), Fact("size", (i, body.size))]
        found.append(Fact("motion", (i, _motion(body, start, seconds))))
    for i in range(len(scene.objects)):
        for j in range(len(scene.objects)):
            if i != j and always_left_of(scene, i, j):
                found.append(Fact("left of", (i, j)))
    found += [Fact("place", scene.place), Fact("time of day", scene.time_of_day)]
    kind, direction = _movement(scene, start, seconds)
    found.append(Fact("camera", kind))
    if direction is not None:
        found.append(Fact("camera direction", direction))
    if scene.camera.kind != "orbit":
        found.append(Fact("light from", "right" if scene.light > 0 else "left"))
    return found


def _leg(start: float, seconds: float, period: float) -> int:
    """+1 when the window lies in a leg out, -1 in a leg back, 0 when it shows a turn."""
    slack = min(TURN_SLACK, seconds / 2)
    first, last = ((t / period) + LEG_START for t in (start + slack, start + seconds - slack))
    if int(first) != int(last):
        return 0
    return 1 if int(first) % 2 == 0 else -1


def _motion(body: Object, start: float, seconds: float) -> str:
    if body.motion not in BOTH_WAYS:
        return body.motion
    leg = _leg(start, seconds, body.period)
    return body.motion if leg > 0 else OPPOSITE[body.motion] if leg < 0 else BOTH_WAYS[body.motion]


def _movement(scene: Scene, start: float, seconds: float) -> tuple[str, str | None]:
    """(kind, direction) of the first movement of the camera in a window; None where it goes both ways or none."""
    camera = scene.camera
    if camera.kind in SIDES:
        leg = _leg(start, seconds, camera.period) * camera.sense
        return camera.kind, {1: SIDES[camera.kind][0], -1: SIDES[camera.kind][1], 0: None}[leg]
    if camera.kind in (*CAMERAS[2:], "rise"):
        first = min(seconds, 2.0)  # it slows down, so its beginning says whether it is seen
        way = math.tanh((start + first) / ZOOM_SECONDS) - math.tanh(start / ZOOM_SECONDS)
        if way < LEAST_ZOOM * first:
            return "static", None  # the push has all but ended
    if camera.kind == "follow":
        eye = cameras.pose(camera, torch.linspace(start, start + seconds, 9, dtype=torch.float64), scene).eye[:, 0]
        if eye.amax() - eye.amin() < LEAST_FOLLOWING:
            return "static", None
    return camera.kind, None


def _story(scene: Scene, start: float, seconds: float) -> list[Fact]:
    times = torch.arange(start, start + seconds + 1e-9, SAMPLE, dtype=torch.float64)
    looks = sight(scene, times)
    clear = looks.inside & looks.free & ~looks.under  # T K
    shown = [i for i, seen in enumerate(clear.any(0).tolist()) if seen]
    found = [Fact("count", len(shown))]
    for i in shown:
        body = scene.objects[i]
        found += [Fact("colour", (i, body.colour)), Fact("shape", (i, body.shape)), Fact("size", (i, body.size))]
        if body.name:
            found.append(Fact("name", (i, body.name)))
    found += [Fact("motion", (i, word)) for i, word in _motions(scene, times) if i in shown]
    found += _sides(scene, times, [i for i in shown if clear[:, i].all()])
    found += [Fact("place", scene.place), Fact("time of day", scene.time_of_day)]
    found += [Fact("wall", wall.colour) for wall in scene.walls]
    happened = [event for event in events(scene, start, seconds) if event.body in shown and (event.other < 0 or event.other in shown)]
    found += [Fact("event", event) for event in happened]
    found += [Fact("order", (a, b)) for a in happened for b in happened if a.end <= b.at]
    found += [Fact("lasting", (i, word)) for i, word in lasting(scene, start + seconds) if i in shown]
    found += _cameras(scene, start, seconds)
    if "orbit" not in (scene.camera.kind, scene.camera.then):
        found.append(Fact("light from", "right" if scene.light > 0 else "left"))
    return found


def _motions(scene: Scene, times: torch.Tensor) -> list[tuple[int, str]]:
    """(object, word) for all that does one thing throughout; what happens to the others is told as events."""
    place, tip = places_and_tips(scene, times)
    box, near = boxes(scene, times)
    across, tipped, followed = box[..., :2].mean(-1), tip.any(0).tolist(), scene.camera.kind == "follow"
    bodies = enumerate(scene.objects)
    words = [(i, _does(body, place[:, i], tipped[i], across[:, i], near[:, i], followed)) for i, body in bodies]
    return [(i, word) for i, word in words if word]


def _does(body: Object, path: torch.Tensor, tipped: bool, across: torch.Tensor, near: torch.Tensor, followed: bool) -> str:
    """What a body does all along its path [T, 3], "" where no one word is true. across, near [T]: where the picture shows it, and how far
    away it is."""
    if body.motion in ("bounce", "circle"):
        return body.motion
    if tipped:
        return ""
    if (path.amax(0) - path.amin(0)).max() < 0.01:
        return "still"
    if body.motion == "fall" or body.motion.startswith("leave"):
        return ""
    share = min(1.0, (len(path) - 1) * SAMPLE / LONG_ENOUGH)  # of the way that is worth a word
    if body.motion == "come closer":
        steps = near.diff()
        one_way = bool((steps < 0).all() or (steps > 0).all())
        return ("come closer" if steps[0] < 0 else "move away") if one_way and abs(near[-1] - near[0]) > LEAST_WAY * share else ""
    steps = path[:, 0].diff()
    if (steps < -1e-9).any() and (steps > 1e-9).any():
        return ""
    way = 1.0 if path[-1, 0] > path[0, 0] else -1.0
    seen = followed or (across[-1] - across[0]).item() * way > 0.5 * MIN_SLIDE * share
    if abs(path[-1, 0] - path[0, 0]) <= LEAST_WAY * share or not seen:
        return ""
    how = "roll" if body.shape == "ball" and not body.motion.startswith("slide") else "slide"
    return f"{how} {'right' if way > 0 else 'left'}"


def _sides(scene: Scene, times: torch.Tensor, steady: list[int]) -> list[Fact]:
    """Who is left of whom in every frame of the window, among those that are seen in every frame."""
    box, _ = boxes(scene, times)
    middle, margin = box[..., :2].mean(-1), 0.25 / cameras.DISTANCE
    return [Fact("left of", (i, j)) for i in steady for j in steady if i != j and (middle[:, i] + margin < middle[:, j]).all()]


def _cameras(scene: Scene, start: float, seconds: float) -> list[Fact]:
    """The movement in the window, or both of them when a change is seen; nothing where it seems to stand and moves for a moment."""
    camera = scene.camera
    change, end = (camera.change_at if camera.then else float("inf")), start + seconds
    spans = []
    if min(change, end) - start >= LEAST_MOVEMENT or change >= end:
        spans.append(_movement(scene, start, min(change, end) - start))
    if end - change >= LEAST_MOVEMENT or (change <= start and not spans):
        begin = max(0.0, start - change)
        after = replace(scene, camera=replace(camera, kind=camera.then, then=""))
        spans.append(_movement(after, begin, end - change - begin))
    if start < change < end and spans == [("static", None)]:
        return []
    if len(spans) == 2 and spans[0] == spans[1]:
        spans.pop()
    found = []
    for label, (kind, direction) in zip(("camera", "camera then"), spans, strict=False):
        found.append(Fact(label, kind))
        if direction is not None:
            found.append(Fact(f"{label} direction", direction))
    return found
