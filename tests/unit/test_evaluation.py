"""The scorecard: every measure says what is known on made-up inputs, bad where it is bad; the observer answers; a killed run goes on."""

import copy
import itertools
import json
import sys
import xml.etree.ElementTree as ET
from argparse import Namespace
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sora_pack.sora_core.checkpoint import load_transformer, save_model
from sora_pack.sora_core.evaluation import __main__ as program
from sora_pack.sora_core.evaluation import (
    adherence,
    bench,
    cameras,
    geometry,
    hearing,
    metrics,
    observer_training,
    permanence,
    physics,
    quality,
    report,
    rows,
    surprise,
)
from sora_pack.sora_core.evaluation import observer as eyes
from sora_pack.sora_core.evaluation.bench import FULL, QUICK
from sora_pack.sora_core.evaluation.intervals import bootstrap, geometric_mean, independent, means, wilson
from sora_pack.sora_core.evaluation.studio import Studio, digest
from sora_pack.sora_core.generate import generate
from sora_pack.sora_core.pipeline import Pipeline
from sora_pack.sora_core.plan import Lattice, single
from sora_pack.sora_core.world import STORY_CAMERAS, Camera, Object, Scene, caption, is_held_out, phyworld, render, scene_for, story_phrases
from sora_pack.sora_core.world.camera import picture_paths
from sora_pack.tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pipeline(model):
    return Pipeline.load(model, torch.float32)


@pytest.fixture(scope="module")
def observer():
    torch.manual_seed(0)
    return eyes.Observer(8).eval()


def moving_bar(jump_at: int | None = None, frames: int = 16) -> torch.Tensor:
    """A white bar that moves a pixel a frame over black, and ten pixels at `jump_at`."""
    video = torch.zeros(frames, 8, 64, 3, dtype=torch.uint8)
    for t in range(frames):
        x = t + 5 + (10 if jump_at is not None and t >= jump_at else 0)
        video[t, :, x : x + 12] = 255
    return video


# -- intervals ---------------------------------------------------------------------------------------------------------------------------


def test_wilson_is_the_published_interval():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 7)[0] == 0.0 and wilson(0, 0) == (0.0, 1.0)


def test_what_is_counted_in_one_clip_is_worth_less_where_it_goes_together():
    clips = [0, 0, 1, 1, 2, 2, 3, 3]
    assert independent([True, True, False, False, True, True, False, False], clips) == pytest.approx(4), "as many as clips"
    assert independent([True, False] * 4, clips) == 8, "no more than there are"
    assert independent([True] * 8, clips) == independent([False] * 8, clips) == 4
    assert independent([True, False, True], [5, 7, 9]) == pytest.approx(3), "one a clip"
    hits = [True, True, False, False, True, True, True, True]
    assert (
        report.share_row("a", hits, clips=clips).low < report.share_row("a", hits).low and report.share_row("a", hits, clips=clips).n == 8
    )
    assert means([1, 0, 1, 1], [2, 2, 7, 7]) == [0.5, 1.0]


