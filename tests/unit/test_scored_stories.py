"""Events, shots and space in videos: read right from renders, and not from renders that were spoiled."""

from dataclasses import replace
from itertools import count

import pytest
import torch

from sora_pack.sora_core.evaluation import geometry, permanence, shots, story_events, tracking
from sora_pack.sora_core.world import SHAPES, Object, Scene, events, render, sample_story, scene_for

FPS, FRAMES, SIDE = 8, 41, 64
TIMES = [k / FPS for k in range(FRAMES)]

LAMP = Object("lamp", "red", x=-1.4, change="switch on", at=1.0)
APPLE = Object("apple", "green", x=1.4, z=0.8, change="bite", at=3.2)
STORY = Scene((LAMP, APPLE), "snow")


def followed(scene: Scene, frames: torch.Tensor | None = None) -> list[tracking.Track]:
    return tracking.tracks(render(scene, TIMES, SIDE, SIDE) if frames is None else frames, scene)


# -- events ------------------------------------------------------------------------------------------------------------------------------


def test_a_track_is_where_the_body_is_and_knows_when_it_is_not():
    scene = Scene((Object("ball", "red", x=-1.5), Object("cube", "blue", x=1.5)))
    red, blue = followed(scene)
    assert red.area.min() > 60 and red.x[0] < -0.3 and blue.x[0] > 0.3, (red.x[0], blue.x[0])
    assert abs(red.wide[0] / red.tall[0] - 1) < 0.15, "a ball is as wide as tall"
    gone = followed(scene, render(replace(scene, objects=(scene.objects[1],)), TIMES, SIDE, SIDE))
    assert gone[0].area.max() == 0 and gone[1].area.min() > 60


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_tells_the_shape(shape):
    for size, turn in (("small", 0.2), ("normal", 0.8), ("large", 1.3)):
        scene = Scene((Object(shape, "orange", size, turn=turn),), "room")
        assert tracking.seen_shape(render(scene, [0.0, 1.0], 128, 128), scene, "orange") == shape, size
    assert tracking.seen_shape(render(scene, [0.0], 128, 128), scene, "blue") is None


@pytest.mark.parametrize("kind", story_events.SIGNS)
def test_an_event_is_found_when_it_happens_and_not_where_it_does_not(kind):
    act = {"uncover": "cover", "switch on": "lamp"}.get(kind, kind)
    stories = (sample_story(seed, (act,)) for seed in count(20))
    scene, event = next((s, e) for s in stories if s.camera.stands and "white" not in [b.colour for b in s.objects]
                        for e in events(s) if e.kind == kind)  # fmt: skip
    frames = render(scene, TIMES, SIDE, SIDE)
    step = story_events.find_step(kind, followed(scene, frames)[event.body])
    assert step is not None and FPS * event.at - 1.5 <= step.at <= FPS * event.end + 1.5, (scene.seed, event, step)
    still = frames[:1].expand(FRAMES, -1, -1, -1)
    assert story_events.find_step(kind, followed(scene, still)[event.body]) is None


def test_order_is_that_of_the_video_not_of_the_words():
    pair = story_events.told_pair(STORY)
    assert [event.kind for event in pair] == ["switch on", "bite"]
    assert story_events.in_order(followed(STORY), pair)
    swapped = replace(STORY, objects=(replace(LAMP, at=3.2), replace(APPLE, at=1.0)))
    half = replace(STORY, objects=(LAMP, replace(APPLE, change="")))
    for spoiled in (swapped, half):
        assert not story_events.in_order(followed(spoiled), pair)


def test_an_effect_that_goes_away_does_not_last():
    frames = render(STORY, TIMES, SIDE, SIDE)
    effects = story_events.told_effects(STORY)
    assert [event.kind for event in effects] == ["switch on", "bite"]
    assert all(story_events.still_so(followed(STORY, frames), event) for event in effects)
    healed = torch.cat([frames[:34], frames[:7]])  # as if nothing had happened
    never = frames[:1].expand(FRAMES, -1, -1, -1)
    for spoiled in (healed, never):
        assert not any(story_events.still_so(followed(STORY, spoiled), event) for event in effects)


