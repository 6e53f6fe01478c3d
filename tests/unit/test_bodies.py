"""What the middle of the transformer is asked in training: who is at which token, and where it goes."""

import numpy as np
import pytest
import torch
from torch import nn

from sora_pack.sora_core.config import TextConfig, preset
from sora_pack.sora_core.training import bodies
from sora_pack.sora_core.training import transformer as trainer
from sora_pack.sora_core.training.bank import Shape, Shard
from sora_pack.sora_core.training.bodies import ASKED, FIELDS, Asker, answer_loss, standing, weight_of, who_is_where
from sora_pack.sora_core.training.objective import TrainingBatch, bodies_in, draw_captions
from sora_pack.sora_core.world import COLOURS, SHAPES, Camera, Object, Scene, Wall, render, sample_scene


def words_at(told: torch.Tensor) -> set[tuple[str, ...]]:
    """Everybody who is somewhere."""
    named = [("", *names) for names in ASKED.values()]
    return {tuple(names[int(i)] for names, i in zip(named, token)) for token in told.view(-1, FIELDS) if token[0]}


@pytest.mark.parametrize(("width", "height"), [(128, 128), (176, 96), (96, 176)])
@pytest.mark.parametrize("seed", (0, 3, 6))
def test_bodies_are_where_they_are_seen(seed, width, height):
    """A picture without its bodies differs from the whole one at the tokens that are said to have one, more than anywhere else."""
    scene = sample_scene(seed)
    alone = Scene((Object("ball", "red", x=1e4),), scene.place, scene.time_of_day, scene.camera, scene.light, scene.texture)
    whole, empty = (render(s, [0.5], width, height).float() for s in (scene, alone))
    changed = nn.functional.avg_pool2d((whole - empty).abs().mean(-1), 16)[0]
    there = standing(scene, [0.5], height // 16, width // 16)[0, ..., 0] > 0
    if (width, height) == (128, 128):
        assert there.any()
    assert not there.any() or changed[there].mean() > 5 * changed[~there].mean(), (changed, there)


def test_words_are_those_of_the_body_and_speed_is_that_of_the_picture():
    ball = Object("ball", "green", "large", "slide right", x=0.0, z=0.0, reach=3.0, period=4.0)
    cone = Object("cone", "red", "small", "still", x=-2.5, z=1.0)
    told = standing(Scene((ball, cone)), [1.0], 16, 16)[0]
    assert words_at(told) == {("ball", "green", "large", "slide right", ""), ("cone", "red", "small", "still", "")}
    goes = told[told[..., 0] == 1 + SHAPES.index("ball")][:, -2:]
    before, after = (standing(Scene((ball,)), [t], 64, 64)[0, ..., 0].nonzero()[:, 1].float().mean() / 32 for t in (0.75, 1.25))
    assert (goes[:, 0] - 2 * (after - before)).abs().max() < 0.1 and goes[:, 1].abs().max() < 0.05
    assert (told[told[..., 0] == 1 + SHAPES.index("cone")][:, -2:] == 0).all()


@pytest.mark.parametrize("place", ("room", "meadow"))
@pytest.mark.parametrize("kind", ("static", "orbit", "zoom in", "pan", "tilt", "rise"))
def test_the_ground_goes_where_the_pictures_of_it_go(kind, place):
    """What is seen at a token is found again, half a second later, where its speed says: better than where it was."""
    scene = Scene((Object("ball", "red", x=1e4),), place, camera=Camera(kind))
    goes = standing(scene, [0.5], 12, 12)[0, ..., -2:]
    assert goes.abs().max() == 0 if kind == "static" else goes.abs().max() > 0.02
    first, second = render(scene, [0.375, 0.625], 192, 192).float().movedim(-1, 1)
    line = (torch.arange(192) + 0.5) * 2 / 192 - 1
    grid = torch.stack((line.expand(192, 192), line[:, None].expand(192, 192)), -1)
    whole = nn.functional.interpolate(goes.movedim(-1, 0)[None], size=192, mode="bilinear")[0].movedim(0, -1)
    then = nn.functional.grid_sample(second[None], (grid + whole / 4)[None], padding_mode="border", align_corners=False)[0]
    stayed, followed = ((first - picture)[:, 24:-24, 24:-24].square().mean() for picture in (second, then))
    assert kind == "static" or followed < 0.5 * stayed, (stayed, followed)


def motions_at(body: Object, seconds: list[float]) -> list[str]:
    """What the words for one body's motion are at some seconds."""
    told = [words_at(moment) for moment in standing(Scene((body,)), seconds, 16, 16)]
    return ["".join(motion for *_, motion, _ in words) for words in told]


def test_what_has_turned_round_goes_the_other_way_and_what_has_landed_stands():
    slide, closer = (Object("ball", "red", motion=motion, reach=2.5, period=6.5) for motion in ("slide left", "come closer"))
    assert motions_at(slide, [1.0, 8.0, 14.0]) == ["slide left", "slide right", "slide left"]
    assert motions_at(closer, [1.0, 8.0]) == ["come closer", "move away"]
    assert motions_at(Object("ball", "red", motion="fall", begin=0.3, reach=3.0), [0.8, 9.0]) == ["fall", "still"]
    assert motions_at(Object("ball", "red"), [1.0]) == ["still"]
    leaves = Object("ball", "red", motion="leave left", reach=2.5, period=2.2)
    assert motions_at(leaves, [1.0, 3.0]) == ["leave left", ""]


def test_the_nearest_body_counts_and_nobody_behind_a_wall():
    far, near = Object("cube", "blue", x=0.0, z=-3.0), Object("ball", "red", "large", x=0.0, z=1.5)
    assert words_at(standing(Scene((far, near), camera=Camera(height=1.2)), [0.0], 16, 16)) >= {("ball", "red", "large", "still", "")}
    middle = standing(Scene((far, near), camera=Camera(height=1.2)), [0.0], 16, 16)[0, 8, 8]
    assert middle[0] in (0, 1 + SHAPES.index("ball"))
    hidden = Object("ball", "red", "small", "roll left", x=0.0, z=-2.0)
    assert words_at(standing(Scene((hidden,), walls=(Wall(0.0, 0.5, 9.0, 4.0),)), [0.0], 16, 16)) == {("wall", "grey", "", "", "")}


def test_who_is_half_behind_a_wall_is_only_beside_it():
    scene = Scene((Object("ball", "red", x=-1.0, z=-1.6),), walls=(Wall(-0.2, -0.35, 2.0, 1.8),))
    alone = Scene((Object("ball", "red", x=1e4),), walls=scene.walls)
    changed = (render(scene, [0.0], 128, 128).float() - render(alone, [0.0], 128, 128).float()).abs().amax(-1)[0] > 4
    there = standing(scene, [0.0], 16, 16)[0, ..., 0] == 1 + SHAPES.index("ball")
    seen = nn.functional.avg_pool2d(changed.float()[None], 8)[0]
    assert there.any() and (seen[there] > 0).all() and not there[seen == 0].any()


def test_what_was_knocked_over_is_where_it_lies():
    ball = Object("ball", "red", motion="launch right", x=-1.85, z=0.2, begin=0.6, speed=3.0)
    scene, other = (Scene((ball, Object("cylinder", colour, x=0.1, z=0.2))) for colour in ("blue", "yellow"))
    times = [0.5, 0.86, 1.0, 1.2, 5.0]
    told = standing(scene, times, 16, 16)
    for moment, one, two in zip(told, render(scene, times, 128, 128).int(), render(other, times, 128, 128).int(), strict=True):
        across = ((one - two).abs().amax(-1) > 8).any(0).nonzero()[:, 0]  # columns of pixels
        columns = (moment[..., 0] == 1 + SHAPES.index("cylinder")).any(0).nonzero()[:, 0]
        assert abs(columns[0] * 8 - across[0]) <= 8 and abs(columns[-1] * 8 + 7 - across[-1]) <= 8
    assert (told[1][..., -2].abs() < 1).all() and (told[-1][..., -2:] == 0).all()
    lying = ("cylinder", "blue", "normal", "still", "down")
    assert lying in words_at(told[-1]) and lying not in words_at(told[0])


def test_a_cover_comes_down_and_what_happened_stays_said():
    cone = Object("cone", "red", change="cover", at=1.0, until=4.0)
    lamp = Object("lamp", "blue", x=2.0, change="switch on", at=1.0)
    before, half, under, after = standing(Scene((cone, lamp)), [0.5, 1.85, 3.0, 6.0], 24, 24)
    here, shines, covers = ("cone", "red", "normal", "still", ""), ("lamp", "blue", "normal", "still", "on"), ("cover", "grey", "", "", "")
    assert words_at(before) == {here, (*shines[:-1], "")} and words_at(after) == {here, shines}
    assert words_at(half) == {here, shines, covers} and words_at(under) == {shines, covers}
    falls = half[half[..., 0] == 1 + ASKED["shape"].index("cover")][:, -2:]
    assert (falls[:, 1] > 1).all() and (falls[:, 0].abs() < 0.1).all()


def shard_of(scenes: list, cells: int, fps: float = 8.0, cuts: tuple = (), guides: tuple = ()) -> Shard:
    shape = Shape(1 + 4 * (cells - 1), fps, 32, 32, cuts=cuts)
    return Shard(shape, list(guides), scenes, torch.randn(len(scenes), 16, cells, 4, 4))


def made_of(shard: Shard, cells: list[int], **more) -> TrainingBatch:
    n = len(shard.scenes)
    ones = torch.ones(n, len(cells))
    return TrainingBatch(shard.latents[:, :, cells], torch.tensor(cells).float(), ones, 0.9 * ones, list(range(n)), cells, **more)


def test_a_cell_is_asked_about_its_middle_and_a_shot_about_its_own_time():
    shard = shard_of([[sample_scene(0)] * 2], 5, fps=4.0, cuts=(3,), guides=(3, 10))
    # Frames 0, 1-4, 5-8, 9-12, 13-16 and the guide frames 3 and 10; the second shot begins with frame 9.
    wanted = [(0, 0.0), (0, 2.5 / 4), (0, 6.5 / 4), (1, 1.5 / 4), (1, 5.5 / 4), (0, 3 / 4), (1, 1 / 4)]
    assert shard.shape.moments(shard.guide_frames) == wanted
    made = made_of(shard, [0, 1, 3], shots=[0, 0, 1, 1], guides=(10,))
    scenes, (here, there) = shard.scenes, (wanted[i] for i in (3, 6))
    told = bodies_in(shard, made)
    assert told.shape == (1, 4, 2, 2, FIELDS)
    assert torch.equal(told[:, 2:], who_is_where(scenes, [here, there], 2, 2).half()), "of the cells and guides of a batch, in its order"


def test_a_lone_cell_is_told_for_no_longer_than_its_shot():
    shard = shard_of([[sample_scene(0)] * 2], 9, cuts=(5,))  # frames 17 and later are the second shot's
    assert shard.shape.span([3, 4], 0) == (1.5, 2.0) and shard.shape.span([0, 4], 0) == (0.0, 2.0)
    assert shard.shape.span([4, 5], 0) == (1.5, 2.0) and shard.shape.span([4, 5], 1) == (0.0, 0.375)
    assert shard.shape.span([4, 5, 6], 1) == (0.0, 0.875), "a shot is told from its first frame on"
    assert shard.shape.span([4], 1) == (0.0, 0.0) == shard_of([[sample_scene(0)]], 1).shape.span([0])


def test_written_captions_have_nobody_to_ask_for():
    assert who_is_where([[("a dog",)]], [(0, 0.0)], 2, 2) is None
    shard = shard_of([[("a dog",)]], 1)
    assert bodies_in(shard, made_of(shard, [0])) is None
    assert who_is_where([[sample_scene(0)]], [(0, 0.0), (0, 1.0)], 2, 3).shape == (1, 2, 2, 3, FIELDS)


def test_a_right_answer_costs_least_and_the_middle_learns_to_give_it():
    """The questions reach the blocks before the middle, and the words through them; none after."""
    torch.manual_seed(0)
    scenes = [[Scene((Object("ball", colour, x=0.0),))] for colour in COLOURS]
    shard = shard_of(scenes, 1)
    made, words = made_of(shard, [0]), [[f"a {shots[0].objects[0].colour} ball" for shots in scenes]]
    made.bodies = who_is_where(scenes, [(0, 0.0)], 2, 2)
    made.sigma = torch.ones_like(made.sigma)
    student = trainer.Student(preset("tiny"), TextConfig(dim=64, num_layers=1, num_heads=1, pieces=256))
    trainer.hear_anew(student)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    wrong = []
    for step in range(60):
        asked = trainer.losses(student, made, words, step)[1]
        asked.backward()
        if not step:
            assert asked.item() == pytest.approx(np.mean([np.log(n) for n in bodies.ANSWERS]), abs=0.3)
            later = student.transformer.blocks[-1].ffn[0].weight.grad
            assert later is None or not later.any(), "the questions stand behind the middle block"
        optimizer.step()
        optimizer.zero_grad()
        wrong.append(asked.item())
    assert wrong[-1] < 0.3 * wrong[0], "only the words tell the colours apart"


def test_parts_of_a_batch_sum_to_the_whole():
    scenes = [[sample_scene(seed)] for seed in range(4)]
    shard = shard_of(scenes, 2)
    made = made_of(shard, [0, 1])
    made.bodies = bodies_in(shard, made)
    words = draw_captions(shard, made, np.random.default_rng(0))
    student = trainer.Student(preset("tiny"), TextConfig(dim=64, num_layers=1, num_heads=1, pieces=256))
    nn.init.normal_(student.asker.answer.weight, std=0.1)
    whole = trainer.losses(student, made, words, 0)
    parts = [trainer.losses(student, made, words, 0, group=trainer.Group(rank, 2, "cpu")) for rank in range(2)]
    for total, *halves in zip(whole, *parts):
        assert sum(halves).item() == pytest.approx(total.item(), rel=2e-2)


def test_a_body_weighs_more_than_nobody():
    told = who_is_where([[Scene((Object("ball", "red"),))]], [(0, 0.0)], 8, 8)
    weight = weight_of(told)
    assert weight.unique().tolist() == pytest.approx([bodies.NOBODY, 1.0])
    answers = Asker(8)(torch.randn(1, 64, 8)).detach()
    flat = told.flatten(1, 3)
    right = perfect(flat)
    assert answer_loss(right, flat, weight.flatten(1)) < 1e-4 < answer_loss(answers, flat, weight.flatten(1))


def perfect(told: torch.Tensor) -> torch.Tensor:
    """Answers [B, N, ...] of an Asker that are all as told [B, N, FIELDS]."""
    words = [20 * nn.functional.one_hot(told[..., i].long(), size) for i, size in enumerate(bodies.ANSWERS)]
    return torch.cat([*words, told[..., -2:] / bodies.PACE], -1)


def test_not_to_know_the_camera_costs_as_much_as_not_to_know_the_words():
    """Who says that nothing moves errs by little in pictures a second, and must not by little in the loss: nobody learned it so."""
    orbit = Scene((Object("ball", "red"),), camera=Camera("orbit"))
    told = who_is_where([[orbit]], [(0, 1.0)], 8, 8).flatten(1, 3)
    without_words, without_paths = perfect(told), perfect(told)
    without_words[..., :-2] = 0
    without_paths[..., -2:] = 0
    words, paths = (answer_loss(answers, told, weight_of(told)) for answers in (without_words, without_paths))
    assert paths > 0.5 * words
