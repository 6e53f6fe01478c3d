"""What happens in a scene and when, read from where its bodies are: who is hidden, leaves, comes back, is hit, covered, lit or eaten."""

from typing import NamedTuple

import torch

from .motion import physics, places_and_tips
from .parts import BITE_SECONDS, COVER_SECONDS, covered
from .scene import Scene
from .sight import sight
from .simulation import STEP

EDGE = 0.25  # seconds from either end of a window in which nothing is told: nobody would see it begin or end
SAMPLE = 0.05  # seconds
IN_SIGHT = 7.0  # units above the ground
EVENTS = (
    *("hide", "appear", "leave left", "leave right", "return left", "return right", "cover", "uncover"),
    *("switch on", "bite", "fall", "knock over", "push", "collide"),
)
LASTING = {"switch on": "on", "bite": "bitten", "knock over": "down", "cover": "covered"}


class Event(NamedTuple):
    """kind: one of EVENTS. `body` is who it happens to; `other` who does it, or -1; `end` when it is over."""

    at: float
    kind: str
    body: int
    other: int = -1
    end: float = 0.0


def events(scene: Scene, start: float = 0.0, seconds: float = 5.0) -> list[Event]:
    """All that happens within a window, from first to last."""
    found = _changes(scene) + _touches(scene) + _landings(scene) + _sights(scene, start, seconds)
    return sorted(event for event in found if event.at >= start + EDGE and event.end <= start + seconds - EDGE)


def _changes(scene: Scene) -> list[Event]:
    found = []
    for i, body in enumerate(scene.objects):
        if body.change == "cover":
            found.append(Event(body.at, "cover", i, end=body.at + COVER_SECONDS))
            if body.until:
                found.append(Event(body.until, "uncover", i, end=body.until + COVER_SECONDS))
        elif body.change:
            found.append(Event(body.at, body.change, i, end=body.at + BITE_SECONDS))
    return found


def _touches(scene: Scene) -> list[Event]:
    part, trace = physics(scene)
    found = []
    for touch in trace.touches if trace else ():
        over = touch.at + 0.3
        if touch.kind == "knock over":  # only what ends on its side counts
            tip = trace.tip[:, touch.target].abs()
            if tip[-1] < 1.0:
                continue
            over = int((tip >= tip[-1] - 1e-6).nonzero()[0]) * STEP
        found.append(Event(touch.at, touch.kind, part[touch.target], part[touch.actor], over))
    return found


def _landings(scene: Scene) -> list[Event]:
    """A fall lasts from where a body may first be seen, in the tallest of pictures, to its first touch of the ground."""
    part, trace = physics(scene)
    found = []
    for k, i in enumerate(part if trace else ()):
        if scene.objects[i].motion == "fall":
            height = trace.place[:, k, 1]
            first, landed = (int((height <= level).nonzero()[0]) * STEP for level in (IN_SIGHT, 0.0))
            found.append(Event(first, "fall", i, end=landed))
    return found


def _sights(scene: Scene, start: float, seconds: float) -> list[Event]:
    """Goings and comings behind walls and beyond the edges of the picture."""
    if not scene.walls and not any(body.motion.startswith("leave") for body in scene.objects):
        return []
    times = torch.arange(start, start + seconds + 1e-9, SAMPLE, dtype=torch.float64)
    seen = sight(scene, times)
    found = []
    for i, body in enumerate(scene.objects):
        clear = seen.free[:, i] & seen.inside[:, i]
        found += _crossings(times, clear, seen.hidden[:, i], i, "hide", "appear")
        if body.motion.startswith("leave"):
            side = body.motion.split()[1]
            out = seen.out_left if side == "left" else seen.out_right
            found += _crossings(times, clear, out[:, i], i, f"leave {side}", f"return {side}")
    return found


def _crossings(times: torch.Tensor, clear: torch.Tensor, gone: torch.Tensor, body: int, going: str, coming: str) -> list[Event]:
    """Events at the steps from `clear` to `gone` and back: each lasts from the last moment of the one to the first of the other."""
    found, last = [], None  # (state, time when it was last so)
    for t, c, g in zip(times.tolist(), clear.tolist(), gone.tolist(), strict=True):
        state = "clear" if c else "gone" if g else None
        if state is None:
            continue
        if last is not None and last[0] != state:
            found.append(Event(last[1], going if state == "gone" else coming, body, end=t))
        last = (state, t)
    return found


def lasting(scene: Scene, at: float) -> list[tuple[int, str]]:
    """(object, on, bitten, down or covered) for all that has happened and still holds at second `at`."""
    times = torch.tensor([at], dtype=torch.float64)
    found = []
    for i, body in enumerate(scene.objects):
        if body.change == "cover":
            if covered(body, times)[0] >= 1.0:
                found.append((i, "covered"))
        elif body.change and at > body.at + BITE_SECONDS:
            found.append((i, LASTING[body.change]))
    tip = places_and_tips(scene, times)[1][0]
    return found + [(i, "down") for i, angle in enumerate(tip.tolist()) if abs(angle) > 1.5]