def test_bootstrap_holds_the_mean_and_is_empty_without_spread():
    low, high = bootstrap(np.random.default_rng(0).normal(3, 1, 400))
    assert 2.8 < low < 3 < high < 3.2
    assert bootstrap([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert geometric_mean(np.array([0.5, 2.0])) == pytest.approx(1.0)


# -- numbers from frames -------------------------------------------------------------------------------------------------------------------


def test_drift_is_one_for_the_same_and_tells_what_faded():
    video = torch.randint(0, 256, (1, 16, 16, 3), generator=torch.Generator().manual_seed(0)).byte().repeat(40, 1, 1, 1)
    assert all(value == pytest.approx(1.0) for value in metrics.drift(video, 4.0).values())
    grey = video.clone()
    grey[-20:] = grey[-20:].float().mean(-1, keepdim=True).byte()
    faded = metrics.drift(grey, 4.0)
    assert faded["saturation"] < 0.01 and faded["contrast"] > 0.5
    flat = video.clone()
    flat[-20:] = (flat[-20:].float() / 2 + 64).byte()
    assert metrics.relative_drift(flat, video, 4.0) == pytest.approx(dict.fromkeys(metrics.DRIFTS, 0.5), abs=0.02)
    with pytest.raises(ValueError, match="needs 40 or more"):
        metrics.drift(video[:39], 4.0)


def test_a_seam_is_seen_only_where_there_is_one():
    assert metrics.seam_jump(moving_bar(), [8]) == pytest.approx(1.0, abs=0.01)
    assert metrics.seam_jump(moving_bar(jump_at=8), [8]) > 5
    assert metrics.seam_jump(torch.zeros(8, 4, 4, 3, dtype=torch.uint8), [4]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="borders"):
        metrics.seam_jump(moving_bar(), [0])


def test_psnr_of_a_known_error():
    black = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    assert metrics.psnr(black, black + 51) == pytest.approx(13.979, abs=1e-3)  # a fifth of the range
    assert metrics.psnr(black, black) == 100


def spoiled(frames: torch.Tensor, decibels_a_minute: float = 0.0) -> torch.Tensor:
    """Frames with noise that grows with the length, as a codec that drifts decodes them, and more of it where a picture is bright."""
    noise = torch.randn(frames[:1].shape, generator=torch.Generator().manual_seed(0))
    grown = 10 ** (torch.arange(len(frames)) / quality.MINUTE * decibels_a_minute / 20)
    return (frames + (4 + frames / 32) * noise * grown.view(-1, 1, 1, 1)).round().clamp(0, 255).byte()


@pytest.mark.parametrize("lost, is_met", [(0.0, True), (1.0, False)])
def test_a_codec_that_loses_a_decibel_a_minute_is_caught_whatever_is_shown(lost, is_met):
    class Codec:
        def encode(self, frames):
            return frames

        def decode(self, frames):
            return spoiled(frames, lost)

    budget = replace(bench.QUICK, minutes=2, minute_side=16)
    from_start, from_clip = quality.length_rows(bench.Bench(Codec(), None, budget))
    assert from_start.value == pytest.approx(-lost, abs=0.1) and from_clip.value == pytest.approx(-lost, abs=0.15)
    assert {report.met(row) for row in (from_start, from_clip)} == {is_met} and from_start.n == 2


def test_a_recurring_scene_shows_in_second_60_what_it_did_in_second_1():
    scene = scene_for([("red", "ball", "bounce"), ("blue", "cube", "slide left"), ("green", "cone", "circle")], camera="orbit")
    seconds = torch.arange(8) / 8
    first, last = (render(quality.recurring(scene), (start + seconds).tolist(), 32, 32).int() for start in (0, 59))
    assert (first - last).abs().max() <= 1 and not torch.equal(first[0], first[7])


# -- physics -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", phyworld.KINDS)
def test_phyworld_outside_of_what_is_trained_on(kind):
    for seed in range(20):
        clip = phyworld.sample(kind, seed, outside=True)
        assert all(0.3 <= r <= 0.6 or 1.5 <= r <= 2.0 for r in clip.radii)
        speeds = np.abs(np.diff(clip.paths[:2, :, 0], axis=0)) / phyworld.FRAME_SECONDS
        assert ((speeds <= 0.8 + 1e-9) | ((speeds >= 4.5 - 1e-9) & (speeds <= 6.0 + 1e-9))).all()
        floor = physics.errors(clip, phyworld.draw(clip, 64))
        assert floor["clip mean"] < 0.2 and floor["position"] < 0.1, floor


@pytest.mark.parametrize("kind", phyworld.KINDS)
def test_phyworld_has_a_low_floor_and_finds_a_frozen_world_wrong(kind):
    clip = phyworld.sample(kind, 1)
    frames = phyworld.draw(clip, 64)
    floor = physics.errors(clip, frames)
    assert floor["clip mean"] < 0.05 and floor["position"] < 0.03, floor
    frozen = physics.errors(clip, frames[2:3].expand(phyworld.FRAMES, -1, -1, -1))
    assert frozen["clip mean"] > 0.2 and frozen["per frame"] > 0.2 and frozen["position"] > 0.1, frozen
    gone = physics.errors(clip, torch.full_like(frames, 255))
    assert gone["position"] > 1, gone


def test_phyworld_keeps_momentum_and_energy_and_falls_as_gravity_says():
    clip = phyworld.sample("collision", 3)
    speeds = np.diff(clip.paths[:, :, 0], axis=0) / phyworld.FRAME_SECONDS
    mass = np.square(clip.radii)
    for power in (1, 2):
        before, after = mass @ speeds[0] ** power, mass @ speeds[-1] ** power
        assert before == pytest.approx(after), f"sum of m v^{power}: {before} before, {after} after"
    fall = phyworld.sample("parabola", 3).paths[:, 0]
    assert np.diff(fall[:, 1], 2) == pytest.approx(phyworld.GRAVITY * phyworld.FRAME_SECONDS**2)
    assert np.diff(fall[:, 0], 2) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="uniform, collision, parabola"):
        phyworld.sample("pendulum", 0)


# -- hiding and impossible clips -----------------------------------------------------------------------------------------------------------


def test_a_body_that_hides_is_seen_before_and_after_and_not_between():
    """Repainting it changes no pixel between, and many where it is said to be seen."""
    [case] = permanence.hidings(1, 8.0)
    looks = case.scene.objects[case.body]
    bodies = list(case.scene.objects)
    bodies[case.body] = replace(looks, colour="blue" if looks.colour != "blue" else "yellow")
    hidden = round((case.last_seen + case.back) / 2)
    times = [frame / 8 for frame in (case.last_seen, hidden, case.back)]
    seen, repainted = (render(scene, times, 64, 64).int() for scene in (case.scene, replace(case.scene, objects=tuple(bodies))))
    changed = ((seen - repainted).abs().amax(-1) > 2).sum((1, 2)).tolist()
    assert changed[0] > 15 and changed[1] == 0 and changed[2] > 15, changed
    assert case.last_seen >= 8 * permanence.BEFORE - 1 and case.back <= 8 * (permanence.SECONDS - permanence.AFTER) + 1


@pytest.mark.parametrize("what", surprise.BREAKS)
def test_impossible_clips_are_made_of_the_frames_of_the_possible_ones(what):
    scene = scene_for([("red", "ball", "slide left")])
    possible, impossible = surprise.quadruple(scene, what, 9, 8.0, 24)

    def frames(clips):
        return sorted(frame.numpy().tobytes() for clip in clips for frame in clip)

    assert frames(possible) == frames(impossible)
    assert not torch.equal(possible[0][4], possible[1][4]), f"nothing is broken by {what}"
    with pytest.raises(ValueError, match="colour, shape"):
        surprise.broken(scene, "smell")


def test_scenes_of_the_rows_are_held_out(monkeypatch):
    assert all(is_held_out(case.scene) for case in permanence.hidings(2, 8.0)) and all(map(is_held_out, geometry.orbit_scenes(2)))

    def sampled(*_, held_out=None, **__):
        raise RuntimeError(f"held_out={held_out}")

    for module, measured in ((quality, quality.reconstruction_rows), (surprise, surprise.surprise_rows)):
        monkeypatch.setattr(module, "sample_scene", sampled)
        with pytest.raises(RuntimeError, match="held_out=True"):
            list(measured(bench.Bench(None, None, bench.QUICK)))


# -- facts -------------------------------------------------------------------------------------------------------------------------------


def perfect(scene: Scene, seconds: float = 2.0) -> eyes.Reading:
    """What an observer without error says."""
    path = picture_paths(scene, observer_training.moments(0.0, seconds))
    words = {(f.colour, f.kind): f.value for f in adherence.visible(scene, seconds)}
    bodies = {
        body.colour: eyes.Body(body.shape, body.size, words[body.colour, "motion"], path[i], 1.0) for i, body in enumerate(scene.objects)
    }
    camera, direction = words["", "camera"], words.get(("", "camera direction"))
    return eyes.Reading(bodies, len(scene.objects), scene.place, scene.time_of_day, camera, direction)


def test_all_facts_are_found_in_a_perfect_reading_and_the_wrong_one_is_missed():
    for scene in adherence.scored_scenes(12):
        reading = perfect(scene)
        for language in ("en", "zh"):
            said = adherence.told(scene, adherence.long_caption(scene, language, 2.0), language, 2.0)
            assert len(said) >= 7 and all(adherence.found(fact, reading) for fact in said), said
    scene = scene_for([("red", "ball", "bounce"), ("blue", "cube", "still")], "snow", "night", "orbit")
    reading = perfect(scene)
    wrong = replace(reading, place="beach", bodies={"blue": replace(reading.bodies["blue"], shape="ball")})
    missed = {adherence.described(f) for f in adherence.visible(scene, 2.0) if not adherence.found(f, wrong)}
    expected = {"place snow", "something red", "red ball", f"red {scene.objects[0].size}", "red bounce", "blue cube", "red left of blue"}
    assert missed == expected


def test_sides_count_only_where_a_caption_compares_bodies():
    two = scene_for([("red", "ball"), ("blue", "cube")])
    for language, compared, lit in (
        ("en", "The red ball is to the left of the blue cube.", "Shadows fall to the left. It slides to the left."),
        ("zh", "红球在蓝方块的左边。", "影子落在左边。光从左边照来。"),
    ):
        assert any(f.kind == "left of" for f in adherence.told(two, compared, language, 2.0))
        assert not any(f.kind == "left of" for f in adherence.told(two, lit, language, 2.0)), lit


def test_every_long_caption_tells_what_is_counted():
    """`told` counts colours and shapes of all bodies: a long caption must name them."""
    for scene in adherence.scored_scenes(20):
        text = caption(scene, "long", "zh", scene.seed, seconds=2.0) + adherence.long_caption(scene, "en", 2.0).lower()
        assert all(body.colour in text or {"purple": "violet"}.get(body.colour, "?") in text for body in scene.objects), text


# -- cameras -----------------------------------------------------------------------------------------------------------------------------

TWO_SECONDS = [k / 8 for k in range(17)]
SLIDING = (Object("ball", "red", motion="slide right", reach=4.5, period=5.0), Object("cube", "blue", x=1.5, z=-1.4))
FILMED = [
    ("pan", 1, "meadow"), ("pan", -1, "room"), ("tilt", 1, "meadow"), ("tilt", -1, "snow"), ("rise", 1, "room"),
    ("follow", 1, "meadow"), ("static", 1, "beach"), ("orbit", -1, "snow"), ("zoom in", 1, "beach"),
]  # fmt: skip


def filmed(kind: str, sense: int = 1, place: str = "meadow") -> tuple[Scene, torch.Tensor]:
    scene = Scene(SLIDING, place, camera=Camera(kind, sense=sense))
    return scene, render(scene, TWO_SECONDS, 64, 64)


@pytest.mark.parametrize("kind, sense, place", FILMED)
def test_the_movement_of_a_camera_is_seen(kind, sense, place):
    scene, frames = filmed(kind, sense, place)
    assert cameras.seen_camera(frames, scene, 8.0) == scene.camera
    stands = replace(scene.camera, kind="static")
    assert cameras.seen_camera(frames, replace(scene, camera=stands), 8.0).kind == kind, "what was told is no hint"


@pytest.mark.parametrize("kind", ["pan", "tilt", "rise"])
def test_a_camera_that_goes_the_other_way_or_stands_is_not_taken_for_the_one_that_was_told(kind):
    scene, frames = filmed(kind)
    backwards = cameras.seen_camera(frames.flip(0), scene, 8.0)
    assert (backwards.kind, backwards.sense) == (kind, -1) or kind == "rise" != backwards.kind
    assert cameras.seen_camera(frames[:1].expand(17, -1, -1, -1), scene, 8.0).kind == "static"


def test_stories_are_found_for_every_movement_and_told():
    for kind, [scene] in cameras.filmed_stories(1, 2.0).items():
        assert is_held_out(scene) and scene.camera.kind == kind and not scene.camera.then
        told = adherence.long_caption(scene, "en", 2.0)
        films = story_phrases.ENGLISH["films"]
        words = [text.split("{a}")[0].strip() for name, texts in films.items() if name.split()[0] == kind for text in texts]
        assert any(text in told for text in words), told


# -- the observer ------------------------------------------------------------------------------------------------------------------------


def test_observer_reads_clips_of_any_size_and_length(observer, tmp_path):
    answers = observer(torch.zeros(2, eyes.FRAMES, 3, eyes.SIDE, eyes.SIDE))
    assert answers["where"].shape == (2, eyes.FRAMES, 8, eyes.GRID**2) and answers["path"].shape == (2, 8, eyes.FRAMES, 2)
    assert {name: answers[name].shape[-1] for name in (*eyes.BODY, *eyes.WHOLE)} == {
        name: len(words) for name, words in (eyes.BODY | eyes.WHOLE).items()
    }
    clips = [torch.zeros(17, 96, 176, 3, dtype=torch.uint8), torch.zeros(5, 32, 32, 3, dtype=torch.uint8)]
    readings = observer.read(clips)
    assert all(reading.place in eyes.PLACES and reading.count in range(4) for reading in readings)
    observer.held_out = {"colour": (9, 10)}
    eyes.save_observer(observer, tmp_path / "observer.safetensors")
    again = eyes.load_observer(tmp_path / "observer.safetensors")
    assert again.held_out == {"colour": (9, 10)}
    difference = max((p - q).abs().max().item() for p, q in zip(observer.parameters(), again.parameters()))
    assert difference < 4e-3, f"bfloat16 moved a weight by {difference}"
    with pytest.raises(FileNotFoundError, match="sora_core.evaluation observer"):
        eyes.load_observer(tmp_path / "none.safetensors")


def test_the_glimpse_is_the_middle_square_from_first_to_last_frame():
    wide = torch.zeros(17, 96, 176, 3, dtype=torch.uint8)
    wide[:, :, 40:136] = 100
    wide[0], wide[16] = 50, 200
    seen = eyes.glimpse(wide)
    assert seen.shape == (8, eyes.SIDE, eyes.SIDE, 3)
    assert (seen[0] == 50).all() and (seen[3] == 100).all() and (seen[7] == 200).all()


def test_targets_say_where_a_body_is_and_pass_over_two_of_one_colour():
    scene = scene_for([("red", "ball", "slide left")], camera="static")
    wanted = observer_training.targets(scene, 0.0, 5.0)
    frames = render(scene, observer_training.moments(0.0, 5.0), 64, 64).float()
    for k, (x, y) in enumerate(wanted["path"][0]):
        red, green, _ = frames[k, int((y + 1) * 32), int((x + 1) * 32)]
        assert red > 1.5 * green, f"frame {k}: no red body at {x:.2f}, {y:.2f}"
    assert eyes.SEEN_MOTIONS[wanted["motion"][0]] == "slide left" and wanted["presence"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    two = Scene((Object("ball", "red", x=-2.0), Object("cube", "red", x=2.0)))
    wanted = observer_training.targets(two, 0.0, 2.0)
    assert wanted["presence"][0] == 1 and wanted["shape"][0] == observer_training.IGNORED and wanted["count"] == 2


def test_shares_of_cells_have_their_mean_at_the_point(observer):
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    shares = observer_training.cell_shares(points)
    assert (shares @ observer.place_of_cell - points).abs().max() < 1e-5


def test_a_mirrored_clip_has_mirrored_words():
    scene = scene_for([("red", "ball", "slide left")], camera="orbit")
    drawn = {name: torch.as_tensor(value)[None] for name, value in observer_training.targets(scene, 0.0, 2.0).items()}
    drawn["frames"] = torch.rand(1, eyes.FRAMES, 3, 8, 8)
    once = observer_training.mirror(drawn, torch.tensor([True]))
    assert eyes.SEEN_MOTIONS[once["motion"][0, 0]] == "slide right" and once["motion"][0, 1] == observer_training.IGNORED
    assert torch.equal(once["path"][..., 0], -drawn["path"][..., 0])
    assert {eyes.SEEN_CAMERAS[d["camera"][0]] for d in (once, drawn)} == {"orbit left", "orbit right"}
    twice = observer_training.mirror(once, torch.tensor([True]))
    assert all(torch.equal(twice[name], drawn[name]) for name in drawn)


def test_a_clip_and_its_mirror_image_are_read_alike():
    torch.manual_seed(0)
    observer, clips = eyes.Observer(8).eval(), torch.rand(2, eyes.FRAMES, 3, eyes.SIDE, eyes.SIDE) * 2 - 1
    with torch.inference_mode():
        once, other = observer.both_ways(clips), observer.both_ways(clips.flip(-1))
        alone = observer(clips)
    assert torch.allclose(once["shape"], other["shape"], atol=1e-5) and not torch.allclose(once["shape"], alone["shape"], atol=1e-5)
    left, right = (eyes.SEEN_MOTIONS.index(f"slide {side}") for side in ("left", "right"))
    assert torch.allclose(once["motion"][..., left], other["motion"][..., right], atol=1e-5)
    assert torch.allclose(once["path"][..., 0], -other["path"][..., 0], atol=1e-5), "mirrored, and not at rest in the middle"
    assert once["path"][..., 0].abs().max() > 1e-3


def test_training_the_observer_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(observer_training, "SHARD", 4)
    monkeypatch.setattr(observer_training, "Observer", lambda: eyes.Observer(8))
    first = observer_training.train_observer(tmp_path, steps=2, size=4, shards=1)
    monkeypatch.setattr(observer_training, "batch", None)  # nothing is left to do, so nothing is drawn
    again = observer_training.train_observer(tmp_path, steps=2, size=4, shards=1)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters()))
    counts = observer_training.measure(again, clips=4)
    assert counts["count"][1] == counts["place"][1] >= 2 and all(hits <= n for hits, n in counts.values())


