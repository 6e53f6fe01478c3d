"""Events in a video and what stays of them: which of two came first, and whether what happened is still so at the end.

A story's caption says what happens; the bodies that it happens to differ in colour, so each is followed by its colour (tracking.py).
Every kind of event is a step of one number of a body's track: a covered one loses its pixels, a lamp lights up where it stands, a
bitten apple is smaller, what was knocked over is wider than tall, what is pushed is elsewhere. The step is when it happened; it lasts if
the number is still beyond the middle of the step at the end. Of 84 events in 50 renders 83 are found within 1.5 frames of their time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from ..shapes import frames_for_seconds
from ..world import Event, Scene, facts, render, sample_story
from ..world.events import LASTING
from ..world.narration import chain
from .adherence import long_caption
from .bench import SIZES, Bench
from .report import Row, share_row
from .tracking import Track, tracks

ACTS = ("cover", "lamp", "bite", "knock over", "push", "fall")  # two balls that collide leave no step
FIRST_SEED = 9_000_000
SECONDS = 5.0
NEAR = 3  # frames on each side of a step whose middle values are compared: one odd frame is no step
LOOK = 8  # frames on the side where the body is to be seen
LAST = 4  # frames at the end
BAR = 0.8  # of both rows


def _shown(track: Track) -> Tensor:
    """Its pixels, as a share of those at its best."""
    return track.area / track.area.quantile(0.9).clamp_min(1)


def _moved(track: Track) -> Tensor:
    return (track.x - track.x[: 2 * NEAR].median()).abs()


def _lying(track: Track) -> Tensor:
    return (track.wide / track.tall.clamp_min(1e-3)).clamp(0.1, 10).log()


class Sign(NamedTuple):
    """How an event shows: `number` of a body's track goes up by `least` to `most`. The body is seen before that, or only after it."""

    number: Callable[[Track], Tensor]
    least: float
    most: float
    seen_before: bool = True


# The limits lie between what renders with the event show and what bodies show to which nothing happens.
SIGNS = {
    "cover": Sign(lambda track: -_shown(track), 0.7, 2.0),
    "uncover": Sign(_shown, 0.7, 2.0, False),
    "fall": Sign(_shown, 0.7, 2.0, False),
    "switch on": Sign(lambda track: track.luma, 0.08, 1.0),
    "bite": Sign(lambda track: -_shown(track), 0.15, 0.6),
    "knock over": Sign(_lying, 0.3, 5.0),
    "push": Sign(_moved, 0.07, 2.0),
}


class Step(NamedTuple):
    """`at`: the first frame after it; `lasts`: the end of the video is on its far side."""

    at: int
    lasts: bool


def find_step(kind: str, track: Track) -> Step | None:
    """When an event of one of SIGNS happens to a body, None where it does not."""
    number, least, most, seen_before = SIGNS[kind]
    values = number(track)
    sides = {t: (float(values[t - NEAR : t].median()), float(values[t : t + NEAR].median())) for t in range(NEAR, len(values) - NEAR + 1)}
    at, (before, after) = max(sides.items(), key=lambda item: item[1][1] - item[1][0])
    side = track.area[max(0, at - LOOK) : at] if seen_before else track.area[at : at + LOOK]
    if not least <= after - before <= most or (side > 0).float().mean() < 0.5:
        return None
    return Step(at, float(values[-LAST:].median()) > (before + after) / 2)


def told_events(scene: Scene) -> list[Event]:
    """Those that a long caption tells, in their order."""
    return chain([fact.value for fact in facts(scene, 0.0, SECONDS) if fact.kind == "event"])


def told_pair(scene: Scene) -> tuple[Event, Event] | None:
    """The first two of them that follow each other, happen to different bodies, and are of kinds that are read here."""
    told = told_events(scene)
    pairs = ((a, b) for a, b in zip(told, told[1:]) if a.body != b.body and a.kind in SIGNS and b.kind in SIGNS)
    return next(pairs, None)


def told_effects(scene: Scene) -> list[Event]:
    """Those whose effect lasts to the end of the clip."""
    effects = [fact.value for fact in facts(scene, 0.0, SECONDS) if fact.kind == "lasting"]
    return [event for event in told_events(scene) if (event.body, LASTING.get(event.kind)) in effects]


def in_order(found: list[Track], pair: tuple[Event, Event]) -> bool:
    """Whether both events of a pair are seen, the first one first."""
    first, second = (find_step(event.kind, found[event.body]) for event in pair)
    return first is not None and second is not None and first.at < second.at


def still_so(found: list[Track], event: Event) -> bool:
    """Whether an event is seen and its effect is there at the end."""
    step = find_step(event.kind, found[event.body])
    return step is not None and step.lasts


def scored_stories(count: int, first_seed: int = FIRST_SEED) -> Iterator[Scene]:
    """The first `count` stories by seed with a held-out combination, two events to tell in order, and a camera that stands: what changes
    in the picture then is what happens."""
    drawn = (sample_story(seed, ACTS, held_out=True) for seed in itertools.count(first_seed))
    return itertools.islice((scene for scene in drawn if scene.camera.stands and told_pair(scene)), count)


def story_rows(bench: Bench) -> Iterator[Row]:
    """Long captions of stories, made and read; the reference is what is read of renders of them."""
    studio = bench.studio
    shape = studio.shape(*SIZES["1:1"], frames_for_seconds(SECONDS, studio.pipeline.header.native_fps))
    orders, effects, stories = ([], []), ([], []), []  # of what was made, of renders; the story of each effect
    for i, scene in enumerate(scored_stories(bench.budget.stories)):
        made = studio.video(long_caption(scene, "en", SECONDS), shape, scene.seed)
        renders = render(scene, [k / shape.fps for k in range(shape.frames)], *SIZES["1:1"])
        for frames, order, effect in zip((made, renders), orders, effects):
            found = tracks(frames, scene)
            order.append(in_order(found, told_pair(scene)))
            effect += [still_so(found, event) for event in told_effects(scene)]
        stories += [i] * (len(effects[0]) - len(stories))
        bench.say(f"story {i + 1}/{bench.budget.stories}")
    for name, (hits, true), of in (("order of two events", orders, None), ("lasting effects", effects, stories)):
        if hits:
            yield share_row(f"prompt adherence: {name}", hits, BAR, sum(true) / len(true), of)
