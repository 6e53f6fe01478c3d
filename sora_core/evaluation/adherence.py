"""Prompt adherence: which facts of a caption the observer finds in a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..world import Scene, caption, facts, sample_scene
from .observer import Reading

KINDS = ("colour", "count", "place", "time of day", "shape", "size", "left of", "motion", "camera", "camera direction")
FIRST_SEED = 5_000_000

# Words of the relation between two bodies; the light has sides too ("影子落在左边"), and those must not count.
RELATION = {"en": re.compile(r"(left|right) of"), "zh": re.compile(r"在[^，。]{2,}(左|右)[边侧]")}


class Told(NamedTuple):
    """A fact of a caption; `colour` names the body it is about, "" for the whole clip."""

    kind: str
    colour: str
    value: object


def scored_scenes(count: int, first_seed: int = FIRST_SEED) -> Iterator[Scene]:
    """The first `count` scenes with a held-out combination and no two bodies of one colour, by which the observer names them."""
    found, seed = 0, first_seed
    while found < count:
        scene = sample_scene(seed, held_out=True)
        seed += 1
        if len({body.colour for body in scene.objects}) == len(scene.objects):
            found += 1
            yield scene


def long_caption(scene: Scene, language: str, seconds: float) -> str:
    """A long caption, which tells everything but the usual size and, sometimes, who is left of whom."""
    return caption(scene, "long", language, scene.seed, seconds=seconds)


def visible(scene: Scene, seconds: float) -> list[Told]:
    """All facts of the first `seconds` that the observer can read; bodies must differ in colour."""
    colours = [body.colour for body in scene.objects]
    seen = []
    for kind, value in facts(scene, 0.0, seconds):
        if kind == "colour":
            seen.append(Told(kind, value[1], True))
        elif kind == "left of":
            seen.append(Told(kind, colours[value[0]], colours[value[1]]))
        elif kind in KINDS:
            seen.append(Told(kind, colours[value[0]], value[1]) if isinstance(value, tuple) else Told(kind, "", value))
    return seen


def told(scene: Scene, prompt: str, language: str, seconds: float) -> list[Told]:
    """Those of the visible facts that a long caption tells: no usual size, and sides only where it compares two bodies.

    Of three bodies it compares two, and which ones is not known here, so their sides never count.
    """
    sides = len(scene.objects) == 2 and RELATION[language].search(prompt) is not None
    return [fact for fact in visible(scene, seconds) if fact.value != "normal" and (fact.kind != "left of" or sides)]


def found(fact: Told, reading: Reading) -> bool:
    """Whether the observer's reading of a clip has the fact."""
    kind, colour, value = fact
    if kind in ("count", "place", "camera"):
        return getattr(reading, kind) == value
    if kind == "time of day":
        return reading.time_of_day == value
    if kind == "camera direction":
        return reading.camera_direction == value
    body = reading.bodies.get(colour)
    if body is None or kind == "colour":
        return body is not None
    if kind != "left of":
        return getattr(body, kind) == value
    other = reading.bodies.get(value)
    return other is not None and bool((body.path[:, 0] < other.path[:, 0]).all())


def described(fact: Told) -> str:
    """A fact in a few words, for sheets."""
    kind, colour, value = fact
    if kind == "colour":
        return f"something {colour}"
    if kind == "left of":
        return f"{colour} left of {value}"
    return f"{colour} {value}".strip() if colour else f"{kind} {value}"