# -- the studio and the scorecard ----------------------------------------------------------------------------------------------------------


def test_latents_are_made_once_and_known_cells_come_back(pipeline, tmp_path, monkeypatch):
    studio = Studio(pipeline, tmp_path, steps=2)
    shape = studio.shape(32, 32, 9)
    known = studio.encode(render(scene_for([("red", "ball")]), [0.0], 32, 32))
    guides = {5: known + 1}
    made = studio.video("a red ball", shape, 0, known, guides)
    assert made.shape == (9, 32, 32, 3)
    [path] = tmp_path.glob("*.safetensors")
    latents = load_file(path)["latents"]
    assert torch.equal(latents[:, :, :1], known) and latents.shape[2] == 3, "known cells stay, guides are stripped"
    monkeypatch.setattr(Studio, "_make", lambda *_: pytest.fail("made again"))
    assert torch.equal(Studio(pipeline, tmp_path, steps=2).video("a red ball", shape, 0, known, guides), made)
    for other in ({"steps": 3}, {"guidance": 3.0}):
        with pytest.raises(pytest.fail.Exception):
            Studio(pipeline, tmp_path, **({"steps": 2} | other)).video("a red ball", shape, 0, known, guides)
    with pytest.raises(pytest.fail.Exception):
        studio.video("a red ball", shape, 0, known, {6: known + 1})


