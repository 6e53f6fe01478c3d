"""The procedural world: seeds, the held-out split, geometry at any second, frames of any size, captions that are never false."""

import colorsys
import random
import re
from dataclasses import replace

import pytest
import torch

from sora_pack.sora_core import world
from sora_pack.sora_core.world import camera, layout, motion, phrases, scene

ASPECTS = [(128, 128), (176, 96), (96, 176)]
SCENES = [world.sample_scene(seed) for seed in range(200)]


def test_same_seed_same_scene_same_frames():
    again = world.sample_scene(7)
    assert again == world.sample_scene(7)
    assert again != world.sample_scene(8)
    assert torch.equal(world.render(again, [0.3], 48, 48), world.render(world.sample_scene(7), [0.3], 48, 48))


def test_json_laptrip():
    for one in SCENES[:50]:
        assert world.Scene.from_json(one.to_json()) == one


def test_split_is_disjoint_and_small():
    train = [world.sample_scene(seed, held_out=False) for seed in range(150)]
    test = [world.sample_scene(seed, held_out=True) for seed in range(50)]
    assert not any(world.is_held_out(one) for one in train)
    assert all(world.is_held_out(one) for one in test)
    for table, size in (
        (scene.HELD_OUT_COLOUR_SHAPE, len(world.COLOURS) * len(world.SHAPES)),
        (scene.HELD_OUT_COLOUR_PLACE, len(world.COLOURS) * len(world.PLACES)),
        (scene.HELD_OUT_SHAPE_MOTION, len(world.SHAPES) * len(world.MOTIONS)),
    ):
        assert 0.05 < len(table) / size < 0.11
    # every single word is still trained on
    bodies = [body for one in train for body in one.objects]
    assert {b.colour for b in bodies} == set(world.COLOURS) and {b.shape for b in bodies} == set(world.SHAPES)
    assert {b.motion for b in bodies} == set(world.MOTIONS) and {one.place for one in train} == set(world.PLACES)


def test_limits_of_sampling():
    for seed in range(30):
        one = world.sample_scene(seed, max_objects=2, motions=("still", "bounce"), cameras=("static",), max_movers=1)
        assert len(one.objects) <= 2 and one.camera.kind == "static"
        assert {b.motion for b in one.objects} <= {"still", "bounce"}
        assert sum(b.motion != "still" for b in one.objects) <= 1


@pytest.mark.parametrize("call", [{"motions": ("fly",)}, {"cameras": ("shake",)}, {"max_objects": 4}, {"max_objects": 0}])
def test_limits_are_checked(call):
    with pytest.raises(ValueError, match="fly|shake|room for 1 to 3"):
        world.sample_scene(0, **call)


def test_scene_to_order():
    one = world.scene_for([("red", "ball", "bounce"), ("blue", "cube", "still", "large")], "beach", "sunset", "orbit", seed=3)
    told = [(b.colour, b.shape, b.motion) for b in one.objects]
    assert told == [("red", "ball", "bounce"), ("blue", "cube", "still")] and one.objects[1].size == "large"
    assert (one.place, one.time_of_day, one.camera.kind) == ("beach", "sunset", "orbit")
    with pytest.raises(ValueError, match="colour='pink' is not known"):
        world.scene_for([("pink", "ball")])
    with pytest.raises(ValueError, match="cannot come closer while the camera zooms out"):
        world.scene_for([("red", "ball", "come closer")], camera="zoom out")


def test_objects_stay_in_view_in_three_aspects_and_apart():
    generator = torch.Generator().manual_seed(0)
    times = torch.rand(120, generator=generator, dtype=torch.float64) * 60
    for one in SCENES:
        where, view = motion.positions(one, times), camera.pose(one.camera, times)
        for i, body in enumerate(one.objects):
            across, up, _ = camera.project(view, layout.corners(where[:, i], body.clearance, body.height))
            for width, height in ASPECTS:
                tan_x, tan_y = camera.tangents(width, height)
                assert across.abs().max() < tan_x and up.abs().max() < tan_y, (one.seed, i)
            for j in range(i):
                gap = (where[:, i] - where[:, j])[:, ::2].norm(dim=-1).min().item()
                assert gap > body.clearance + one.objects[j].clearance, (one.seed, i, j, gap)


def test_motion_does_what_its_name_says():
    for one in SCENES:
        times = torch.linspace(0, 5, 41, dtype=torch.float64)
        for body in one.objects:
            path = motion.position(body, times)
            if body.motion.startswith("slide"):
                steps = path[:, 0].diff() * (1 if body.motion == "slide right" else -1)
                assert steps.min() > 0, one.seed
            elif body.motion == "come closer":
                assert (camera.pose(one.camera, times).eye - path).norm(dim=-1).diff().max() < 0, one.seed
            elif body.motion == "bounce":
                assert path[:, 1].min() >= 0 and path[:, 1].max() > 0.5
            elif body.motion == "circle":
                lap = motion.position(body, torch.linspace(0, body.period, 41, dtype=torch.float64)[:-1])
                arm = lap - lap.mean(0)
                radius, turned = arm.norm(dim=-1), torch.linalg.cross(arm, arm.roll(-1, 0))[:, 1]
                assert radius.max() - radius.min() < 1e-6 and radius.min() > 0.1, one.seed
                assert turned.min() > 0 or turned.max() < 0, "it goes on in one direction"
            elif body.motion == "still":
                assert torch.equal(path[0], path[-1])


