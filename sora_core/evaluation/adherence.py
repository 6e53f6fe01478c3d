"""Prompt adherence: which facts of a caption the observer finds in a video."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from ..pictures import evenly
from ..shapes import frames_for_seconds
from ..world import Scene, caption, facts, render, sample_scene
from .bench import SIZES, Bench
from .intervals import wilson
from .observer import Reading
from .report import Row, mean_row, share_row

KINDS = ("colour", "count", "place", "time of day", "shape", "size", "left of", "motion", "camera", "camera direction")
BARS = {  # owed by the second edition
    "colour": 0.95, "count": 0.95, "place": 0.95, "time of day": 0.95, "shape": 0.9, "left of": 0.9, "motion": 0.85, "camera": 0.85,
}  # fmt: skip
OBSERVER_BARS = {"colour": 0.98, "shape": 0.98, "count": 0.98, "place": 0.98}  # 0.95 for the others
FIRST_SEED = 5_000_000
MOMENTS = 6  # of a clip on a sheet

# Words of the relation between two bodies; the light has sides too ("影子落在左边"), and those must not count.
RELATION = {"en": re.compile(r"(left|right) of"), "zh": re.compile(r"在[^，。]{2,}(左|右)[边侧]")}


class Told(NamedTuple):
    """A fact of a caption; `colour` names the body it is about, "" for the whole clip."""

    kind: str
    colour: str
    value: object


def told_apart(scene: Scene) -> bool:
    """Whether no two bodies have one colour, by which a reading names them."""
    return len({body.colour for body in scene.objects}) == len(scene.objects)


def scored_scenes(count: int, first_seed: int = FIRST_SEED, stage: str = "S2") -> Iterator[Scene]:
    """The first `count` scenes of a stage by seed with a held-out combination, their bodies told apart by colour."""
    drawn = (sample_scene(seed, stage=stage, held_out=True) for seed in itertools.count(first_seed))
    return itertools.islice(filter(told_apart, drawn), count)


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
    if not colour:
        return getattr(reading, kind.replace(" ", "_")) == value
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


@dataclass
class Score:
    """One clip of a prompt: what was told, what was read of the video, what of renders of its scene that went through the codec, which no
    model can better, and moments of the video and of plain renders for sheets."""

    prompt: str
    facts: list[Told]
    shown: list[Tensor]
    reading: Reading
    best_reading: Reading

    @cached_property
    def missed(self) -> list[Told]:
        return [fact for fact in self.facts if not found(fact, self.reading)]


def scored(bench: Bench, count: int, language: str = "en", aspect: str = "1:1", stage: str = "S2") -> list[Score]:
    """Scored clips of the first `count` test prompts; made once."""
    kept = bench.scores.setdefault((language, aspect, stage), [])
    width, height = SIZES[aspect]
    shape = bench.studio.shape(width, height, frames_for_seconds(bench.budget.seconds, bench.studio.pipeline.header.native_fps))
    for i, scene in enumerate(scored_scenes(count, stage=stage)):
        if i < len(kept):
            continue
        prompt = long_caption(scene, language, shape.seconds)
        frames = bench.studio.video(prompt, shape, seed=scene.seed)
        renders = render(scene, [k / shape.fps for k in range(shape.frames)], width, height)
        at = evenly(shape.frames, MOMENTS)
        said = told(scene, prompt, language, shape.seconds)
        best = bench.studio.decode(bench.studio.encode(renders))
        kept.append(Score(prompt, said, [*frames[at], *renders[at]], *bench.observer.read([frames, best])))
        bench.say(f"{stage} {language} {aspect} clip {i + 1}/{count}")
    return kept[:count]


def observer_rows(bench: Bench) -> Iterator[Row]:
    """The observer's own shares on held-out renders, measured when it was trained."""
    for kind in KINDS:
        if kind in bench.observer.held_out:
            hits, n = bench.observer.held_out[kind]
            yield Row(f"observer on renders: {kind}", hits / n, *wilson(hits, n), n, f">= {OBSERVER_BARS.get(kind, 0.95):g}")


def adherence_rows(bench: Bench) -> Iterator[Row]:
    """Shares of caption facts found, by kind; the reference is what is found in renders of the same scenes that went through the codec."""
    return _shares("prompt adherence", scored(bench, bench.budget.prompts))


def first_stage_rows(bench: Bench) -> Iterator[Row]:
    """The same of scenes in which one body moves at most and the camera stands."""
    return _shares("prompt adherence, S1", scored(bench, bench.budget.first_stage, stage="S1"))


def _shares(name: str, scores: list[Score]) -> Iterator[Row]:
    counted = [(f.kind, found(f, s.reading), found(f, s.best_reading), clip) for clip, s in enumerate(scores) for f in s.facts]
    for kind in (*KINDS, "all"):
        if of_kind := [rest for other, *rest in counted if kind in (other, "all")]:
            made, best, clips = zip(*of_kind)
            yield share_row(f"{name}: {kind}", made, BARS.get(kind), sum(best) / len(best), clips)


def paired_rows(bench: Bench) -> Iterator[Row]:
    """The same scenes told in Chinese, or made wide or tall: difference of the shares of facts, clip by clip."""
    count = bench.budget.paired
    plain = scored(bench, count)
    for name, language, aspect in (("Chinese - English", "zh", "1:1"), ("16:9 - 1:1", "en", "16:9"), ("9:16 - 1:1", "en", "9:16")):
        differences = []
        for one, other in zip(plain, scored(bench, count, language, aspect)):
            both = [f for f in one.facts if f in other.facts]
            differences.append(sum(found(f, other.reading) - found(f, one.reading) for f in both) / len(both))
        yield mean_row(f"adherence, {name}", differences, "0 inside, or within 0.03", 0)