def test_a_film_of_two_shots_is_what_the_core_makes_of_a_plan_with_shots(pipeline, tmp_path):
    studio = Studio(pipeline, tmp_path, steps=2)
    shape = studio.shape(32, 32, 17)
    made = studio.video("a ball", shape, 3, shots={0: "it rolls", 3: "左"})
    [path] = tmp_path.glob("*.safetensors")
    words, *of_shots = (pipeline.text.encode([text]) for text in ("a ball", "it rolls", "左"))
    plan = single(Lattice(shape.cells, frozenset(), (0, 0, 0, 1, 1), (0, 0, 0, 1, 1)))
    true = generate(pipeline.transformer, pipeline.header, words, shape, steps=2, seed=3, plan=plan, shot_words=of_shots)
    assert (load_file(path)["latents"] - true).abs().max() < 1e-5
    assert not torch.equal(made, studio.video("a ball", shape, 3, shots={0: "it rolls", 2: "左"})), "the cut is somewhere else"


def test_the_digest_names_weights_and_sampling(pipeline):
    before = digest(pipeline)
    assert digest(replace(pipeline, header=replace(pipeline.header, shift=9.0))) != before
    other = replace(pipeline, text=copy.deepcopy(pipeline.text))
    assert digest(other) == before
    torch.nn.init.ones_(other.text.stem.bias)
    assert digest(other) != before