def test_any_size_and_one_frame():
    one = world.sample_scene(3)
    for width, height in [(37, 91), (91, 37), (1, 1), (2, 300)]:
        frames = world.render(one, [1.7], width, height)
        assert frames.shape == (1, height, width, 3) and frames.dtype == torch.uint8
    with pytest.raises(ValueError, match="at least 1 pixel"):
        world.render(one, [0.0], 0, 8)


def test_frame_does_not_depend_on_its_batch():
    """The same second alone, among others, and with other scenes: equal but for the last bit of a vectorised sine."""
    times = [0.0, 59.9, 1.25, 3.0, 0.5]
    chosen = SCENES[:12]
    together = world.render_batch(chosen, [times] * len(chosen), 40, 56)
    for one, frames in zip(chosen, together):
        alone = torch.cat([world.render(one, [t], 40, 56) for t in times])
        worst = (frames.int() - alone.int()).abs().max().item()
        assert worst <= 1, f"scene {one.seed}: max_diff={worst}"


def test_every_object_is_seen_in_its_colour_and_casts_a_shadow():
    for shape in world.SHAPES:
        one = replace(world.scene_for([("red", shape)], "snow", "day", seed=1), light=1.15)
        frame = world.render(one, [0.0], 128, 128)[0].float()
        ground = frame[96:].reshape(-1, 3).median(0).values
        red = (frame[..., 0] - frame[..., 1] > 60).sum().item()
        # a shadow on snow is darker, and bluer as only the sky lights it
        shadow = ((frame[64:, :, 0] < 0.85 * ground[0]) & (frame[64:, :, 2] > frame[64:, :, 0])).sum().item()
        assert 300 < red < 2500, (shape, red)
        assert shadow > 25, (shape, shadow)


HUES = {"red": 0, "orange": 30, "yellow": 55, "green": 130, "blue": 230, "purple": 285}  # degrees


def test_all_eight_colours_are_seen():
    scenes = {colour: world.scene_for([(colour, "ball", "still", "large")], "meadow", "day", seed=1) for colour in world.COLOURS}
    frames = {colour: world.render(one, [0.0], 64, 64)[0].float() / 255 for colour, one in scenes.items()}
    together = torch.stack(list(frames.values()))
    body = (together.amax(0) - together.amin(0)).amax(-1) > 0.15
    assert body.sum() > 200 and len(frames) == 8
    for colour, frame in frames.items():
        hue, saturation, value = colorsys.rgb_to_hsv(*frame[body].median(0).values.tolist())
        if colour in HUES:
            assert saturation > 0.5 and abs((360 * hue - HUES[colour] + 180) % 360 - 180) < 15, (colour, 360 * hue, saturation)
        else:
            assert saturation < 0.2 and (value > 0.6 if colour == "white" else value < 0.3), (colour, saturation, value)


def test_times_of_day_and_places_differ():
    means = {}
    for place in world.PLACES:
        for hour in world.TIMES_OF_DAY:
            frame = world.render(world.scene_for([("black", "ball")], place, hour, seed=2), [0.0], 32, 32)[0]
            means[place, hour] = frame.float().mean((0, 1))
    keys = list(means)
    for a in range(len(keys)):
        for b in range(a):
            assert (means[keys[a]] - means[keys[b]]).abs().max() > 8, (keys[a], keys[b])


def test_facts_of_a_window_follow_the_leg():
    rng = random.Random(0)
    movers = [one for one in SCENES if any(b.motion.startswith("slide") for b in one.objects)]
    for one in movers:
        start, seconds = rng.uniform(0, 50), rng.uniform(0.5, 4)
        for kind, value in world.facts(one, start, seconds):
            if kind != "motion" or not value[1].startswith("slide"):
                continue
            i, told = value
            times = torch.tensor([start + 0.3, start + max(seconds - 0.3, 0.4)], dtype=torch.float64)
            first, last = motion.position(one.objects[i], times)[:, 0].tolist()
            if told != "slide back and forth":
                assert (last > first) == (told == "slide right"), (one.seed, start, seconds)


# ---- captions: everything said is eaten by phrases that are true; what is left may only be words that say nothing

NEUTRAL = {
    "en": ["a video of", "the video shows", "a scene", "there is", "there are", "is seen", "is", "a", "an", "the", "and", ",", "."],
    "zh": ["画面里", "一个", "的", "有", "和", "，", "。"],
}
EITHER = r"(?<![a-z])(?:%s)(?![a-z])"


