"""Bodies that pass behind a wall: whether they come back as who they were, and where their motion says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..world import Scene, events, render, sample_story
from ..world.camera import picture_paths
from .adherence import long_caption
from .bench import SIZES, Bench
from .report import Row, share_row
from .tracking import seen_shape, tracks

FIRST_SEED = 6_000_000
SECONDS = 5.0
BEFORE, AFTER = 0.5, 1.25  # seconds: seen so long before it hides, which tells how it moves, and so long after it is back
NEAR = 0.2  # of half the picture: how far from its true place a body may return


@dataclass(frozen=True)
class Hiding:
    """Body `body` is seen whole up to frame `last_seen`, then hidden, and seen whole again from frame `back` to the end."""

    scene: Scene
    body: int
    last_seen: int
    back: int


def hidings(count: int, fps: float, first_seed: int = FIRST_SEED) -> Iterator[Hiding]:
    """The first `count` stories by seed with a held-out combination in which a body passes behind a wall in time, in clips of SECONDS."""
    drawn = (_hiding(sample_story(seed, ("behind",), held_out=True), fps) for seed in itertools.count(first_seed))
    return itertools.islice(filter(None, drawn), count)


def _hiding(scene: Scene, fps: float) -> Hiding | None:
    happened = events(scene, 0.0, SECONDS)
    gone = next(event for event in happened if event.kind == "hide")  # the act is to hide and to appear
    again = [event for event in happened if event.kind == "appear" and event.body == gone.body]
    if gone.at < BEFORE or len(again) != 1 or again[0].end > SECONDS - AFTER:
        return None
    return Hiding(scene, gone.body, math.floor(gone.at * fps), math.ceil(again[0].end * fps))


def came_back(frames: Tensor, case: Hiding, fps: float) -> tuple[bool, bool]:
    """Of a clip uint8 [T, H, W, 3]: whether what has the body's colour after its return has its shape too, and whether it is at the end
    where its motion says."""
    looks, frames = case.scene.objects[case.body], frames[case.back :]
    same = seen_shape(frames, case.scene, looks.colour) == looks.shape
    track = tracks(frames, case.scene)[case.body]
    expected = picture_paths(case.scene, [(case.back + len(frames) - 1) / fps])[case.body, 0]
    off = float((torch.stack((track.x[-1], track.y[-1])) - expected).norm())
    return same, bool(track.area[-1] > 0) and off < NEAR


def permanence_rows(bench: Bench) -> Iterator[Row]:
    """The clip is given until the body begins to hide, and read after its return. The reference is renders."""
    studio, fps = bench.studio, 8.0
    shape = studio.shape(*SIZES["1:1"], round(SECONDS * fps) + 1, fps)
    times = [k / fps for k in range(shape.frames)]
    made, true = [], []
    for case in hidings(bench.budget.hidden, fps):
        renders = render(case.scene, times, *SIZES["1:1"])
        cells = 1 + case.last_seen // shape.strides.time  # those that end before it begins to hide
        known = studio.encode(renders[: shape.strides.frames(cells)])
        made.append(came_back(studio.video(long_caption(case.scene, "en", SECONDS), shape, case.scene.seed, known), case, fps))
        true.append(came_back(renders, case, fps))
        bench.say(f"hidden {len(made)}/{bench.budget.hidden}")
    for name, hits, reference in zip(("colour and shape", "where its motion says"), zip(*made), zip(*true)):
        yield share_row(f"returns after being hidden: {name}", hits, None, sum(reference) / len(reference))