@pytest.mark.parametrize(
    "bar, value, low, high, expected",
    [
        (None, 0.1, 0, 1, None),
        (">= 0.95", 0.95, 0.9, 1, True),
        (">= 0.95", 0.94, 0.9, 1, False),
        ("<= 0.02", 0.03, 0, 1, False),
        ("within 0.5", -0.4, -1, 0, True),
        ("within 0.5", -0.6, -1, 1, False),
        ("0 inside, or within 0.03", -0.1, -0.2, 0.01, True),
        ("0 inside, or within 0.03", -0.02, -0.025, -0.01, True),
        ("0 inside, or within 0.03", -0.1, -0.2, -0.05, False),
        ("0 inside, or >= 0", -0.1, -0.3, 0.1, True),
        ("0 inside, or >= 0", -0.1, -0.3, -0.05, False),
        ("0 inside, or >= 0", -0.1, None, None, False),
        ("0 inside, or <= 0", 0.1, 0.05, 0.2, False),
        ("> 0", 0.1, 0.05, 0.2, True),
        ("> 0", 0.1, -0.05, 0.2, False),
        ("> 0", 0.1, None, None, False),
    ],
)
def test_a_bar_is_met_or_not(bar, value, low, high, expected):
    assert report.met(report.Row("row", value, low, high, 10, bar)) is expected