def any_of(options, language):
    body = "|".join(re.escape(o.lower()) for o in sorted(options, key=len, reverse=True))
    return (EITHER % body) if language == "en" else f"(?:{body})"


def left_of_at_all_times(one, i, j):
    times = torch.linspace(0, 60, 400, dtype=torch.float64)
    across, _, _ = camera.project(camera.pose(one.camera, times), motion.positions(one, times))
    return bool((across[:, i] < across[:, j]).all())


def eat_objects(text, one, table, language, motions):
    """Noun phrases, with what the object does, become <i>."""
    verbs = ("doing", "does") if language == "en" else ("does",)
    gap = " " if language == "en" else "的?"
    for i, body in enumerate(one.objects):
        sizes = [s for s in table["size"][body.size] if s]
        does = any_of([p for v in verbs for p in table[v][motions[i]]], language)
        colour, shape = any_of(table["colour"][body.colour], language), any_of(table["shape"][body.shape], language)
        size = f"(?:{any_of(sizes, language)} ?)?" if sizes else ""
        text = re.sub(f"{size}{colour}{gap}{shape}(?:,? ?{does})?", f" <{i}> ", text)
    return text


def relations(text, table, language):
    """(i, j) for every 'i left of j' said; and the text without it."""
    said = []
    for side in ("left of", "right of"):
        if language == "en":
            pattern = rf"<(\d)>\s*(?:is |is seen )?{any_of(table[side], language)}\s*(?:an? |the )?\s*<(\d)>"
        else:
            forms = "|".join(re.escape(p).replace(r"\{b\}", r"(?:一个)?\s*<(\d)>\s*") for p in table[side])
            pattern = rf"<(\d)>\s*(?:{forms})"
        for match in re.finditer(pattern, text):
            i, j = (int(g) for g in match.groups() if g is not None)
            said.append((i, j) if side == "left of" else (j, i))
        text = re.sub(pattern, " ", text)
    return said, text


def unsupported(one, text, language):
    """(what of a caption no true phrase accounts for, the relations it states)."""
    table = phrases.ENGLISH if language == "en" else phrases.CHINESE
    known = world.facts(one)
    motions = dict(fact.value for fact in known if fact.kind == "motion")
    single = {fact.kind: fact.value for fact in known if not isinstance(fact.value, tuple)}
    film = " ".join(filter(None, (single["camera"], single.get("camera direction"))))
    said, rest = relations(eat_objects(text.lower(), one, table, language, motions), table, language)
    true = [p for kind in ("filming", "films") if kind in table for p in table[kind][film]]
    for kind, value in (("where", one.place), ("scenery", one.place), ("tags", one.place), ("count", len(one.objects))):
        true += table[kind][value]
    true += table["when"][one.time_of_day] + table["mood"][one.time_of_day] + table["tags"][one.time_of_day]
    if "light from" in single:
        true += table["light from"][single["light from"]]
    rest = re.sub(any_of([p.rstrip(".") for p in true], language), " ", rest)
    rest = re.sub(r"<\d>", " ", rest)
    for word in NEUTRAL[language]:
        rest = re.sub(any_of([word], language) if word[0].isalpha() else re.escape(word), " ", rest)
    return rest.strip(), said


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("length", ["short", "medium", "long"])
def test_captions_are_never_false(language, length):
    stated = caught = 0
    for number, one in enumerate(SCENES):
        text = world.caption(one, length, language, number)
        rest, said = unsupported(one, text, language)
        assert rest == "", (one.seed, text, rest)
        for i, j in said:
            assert left_of_at_all_times(one, i, j), (one.seed, text)
        stated += len(said)
        # the check itself: the same words under another scene
        caught += unsupported(SCENES[number - 1], text, language)[0] != ""
    assert stated > 10
    assert caught > 0.97 * len(SCENES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_long_captions_name_every_object_and_fit_their_length(language):
    lengths = []
    for one in SCENES:
        text = world.caption(one, "long", language, 1).lower()
        table = phrases.ENGLISH if language == "en" else phrases.CHINESE
        marked = eat_objects(text, one, table, language, dict(f.value for f in world.facts(one) if f.kind == "motion"))
        assert all(f"<{i}>" in marked for i in range(len(one.objects))), text
        lengths.append(len(text.encode()))
    assert 120 <= min(lengths) and max(lengths) <= 400, (min(lengths), max(lengths))


def test_captions_vary_and_their_words_are_known():
    known = world.vocabulary()
    for one in SCENES[:60]:
        for length in ("short", "medium", "long"):
            english = {world.caption(one, length, "en", seed) for seed in range(6)}
            assert len(english) >= 3
            assert set(re.findall(r"[a-z]+", " ".join(english).lower())) <= known
            assert set(world.caption(one, length, "zh", 5)) <= known
    with pytest.raises(ValueError, match="use short, medium or long"):
        world.caption(SCENES[0], "tiny")