def test_scored_stories_have_two_events_to_tell():
    for scene in story_events.scored_stories(2):
        first, second = story_events.told_pair(scene)
        assert first.end <= second.at and first.body != second.body and scene.camera.stands


def test_who_comes_back_is_known_by_colour_shape_and_place():
    [case] = permanence.hidings(1, FPS)
    frames = render(case.scene, TIMES, 128, 128)
    assert permanence.came_back(frames, case, FPS) == (True, True)
    bodies = list(case.scene.objects)
    bodies[case.body] = replace(bodies[case.body], shape="cone" if bodies[case.body].shape != "cone" else "ball")
    other = torch.cat([frames[: case.back], render(replace(case.scene, objects=tuple(bodies)), TIMES, 128, 128)[case.back :]])
    assert permanence.came_back(other, case, FPS) == (False, True), "it came back in another shape"
    stays = torch.cat([frames[: case.back], frames[case.last_seen].expand(FRAMES - case.back, -1, -1, -1)])
    assert permanence.came_back(stays, case, FPS) == (True, False), "it is where it was before"
    never = torch.cat([frames[: case.back], frames[(case.last_seen + case.back) // 2].expand(FRAMES - case.back, -1, -1, -1)])
    assert permanence.came_back(never, case, FPS) == (False, False), "it never came back"


# -- space -------------------------------------------------------------------------------------------------------------------------------


def test_reprojection_finds_a_world_that_is_not_solid():
    scene = scene_for([("red", "ball"), ("blue", "cube")], camera="orbit", seed=1)
    renders = render(scene, TIMES, SIDE, SIDE)
    true = geometry.reprojection_errors(renders, scene, TIMES)
    assert max(true) < 0.025, true
    frozen = geometry.reprojection_errors(renders[:1].expand(FRAMES, -1, -1, -1), scene, TIMES)
    assert frozen[0] > true[0] + 0.03 and frozen[1] < 0.025, f"it is solid, but the camera does not move: {frozen}"
    ball, cube = scene.objects
    loose = replace(scene, objects=(replace(ball, motion="slide right", reach=1.5, period=6.5), cube))
    drifting = geometry.reprojection_errors(render(loose, TIMES, SIDE, SIDE), scene, TIMES)
    assert min(drifting) > max(true) + 0.015, f"one body slides: {drifting}, renders {true}"
    alone = geometry.reprojection_errors(render(replace(scene, objects=(cube,)), TIMES, SIDE, SIDE), scene, TIMES)
    assert min(alone) > geometry.LOST / 2, f"one body is gone: {alone}"


# -- shots -------------------------------------------------------------------------------------------------------------------------------


def test_a_cut_is_found_at_its_frame_and_a_fade_is_none():
    day, night = (scene_for([("red", "ball", "slide left")], place, hour) for place, hour in (("meadow", "day"), ("room", "night")))
    film = shots.render_shots([day, night], [13, 20], FPS, 128, 128)
    assert film.shape == (33, 128, 128, 3) and shots.cuts_in(film) == [13]
    assert shots.cuts_in(shots.render_shots([day, night], [9, 24], FPS, 128, 128)) == [9]
    assert not shots.cuts_in(film[:13]), "nothing is cut"
    assert shots.cuts_in(torch.cat([film, film])) == [13, 33, 46]
    share = torch.linspace(0, 1, 17).view(-1, 1, 1, 1)
    fade = (film[12] * (1 - share) + film[13] * share).byte()
    assert not shots.cuts_in(torch.cat([film[:12], fade, film[14:]]))


def test_a_character_is_the_same_only_with_its_colour_and_shape_in_all_shots():
    red = Object("ball", "red", name="Bobo")
    places = [Scene((red,), place) for place in ("meadow", "snow")]
    others = [replace(red, colour="blue"), replace(red, shape="cone")]
    parts = [render(scene, TIMES[:17], 96, 96) for scene in (*places, *(replace(places[1], objects=(other,)) for other in others))]
    assert shots.same_characters(places, parts[:2]) == [True]
    for part, spoiled in zip(parts[2:], others):
        assert shots.same_characters(places, [parts[0], part]) == [False], spoiled