def test_report_has_the_agreed_fields_and_says_what_is_not_met(tmp_path):
    made = [report.Row("prompt adherence: shape", 0.5, 0.4, 0.6, 90, ">= 0.9", 0.97), report.Row("cost", 12.5, None, None, 1)]
    report.write(tmp_path, made, {"file": "m.safetensors", "hash": "abc"}, {"The worst clips": "![clip](scorecard/worst0.png)"})
    data = json.loads((tmp_path / "scorecard.json").read_text())
    assert data["model"]["hash"] == "abc"
    assert all(set(row) == {"name", "value", "low", "high", "n", "bar", "reference"} for row in data["rows"])
    text = (tmp_path / "scorecard.md").read_text()
    assert "| prompt adherence: shape | 0.5 | 0.4 to 0.6 | 90 | >= 0.9 | **not met** | 0.97 |" in text
    assert "![clip](scorecard/worst0.png)" in text
    svg = ET.fromstring((tmp_path / "scorecard.svg").read_text())
    assert len([e for e in svg.iter() if e.tag.endswith("circle")]) == 1


def test_a_budget_between_quick_and_full():
    some = FULL.at_most(12)
    assert (some.stories, some.physics, some.shots) == (12, 12, 12) and (some.prompts, some.films) == (FULL.prompts, FULL.films)
    assert QUICK.at_most(12) == QUICK


def test_a_part_of_the_rows_is_added_to_those_of_the_same_model(tmp_path):
    model = {"file": "m.safetensors", "hash": "abc", "steps": 20, "guidance": 3.5}
    first, second = (report.Row(name, 0.5, 0.4, 0.6, 9) for name in ("one", "two"))
    report.write(tmp_path, [first, second], model, {"The worst clips": "![clip](scorecard/worst0.png)"})
    better = report.Row("two", 0.7, 0.6, 0.8, 90)
    rows = report.merged(report.earlier(tmp_path, model), [better, report.Row("three", 1, 1, 1, 1)])
    assert [row.name for row in rows] == ["one", "two", "three"] and rows[1] == better and rows[0] == first
    report.write(tmp_path, rows, model, {"Long takes": "![takes](scorecard/takes.png)"})
    page = (tmp_path / "scorecard.md").read_text()
    assert page.index("## The worst clips\n\n![clip](scorecard/worst0.png)") < page.index("## Long takes"), "the worst clips stay"
    assert report.earlier(tmp_path / "nowhere", model) == []
    with pytest.raises(ValueError, match="another model or settings .hash abc.: give another folder"):
        report.earlier(tmp_path, {**model, "hash": "xyz"})


def test_frames_that_lead_to_a_picture_are_told_from_those_that_do_not():
    ball = scene_for([("red", "ball", "slide right")])
    frames = render(ball, [k / 8 for k in range(17)], 64, 64)
    assert quality.leads_to(frames, 16) > 0.95
    assert quality.leads_to(torch.cat([frames[:16].flip(0), frames[16:]]), 16) < -0.95
    others = torch.randint(0, 255, (16, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert abs(quality.leads_to(torch.cat([others, frames[16:]]), 16)) < 0.6
    assert quality.leads_to(frames[:1].expand(17, -1, -1, -1), 16) == 0, "what stands still leads nowhere"
    steps = torch.tensor([6, 6, 4, 4, 0], dtype=torch.uint8).view(5, 1, 1, 1).expand(-1, 4, 4, 3)
    assert quality.leads_to(steps, 4) == pytest.approx(0.8**0.5), "equal ones share their rank"


def test_a_scorecard_says_of_how_much_it_is(model, observer, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "load_observer", lambda: observer)
    monkeypatch.setattr(program, "ROWS", {"films": lambda bench: [report.Row("films", bench.budget.films, None, None, 1)]})
    arguments = {"model": str(model), "device": "cpu", "full": False, "rows": ["films"], "videos": 3, "seconds": 12.0, "steps": 4}
    arguments |= {"vae": "", "text": "", "clips": None}
    program.score(Namespace(**arguments, prompts=None, guidance=2.0, folder=str(tmp_path), out=str(tmp_path)))
    said = json.loads((tmp_path / "scorecard.json").read_text())
    assert said["rows"][0]["value"] == said["model"]["films"] == 3
    assert said["model"]["film_seconds"] == 12 and said["model"]["prompts"] == bench.QUICK.prompts
    assert "films 3, film_seconds 12.0" in (tmp_path / "scorecard.md").read_text()
    program.score(Namespace(**arguments, prompts=24, guidance=2.0, folder=str(tmp_path), out=str(tmp_path)))
    said = json.loads((tmp_path / "scorecard.json").read_text())["model"]
    assert (said["prompts"], said["paired"], said["first_stage"]) == (24, 12, 12)


def test_a_model_that_names_no_companions_is_measured_with_those_given(model, observer, tmp_path, monkeypatch):
    public = tmp_path / "wan.safetensors"
    save_model(public, load_transformer(model)[0].state_dict())
    opened = {}
    monkeypatch.setattr(program, "load_observer", lambda: observer)
    monkeypatch.setattr(program, "ROWS", {"films": lambda bench: opened.update(bench.source) or []})
    files = {"vae": model.parent.parent / "vae/tiny_vae.safetensors", "text": model.parent.parent / "text_encoders/tiny_text.safetensors"}
    arguments = {
        "device": "cpu",
        "full": False,
        "rows": ["films"],
        "videos": 0,
        "seconds": 12.0,
        "steps": 4,
        "prompts": None,
        "clips": None,
    }
    arguments |= {"model": str(public), "guidance": 2.0, "folder": str(tmp_path), "out": str(tmp_path)}
    program.score(Namespace(**arguments, **{name: str(path) for name, path in files.items()}))
    Pipeline.load(**opened)  # rows that open it anew, and their processes, get the same files


def test_the_scorecard_of_a_tiny_model(model, observer, tmp_path, monkeypatch, capsys):
    """Every row but the costs, whose child processes load the shipped package, runs on any model; the second run makes nothing."""
    small = {field.name: 1 for field in fields(bench.Budget) if field.type == "int"} | {"prompts": 2, "minute_side": 16}
    monkeypatch.setattr(program, "QUICK", bench.Budget(**small))
    for aspect, size in {"1:1": (32, 32), "16:9": (48, 32), "9:16": (32, 48)}.items():
        monkeypatch.setitem(bench.SIZES, aspect, size)
    monkeypatch.setattr(program, "load_observer", lambda: observer)
    observer.held_out = {"colour": (9, 10)}
    names = [name for name in rows.ROWS if "cost" not in name]
    arguments = ["evaluation", "--seconds", "12", "--model", str(model), "--steps", "1", "--rows", *names]
    monkeypatch.setattr(sys, "argv", [*arguments, "--folder", str(tmp_path), "--out", str(tmp_path / "out")])
    program.main()
    assert "prompt adherence: all" in capsys.readouterr().out
    first = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    values = {row["name"]: row["value"] for row in first["rows"]}
    assert {f"returns after 5 s out of sight, {kind}" for kind in ("foresight", "rollout")} <= set(values)
    assert {"cuts at the frames asked for, foresight", "foresight - rollout: returns after 5 s out of sight"} <= set(values)
    assert {f"prompt adherence: camera {kind}" for kind in STORY_CAMERAS} <= set(values)
    assert values["kept frames, largest difference"] == 0 and values["observer on renders: colour"] == 0.9
    assert all(np.isfinite(row["value"]) and (row["low"] is None or row["low"] <= row["high"]) for row in first["rows"])
    assert {"prompt adherence, S1: all", "adherence, 16:9 - 1:1"} <= set(values)
    sheets = {path.stem for path in (tmp_path / "out" / "scorecard").glob("*.png")}
    assert {"worst0", "S1", "S2", "takes"} <= sheets
    monkeypatch.setattr(Studio, "_make", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(sys, "argv", [*arguments[:8], "adherence", "drift", "--folder", str(tmp_path), "--out", str(tmp_path / "again")])
    program.main()
    again = json.loads((tmp_path / "again" / "scorecard.json").read_text())
    assert again["rows"] and all(row in first["rows"] for row in again["rows"])


# -- hearing -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", hearing.FACTS)
def test_a_change_is_of_one_fact_and_is_told(what):
    for scene, other in itertools.islice(hearing.pairs(what), 5):
        told, instead = (caption(s, "long", "en", scene.seed, seconds=2.0) for s in (scene, other))
        assert told != instead, told
        kept = {"colour", "shape", "size", "motion", "x", "z"} - {what}
        assert all(getattr(scene.objects[0], name) == getattr(other.objects[0], name) for name in kept)
        places = ("place", "time_of_day") if what in ("place", "time of day") else ()
        changes = [name for name in ("place", "time_of_day", "camera") if getattr(scene, name) != getattr(other, name)]
        assert changes == ([what.replace(" ", "_")] if places or what == "camera" else [])


@pytest.mark.parametrize("hears", [0.0, 0.5, 1.0])
def test_hearing_is_the_share_of_a_change_that_is_foreseen(pipeline, hears):
    latents = torch.randn(2, 1, 16, 3, 4, 4)

    class Model:
        def prepare_text(self, rows):
            return float("blue" in said.pop(0))

        def __call__(self, x, level, text, positions):
            foreseen = latents[0] + hears * text * (latents[1] - latents[0])
            return (x - foreseen) / (level / 1000)

    said = ["a red ball", "a blue ball"]
    listener = Pipeline(Model(), pipeline.header, pipeline.text, pipeline.vae)
    share = hearing.heard(listener, tuple(said), tuple(latents), 8.0, torch.randn(latents.shape[1:]))
    assert share == pytest.approx(hears, abs=1e-4)
