"""Training: the objective keeps the lattice's rules, the optimiser does what it says, a killed run resumes to the same weights."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from timeit import timeit
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import load_transformer, model_header, read_layout, save_model
from sora_pack.sora_core.config import LATENT_MEAN, LATENT_STD, TextConfig, UserError, VAEConfig, preset
from sora_pack.sora_core.pipeline import SHIPPED, WEIGHTS, Pipeline
from sora_pack.sora_core.training import objective
from sora_pack.sora_core.training import ship as shipping
from sora_pack.sora_core.training import transformer as trainer
from sora_pack.sora_core.training import vae as vae_trainer
from sora_pack.sora_core.training.bank import SHARD, Bank, Recipe, Shape, Shard, film, make_shard, plan, read_shard, scenes_of, write_shard
from sora_pack.sora_core.training.feed import workers
from sora_pack.sora_core.training.group import Group
from sora_pack.sora_core.training.objective import TrainingBatch, detail, draw_batch, draw_captions, tell, to_tell
from sora_pack.sora_core.training.optim import Muon, Optimizer, orthogonalise
from sora_pack.sora_core.training.ship import half_precision
from sora_pack.sora_core.world import is_held_out, render, sample_scene, scene_for
from sora_pack.sora_core.world.captions import LENGTHS
from sora_pack.tests.tiny_model import write_tiny_model

COMPANIONS = {"vae": "vae/tiny_vae.safetensors", "text": "text_encoders/tiny_text.safetensors"}  # of the tiny model, in its folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    """Three shards: stills, clips with tails, clips of two shots; of a VAE with random weights."""
    folder = tmp_path_factory.mktemp("bank")
    torch.manual_seed(0)
    vae = VideoVAE(VAEConfig(dim=8)).channels_last()
    small = {0: Shape(1, 8.0, 32, 32), 1: Shape(41, 8.0, 32, 32, tails=True), 2: Shape(17, 8.0, 32, 32, cuts=(3,))}
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr("sora_pack.sora_core.training.bank.plan", lambda index, recipe: small[index])
        for index in small:
            assert make_shard(folder, index, vae)
            assert not make_shard(folder, index, vae), "a shard that is there is not made again"
    return Bank(folder)


def test_plan_mixes_shapes_and_leaves_out_what_is_held_out():
    shapes = [plan(i) for i in range(144)]
    assert {s.frames for s in shapes} == {1, 17, 25, 33, 41}
    assert {len(s.cuts) for s in shapes} == {0, 1, 3}
    assert {s.fps for s in shapes} == {4.0, 8.0, 16.0}
    assert len({(s.width, s.height) for s in shapes}) == 3
    clips = [s.begin for s in shapes if s.frames > 1 and not s.cuts]
    assert 0.4 < sum(begin > 0 for begin in clips) / len(clips) < 0.6 and max(clips) > 5
    recurring = {index: plan(index) for index in range(11, 1200, 144)}
    assert len({replace(s, begin=0.0) for s in recurring.values()}) == 1 and len({s.begin for s in recurring.values()}) > 3
    assert not any(s.begin for s in shapes if s.frames == 1 or s.cuts)
    stories = [s.begin for s in (plan(i, Recipe("S3")) for i in range(300)) if s.frames > 1]
    assert sum(begin > 0 for begin in stories) / len(stories) < 0.3, "what happens is in their first seconds"
    scenes = scenes_of(3, cuts=0)
    assert len(scenes) == SHARD and not any(is_held_out(shot) for shots in scenes for shot in shots)


def test_bank_holds_one_shape_per_shard_with_guides_and_tails(bank):
    stills, clips, story = bank.shards
    assert stills.latents.shape == (SHARD, 16, 1, 4, 4) and stills.guides is None
    assert clips.latents.shape == (SHARD, 16, 11, 4, 4)
    assert clips.tail.shape == (SHARD, 16, 5, 4, 4)
    assert clips.guides.shape[1] == len(clips.guide_frames) == 8
    assert story.latents.shape == (SHARD, 16, 5, 4, 4) and story.shape.cuts == (3,)


def test_a_clip_that_begins_later_shows_and_tells_its_own_seconds(monkeypatch, tmp_path):
    scene, shape = scene_for([("red", "ball", "slide right")]), Shape(9, 8.0, 32, 32, begin=6.0)
    frames = film([[scene]], shape)[0]
    assert torch.equal(frames[0], render(scene, [6.0], 32, 32)[0]) and torch.equal(frames[8], render(scene, [7.0], 32, 32)[0])
    write_shard(tmp_path / "shard", Shard(shape, [], [[scene]], torch.zeros(1, 16, 3, 4, 4)))
    shard = read_shard(tmp_path / "shard")
    made = TrainingBatch(shard.latents, torch.arange(3.0), torch.ones(1, 3), torch.ones(1, 3), [0], [0, 1, 2])
    assert shard.shape == shape and shape.moments() == [(0, 6.0), (0, 6.0 + 2.5 / 8), (0, 6.0 + 6.5 / 8)]
    monkeypatch.setattr("sora_pack.sora_core.training.objective.caption", lambda *_, start, seconds, **__: f"{start} {seconds}")
    monkeypatch.setattr("sora_pack.sora_core.training.objective.TEXT_DROPOUT", 0.0)
    assert tell(*to_tell(shard, made), np.random.default_rng(0)) == [["6.0 1.0"]]


def test_the_second_shot_has_the_same_characters_elsewhere(bank):
    for first, second in bank.shards[2].scenes:
        cast = [(body.colour, body.shape, body.motion) for body in first.objects]
        assert cast == [(body.colour, body.shape, body.motion) for body in second.objects]
        assert first.place != second.place


def test_every_shot_has_words_of_its_own(bank):
    shard = bank.shards[2]
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        made = draw_batch(shard, 256, 8.0, rng)
        words = draw_captions(shard, made, rng)
        assert len(words) == 3 and set(words[0]) == {""}, "nobody has a name"
        assert len(made.shots) == len(made.positions)
        seen |= set(made.shots)
        student = trainer.Student(preset("tiny"), TextConfig(num_layers=1))
        assert trainer.velocity_loss(student, made, words, seed).isfinite()
    assert seen == {0, 1}


@pytest.mark.parametrize(("sigma", "tells"), [(1.0, False), (0.3, True)])
def test_bodies_weigh_by_what_the_student_sees_not_by_what_is_there(bank, monkeypatch, sigma, tells):
    """A weight that knows what noise hides would bend the mean that the student has to learn."""
    made, seen = draw_batch(bank.shards[0], 256, 8.0, np.random.default_rng(0)), []
    made.sigma, made.latents = torch.full_like(made.sigma, sigma), torch.zeros_like(made.latents)
    torch.manual_seed(0)
    student, words = trainer.Student(preset("tiny"), TextConfig(num_layers=1)), [[""] * len(made.records)]
    monkeypatch.setattr(trainer, "detail", lambda clean: seen.append(clean) or detail(clean))
    losses = []
    for body in (0.0, 3.0):
        made.latents[..., :2, :2] = body
        losses.append([trainer.velocity_loss(student, made, words, 0, weight).item() for weight in (0.0, 5.0)])
    assert all(weighed > plain for plain, weighed in losses), losses
    assert len(seen) == 2 and torch.equal(*seen) != tells and not seen[0].requires_grad


def test_a_caption_tells_the_seconds_of_its_clip(monkeypatch):
    told = []
    monkeypatch.setattr(objective, "caption", lambda *a, start, seconds, **more: told.append((start, seconds)) or "")
    scene = sample_scene(5)
    trainer.tell([[scene, scene]], [(0.5, 1.5), (3.0, 3.0)], np.random.default_rng(0))
    assert told == [(0.5, 1.0), (3.0, objective.STILL_SECONDS)], "a still is the beginning of its video"


def test_nine_of_ten_captions_are_long_and_the_rest_medium_or_short(monkeypatch):
    monkeypatch.setattr("sora_pack.sora_core.training.objective.caption", lambda scene, length, *_, **__: length)
    told = tell([[scene_for([("red", "ball")])]] * 2000, [(0.0, 2.0)], np.random.default_rng(0))[0]
    share = {length: told.count(length) / sum(map(bool, told)) for length in LENGTHS}
    assert 0.88 < share["long"] < 0.92 and share["medium"] > 0.02 and share["short"] > 0.04, share


def test_words_prepared_in_training_are_those_of_use():
    torch.manual_seed(0)
    student = trainer.Student(preset("tiny"), TextConfig(num_layers=1))
    words = [["a red ball", "绿方块"], ["it bounces", ""]]
    ours = student.prepared_text(words)
    plain = student.transformer.prepare_text(student.text.encode(words[0]), [student.text.encode(words[1])])
    assert ours.bounds == plain.bounds
    difference = max((a - b).abs().max().item() for pair, other in zip(ours.keys_values, plain.keys_values) for a, b in zip(pair, other))
    assert difference < 1e-5, f"max_diff {difference}"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_batch_keeps_the_rules_of_the_lattice(bank, seed):
    shard = bank.shards[1]
    made = draw_batch(shard, 256, 8.0, np.random.default_rng(seed))
    batch, _, cells, h, w = made.latents.shape
    assert batch * cells * (h // 2) * (w // 2) <= 256 + 8 * 4 * batch, "guides come on top of the budget, nothing else"
    assert made.sigma.shape == made.unknown.shape == (batch, cells)
    assert batch % len(made.records) == 0 and len(set(made.records)) == len(made.records)
    assert made.positions.shape == (cells,)
    assert ((made.sigma == 0) == (made.unknown == 0)).all(), "a cell is noisy exactly where it is to be made"
    assert made.unknown.any(dim=1).all(), "every sample has something to learn"
    if made.positions[0] > 0:
        assert (made.unknown[:, 0] == 0).all(), "the leftmost cell of a pass is cell 0 or known"
    if made.box is not None:
        assert made.timestep.shape == (batch, cells * h // 2 * w // 2)


def test_batches_of_every_kind_occur(bank):
    seen, guides = Counter(), set()
    for seed in range(300):
        shard = bank.shards[seed % 3]
        made = draw_batch(shard, 256, 8.0, np.random.default_rng(seed))
        cells, levels = len(made.cells), [set(row[row > 0].tolist()) for row in made.sigma]
        tail = shard.tail is not None and cells == shard.latents.shape[2] and shard.tail[made.records[0]].float()
        guides.add(made.latents.shape[2] - cells)
        seen["box"] += made.box is not None
        seen["tail"] += tail is not False and torch.equal(made.latents[0, :, cells - tail.shape[1] : cells], tail)
        seen["independent levels"] += any(len(row) > 1 for row in levels)
        seen["one level"] += all(len(row) == 1 for row in levels)
        seen["shots"] += len(set(made.shots or [])) > 1
        seen["window"] += made.cells[0] > 0
        seen["strided"] += np.diff(made.cells).max(initial=1) > 1
        seen["known cells"] += bool((made.unknown[:, :cells] == 0).any())
    assert all(seen.values()) and len(seen) == 8, seen
    assert max(guides) == 8 and {0, 1} <= guides, guides


def test_levels_reach_to_where_sampling_begins():
    """Of the first steps of a schedule, where all is noise, some are in every batch or two; most stay around the mean."""
    unknown = torch.ones(4000, 3)
    unknown[:, 0] = 0
    sigma = torch.cat([objective.draw_sigma(unknown, np.random.default_rng(seed), 0.9)[:, 1:] for seed in range(10)])
    assert ((0 < sigma) & (sigma <= 1)).all() and sigma.median() == pytest.approx(0.71, abs=0.01)
    assert (sigma >= 0.957).float().mean() == pytest.approx(0.032, abs=0.005), "0.013 of a normal distribution"
    assert (sigma >= 0.99).float().mean() == pytest.approx(0.005, abs=0.002)


def test_before_a_known_end_any_beginning_may_be_known(bank):
    shard, rng = bank.shards[1], np.random.default_rng(0)
    latents, start = shard.latents[:1].float(), shard.latents.shape[2] - shard.tail.shape[2]
    known = Counter()
    for _ in range(200):
        _, unknown = objective.join_tail(shard, latents, [0], torch.ones(1, latents.shape[2]), rng)
        assert not unknown[0, start:].any()
        known[int((unknown[0, :start] == 0).sum())] += 1
    assert set(known) == set(range(start)) and 80 < known[0] < 120, known


@pytest.mark.parametrize("words_alone", [0.0, objective.WORDS_ALONE, 0.7, 1.0])
def test_so_many_clips_are_made_from_words_alone(words_alone):
    rng, cells = np.random.default_rng(0), [0, 1, 2, 3, 4]
    unknown = objective.choose_unknown(4000, cells, rng, words_alone)
    assert abs(unknown.all(1).float().mean() - words_alone) < 0.03
    assert words_alone == 1 or all((unknown[:, cell] == 0).any() for cell in cells), "the rest know cells anywhere"


def test_from_words_alone_no_clip_leads_to_a_known_end(bank):
    for seed in range(30):
        made = draw_batch(bank.shards[1], 256, 8.0, np.random.default_rng(seed), words_alone=1.0)
        assert made.unknown[:, 1 if made.cells[0] else 0 : len(made.cells)].all(), "but for the left edge of a window"


def test_positions_follow_the_frame_rate(bank):
    shard = bank.shards[1]
    slow = draw_batch(shard, 256, 16.0, np.random.default_rng(3))
    normal = draw_batch(shard, 256, 8.0, np.random.default_rng(3))
    assert torch.equal(slow.positions, 2 * normal.positions)


def test_orthogonalise_brings_singular_values_near_one():
    for shape in ((24, 80), (80, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.4 and values.max() < 1.3, values


def test_muon_fits_a_linear_map():
    torch.manual_seed(0)
    target, layer = torch.randn(8, 16), torch.nn.Linear(16, 8, bias=False)
    # A step of 0.2 moves every singular value by about 0.16: 150 falling ones go 12 far, and the largest of the target is below 7.
    optimizer = Muon(layer.parameters(), lr=0.2)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 150)
        loss = (layer.weight - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.01


def test_matrices_may_be_adamws_too(bank, tmp_path):
    tiny = trainer.Settings(size="tiny", steps=1, tokens=128, reading_steps=0, optimizer="adamw")
    trainer.train_transformer(str(tmp_path), str(bank.folder), tiny)
    states = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]
    assert len(states) == 1 and "exp_avg_sq" in next(iter(states[0]["state"].values()))


def test_a_broken_batch_leaves_the_weights_alone():
    layer = torch.nn.Linear(4, 4)
    before = layer.weight.clone()
    optimizer = Optimizer(layer, muon_lr=0.1, adam_lr=0.1, steps=10, warmup=1)
    (layer(torch.ones(1, 4)) * float("nan")).sum().backward()
    assert not np.isfinite(optimizer.step(0))
    assert torch.equal(layer.weight, before)


def test_folding_gives_the_published_statistics_and_keeps_the_reconstruction():
    torch.manual_seed(0)
    vae, x = VideoVAE(VAEConfig(dim=8)), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(x))
        vae_trainer.fold_latents(vae, [x])
        z = vae.encode(x)
        after = vae.decode(z)
    difference = (after - before).abs().max().item()
    assert difference < 1e-4, f"max_diff {difference}"
    flat = z.movedim(1, 0).flatten(1)
    assert torch.allclose(flat.mean(1), torch.tensor(LATENT_MEAN), atol=1e-3)
    assert torch.allclose(flat.std(1), torch.tensor(LATENT_STD), atol=1e-3)
    with torch.no_grad():
        vae_trainer.unfold_latents(vae)
        flat, again = vae.encode(x).movedim(1, 0).flatten(1), vae.decode(vae.encode(x))
    assert flat.mean(1).abs().max() < 1e-3 and (flat.std(1) - 1).abs().max() < 1e-3, "where training goes on"
    difference = (again - before).abs().max().item()
    assert difference < 1e-4, f"max_diff {difference}"


def test_the_vae_sees_nothing_that_is_held_out(monkeypatch):
    seen = []

    def rendered(scenes, times, width, height, device):
        seen.extend(scenes)
        return [torch.zeros(len(moments), height, width, 3, dtype=torch.uint8) for moments in times]

    monkeypatch.setattr(vae_trainer, "render_batch", rendered)
    vae_trainer._render("stills", "cpu", workers(0), 60)
    assert len(seen) == 60 and not any(map(is_held_out, seen))


def test_blurred_frames_cost_more_than_noise_does():
    """Of two reconstructions that are equally far from a picture of fine stripes, the one that has lost them costs more."""
    x = torch.zeros(1, 3, 1, 16, 16)
    x[..., ::2] = 0.5
    blurred, shifted = torch.full_like(x, 0.25), 0.5 - x
    assert vae_trainer.reconstruction_loss(x, x) == 0
    blur = vae_trainer.reconstruction_loss(x, blurred) - (x - blurred).abs().mean() - vae_trainer.EDGE_WEIGHT / 3 * 0.5
    assert blur > 0.1, "as sharp as the blocks are"
    move = vae_trainer.reconstruction_loss(x, shifted) - (x - shifted).abs().mean() - vae_trainer.EDGE_WEIGHT / 3
    assert abs(move) < 1e-6, "moved stripes are as sharp as before"


def test_folding_makes_an_error_of_latents_that_of_pixels():
    torch.manual_seed(0)
    vae, x, units = VideoVAE(VAEConfig(dim=8)), torch.rand(1, 3, 9, 48, 48) * 2 - 1, torch.tensor(LATENT_STD)
    with torch.no_grad():
        vae.conv2.weight.mul_(torch.linspace(0.3, 1.5, 16).view(1, -1, 1, 1, 1))  # channels that count little and much
        spread = []
        for fold in (False, True):
            if fold:
                vae_trainer.fold_latents(vae, [x])
            metric = vae_trainer.decoder_metric(vae, [vae.encode(x)], units)
            values = torch.linalg.eigvalsh(metric)
            spread.append((values.max() / values.min()).item())
    assert spread[1] < spread[0] / 10, f"largest over smallest {spread}"


@contextmanager
def killed_after_step(last):
    """A training inside is killed when it has saved this step."""

    class Killed(Exception):
        pass

    save = trainer.Run.save

    def save_then_die(self, step, *parts):
        self.save_every = 0.0
        save(self, step, *parts)
        if step == last:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer.Run, "save", save_then_die)
        yield


def test_a_killed_training_of_the_vae_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_trainer, "VAEConfig", lambda: VAEConfig(dim=8))
    monkeypatch.setattr(vae_trainer, "CLIPS", {"stills": (4, 1, 32), "normal": (2, 9, 32), "long": (1, 17, 32)})
    monkeypatch.setattr(vae_trainer, "MIX", (vae_trainer.Batch(1, 16, 2, 1.0), vae_trainer.Batch(9, 16, 1, 1.0)))
    monkeypatch.setattr(vae_trainer, "FOLDING", vae_trainer.Batch(5, 16, 1, 1.0))
    settings = vae_trainer.VAESettings(steps=6)
    whole = vae_trainer.train_vae(str(tmp_path / "whole"), settings)
    with killed_after_step(3):
        vae_trainer.train_vae(str(tmp_path / "killed"), settings)
    resumed = vae_trainer.train_vae(str(tmp_path / "killed"), settings)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_killed_run_resumes_to_the_same_weights(bank, tmp_path):
    tiny = trainer.Settings(size="tiny", steps=6, tokens=128, reading_steps=2)
    whole = trainer.train_transformer(str(tmp_path / "whole"), str(bank.folder), tiny)
    with killed_after_step(3):
        trainer.train_transformer(str(tmp_path / "killed"), str(bank.folder), tiny)
    resumed = trainer.train_transformer(str(tmp_path / "killed"), str(bank.folder), tiny)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    averaged, step = trainer.averaged_student(tmp_path / "killed")
    assert step == 6
    assert all(torch.equal(a, b) for a, b in zip(averaged.state_dict().values(), whole.state_dict().values(), strict=True))
    # A run whose middle was asked other things has the same transformer and text encoder to ship.
    path = tmp_path / "killed" / "state.pt"
    state = torch.load(path)
    for i, name in enumerate(state["model"]):
        if name.startswith("asker."):
            state["model"][name], state["average"][i] = state["model"][name][1:], state["average"][i][1:]
    torch.save(state, path)
    older, _ = trainer.averaged_student(path.parent)
    assert all(torch.equal(older.state_dict()[n], t) for n, t in averaged.state_dict().items() if not n.startswith("asker."))


def test_two_processes_train_as_one(bank, tmp_path, root):
    """The same command under torchrun, with gloo on the CPU: the same loss and, but for rounding, the same weights."""
    model = write_tiny_model(tmp_path / "models")
    settings = trainer.Settings(size="", steps=3, tokens=128, reading_steps=0, start=str(model))
    alone = trainer.train_transformer(str(tmp_path / "one"), str(bank.folder), settings)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "sora_core.training"]
    options = {"folder": tmp_path / "two", "bank": bank.folder, "start": model, "size": ""}
    options |= {"steps": 3, "tokens": 128, "reading-steps": 0, "workers": 0}
    command += ["transformer", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=2e-3) and two["step"] == 3
    assert two["tokens_per_second"] > 0
    state = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    assert state["model"].keys() == alone.state_dict().keys()

    def apart(one, other) -> float:
        return torch.cat([(a - b).detach().flatten() for a, b in zip(one, other, strict=True)]).norm().item()

    class Deaf(Group):
        """One of two that never hears of the other's part."""

        def sum(self, x):
            return x

        def sum_gradients(self, parameters):
            pass

        def share_weights(self, module):
            pass

        def broadcast_list(self, value):
            return value

    half = trainer.train_transformer(str(tmp_path / "half"), str(bank.folder), settings, group=Deaf(0, 2))
    start = trainer.new_student(settings)
    trainer.begin(start, bank, settings)
    moved = apart(alone.parameters(), start.parameters())
    error, without = (apart(other, alone.parameters()) / moved for other in (state["average"], half.parameters()))
    assert error < 0.2 < 0.4 < without, f"{error} of what training moved, {without} without the other's gradients"


def test_halves_are_bfloat16_and_give_gradients_back():
    """As casting each by itself; what nothing depends on has no gradient."""
    torch.manual_seed(0)
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True), torch.randn(2, requires_grad=True)]
    gradients = []
    for cast in (lambda: trainer.CastToBFloat16.apply(*weights), lambda: [w.to(torch.bfloat16) for w in weights]):
        matrix, vector, _ = cast()
        (matrix @ vector).float().square().sum().backward()
        gradients.append([w.grad for w in weights])
        for w in weights:
            w.grad = None
    (ours, theirs) = gradients
    assert ours[2] is None and all(g.dtype == torch.float32 for g in ours[:2])
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], theirs[:2], strict=True))


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_that_of_the_processor(bank, monkeypatch):
    """Loss and gradients of one batch, with the same noise: each device would draw its own."""
    torch.manual_seed(0)
    student, rng = trainer.Student(preset("tiny"), TextConfig(num_layers=1)), np.random.default_rng(0)
    torch.nn.init.normal_(student.transformer.head.head.weight, std=0.05)
    made = draw_batch(bank.shards[1], 256, 8.0, rng)
    words = draw_captions(bank.shards[1], made, rng)
    noise = torch.randn(made.latents.shape)
    monkeypatch.setattr(trainer.torch, "randn", lambda *_, device, **__: noise.to(device))
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        student.to(device).zero_grad()
        loss = trainer.velocity_loss(student, made, words, 0, 1.0)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in student.parameters() if p.grad is not None]))
    ours, theirs = gradients
    error = ((theirs - ours).norm() / ours.norm()).item()
    assert losses[1] == pytest.approx(losses[0], rel=1e-2) and error < 0.05, (losses, error)  # both compute in bfloat16


def test_times_of_the_probe_are_those_of_the_device(monkeypatch):
    """A device that takes its work at once and does it later is waited for, also before the clock starts."""
    from sora_pack.sora_core.training import probe as probing

    clock, waiting = [0.0], []
    monkeypatch.setattr(probing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: clock.__setitem__(0, clock[0] + sum(waiting)) or waiting.clear())
    monkeypatch.setattr(probing, "ALONE", Group(device="cuda"))
    assert probing.seconds_of(lambda: waiting.append(2.0)) == 2.0


def test_probe_prints_what_it_measures(monkeypatch, capsys):
    from sora_pack.sora_core.training import probe as probing

    monkeypatch.setattr(probing, "seconds_of", lambda work: timeit(work, number=1))
    rates = probing.probe("tiny")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:45].strip() for line in lines] == list(rates) and all(rate > 0 for rate in rates.values())
    told = ("render", "encode", "decode", "VAE train step", "tiny train step, 8 x")
    assert all(any(line.startswith(name) for line in lines) for name in told), lines


def test_the_shipped_files_are_small_and_of_half_precision():
    """40 MB in all; float32 are the layers at the latents, and what has one axis."""
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    assert len(files) == 3 and sum(file.stat().st_size for file in files) <= 40 * 10**6
    for file in files:
        keep = shipping.FLOAT32_VAE if file.parent.name == "vae" else ()
        for name, tensor in read_layout(file)[1].items():
            small = sum(side > 1 for side in tensor.shape) < 2
            assert tensor.dtype == ("F32" if small or name.startswith(keep) else "BF16"), f"{file.name}: {name} is {tensor.dtype}"


def test_half_precision_keeps_what_bfloat16_would_hurt():
    shapes = {"conv1.weight": (2, 2, 1, 1, 1), "body.weight": (4, 4), "body.bias": (4,), "norm.gamma": (4, 1, 1)}
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    kinds = {name: t.dtype for name, t in half_precision(tensors, ("conv1.",)).items()}
    assert kinds == dict.fromkeys(shapes, torch.float32) | {"body.weight": torch.bfloat16}


@pytest.mark.parametrize(("stage", "told", "foresees"), [("S3", False, False), ("S2", True, True), ("S4", False, True)])
def test_a_model_that_saw_parts_of_a_minute_says_so(tmp_path, monkeypatch, stage, told, foresees):
    student, vae = trainer.Student(preset("tiny"), TextConfig(num_layers=1)), VideoVAE(VAEConfig(dim=8))
    monkeypatch.setattr(shipping, "averaged_student", lambda *_: (student, 1))
    monkeypatch.setattr(shipping, "load_vae", lambda _: vae)
    monkeypatch.setattr(shipping, "preview_factors", lambda _: [[0.0] * 3] * 17)
    files = shipping.ship("run", "vae.safetensors", str(tmp_path), name="mine", stage=stage, foresight=told)
    assert [model_header(path).foresight for path in files] == [foresees, False, False]


def test_a_run_is_shipped_in_its_own_size_whatever_it_began_with(bank, tmp_path):
    """A file that names no companions and is gone by then; nobody says its size again."""
    model = write_tiny_model(tmp_path / "models")
    public, folder = tmp_path / "wan.safetensors", tmp_path / "run"
    save_model(public, load_transformer(model)[0].state_dict())
    companions = {kind: str(model.parent.parent / path) for kind, path in COMPANIONS.items()}
    settings = trainer.Settings(size="", steps=1, tokens=128, reading_steps=0, start=str(public), **companions)
    trained = trainer.train_transformer(str(folder), str(bank.folder), settings)
    public.unlink()
    student, step = trainer.averaged_student(folder)
    assert step == 1 and all(torch.equal(a, b) for a, b in zip(student.parameters(), trained.parameters(), strict=True))
    with pytest.raises(UserError, match=f"start: {folder} is not of size 'mini': choose the size it was trained with"):
        trainer.begin(trainer.Student(preset("mini"), TextConfig()), bank, trainer.Settings(start=str(folder)))
    with pytest.raises(UserError, match="earlier: .* is of another size"):
        shipping.blend(student, str(SHIPPED), 0.5)


@pytest.mark.parametrize(("start", "says"), [("", "there is no start"), ("runs/s1", "start is runs/s1, no .safetensors")])
def test_the_size_of_a_file_needs_a_file(start, says):
    with pytest.raises(UserError, match=f"size: an empty one is that of the model file to start from, and {says}: use one of tiny, mini"):
        trainer.new_student(trainer.Settings(size="", start=start))


def test_what_is_shipped_can_be_blended_with_what_it_began_with(tmp_path):
    earlier = str(write_tiny_model(tmp_path))
    student, began = (trainer.new_student(trainer.Settings(size="", start=earlier)) for _ in range(2))
    trainer.begin(began, SimpleNamespace(shards=[]), trainer.Settings(size="", start=earlier))
    student.load_state_dict({name: t + 1 for name, t in began.state_dict().items()})
    shipping.blend(student, earlier, 0.7)
    for part in ("transformer", "text"):
        before, after = (getattr(model, part).state_dict() for model in (began, student))
        assert all(torch.allclose(after[name], before[name] + 0.7, atol=1e-5) for name in before)


def test_curve_is_drawn_from_the_log(tmp_path):
    from sora_pack.sora_core.training import curve

    run = trainer.Run(tmp_path, 100)
    for step in range(1, 101):
        run.record(step, 10, loss=1 / step)
    points = curve.read_log(tmp_path, "loss")
    assert [x for x, _ in points] == list(range(10, 101, 10))
    curve.draw({"loss": points}, tmp_path / "loss.svg", "loss")
    assert (tmp_path / "loss.svg").read_text().count("L") >= 9
    assert curve.ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    with pytest.raises(ValueError, match="no such value"):
        curve.draw({"x": []}, tmp_path / "none.svg", "none")


def test_text_encoder_learns_to_read():
    """After some captions every row knows more of the scene than the average scene would tell."""
    from sora_pack.sora_core.text import ByteTextEncoder
    from sora_pack.sora_core.training import text
    from sora_pack.sora_core.world import caption

    scenes = [sample_scene(seed) for seed in range(24)]
    torch.manual_seed(0)
    encoder = ByteTextEncoder(TextConfig(dim=128, num_layers=1, num_heads=2))
    lines = []
    text.teach_reading(encoder, scenes, 200, log=lambda line, **_: lines.append(line))
    losses = [float(line.split()[-1]) for line in lines if "loss" in line]
    assert lines[-1].startswith("reading: right answers: colour")
    targets = torch.stack([text.fact_vector(scene) for scene in scenes])
    share, weight = targets.mean(0).clamp(1e-4, 1 - 1e-4), torch.tensor(text.TRUE_WEIGHT)
    answer = (weight * share / (1 - share)).log().expand_as(targets)  # the best that never looks at the words
    blind = torch.nn.functional.binary_cross_entropy_with_logits(answer, targets, pos_weight=weight).item()
    assert losses[-1] < 0.6 * blind, (losses, blind, caption(scenes[0]))


@pytest.mark.parametrize("knows", [True, False])
def test_right_answers_are_counted_by_kind(knows):
    from sora_pack.sora_core.training import text
    from sora_pack.sora_core.world import sample_scene

    scenes = [sample_scene(seed, max_objects=1) for seed in range(12)]

    class Answers:
        """Two rows for each prompt that tell all facts of its scene; or that of all, which is none."""

        def __init__(self):
            self.text, self.at, self.device = self, -1, "cpu"

        def tokenize(self, prompts, device):
            return prompts, len(prompts)

        def __call__(self, prompts, count):
            self.at += 1
            return text.fact_vector(scenes[self.at]).expand(count, 2, -1) * knows

    shares = text.right_answers(Answers(), scenes)
    assert list(shares) == ["colour", "shape", "size", "motion"]
    assert text.right_answers(Answers(), []) == {}, "nobody to ask about"
    assert all(share == 1 if knows else share < 0.8 for share in shares.values()), shares


def test_a_run_goes_on_from_an_earlier_transformer(bank, tmp_path):
    tiny = trainer.Settings(size="tiny", steps=2, tokens=128, reading_steps=1)
    earlier = trainer.train_transformer(str(tmp_path / "s1"), str(bank.folder), tiny)
    log = json.loads((tmp_path / "s1" / "log.jsonl").read_text())
    assert 0.5 < log["fill"] < 1.5, log
    board = EventAccumulator(str(tmp_path / "s1")).Reload()
    assert {"loss", "fill", "tokens_per_second"} <= set(board.Tags()["scalars"])
    assert board.Scalars("loss")[-1].value == pytest.approx(log["loss"], abs=1e-4)
    student = trainer.Student(preset("tiny"), TextConfig())
    trainer.begin(student, bank, trainer.Settings(size="tiny", reading_steps=0, start=str(tmp_path / "s1")))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), earlier.parameters(), strict=True))


def test_a_new_run_reads_before_it_hears(bank):
    student = trainer.Student(preset("tiny"), TextConfig())
    before = {name: value.clone() for name, value in student.text.state_dict().items()}
    trainer.begin(student, bank, trainer.Settings(size="tiny", reading_steps=1))
    assert not torch.equal(student.text.stem.weight, before["stem.weight"])
    assert not student.transformer.blocks[0].cross_attn.o.weight.any(), "what is heard counts for nothing at first"


def test_a_new_run_takes_a_text_encoder_that_can_read(bank):
    student = trainer.Student(preset("tiny"), TextConfig())
    file = SHIPPED.parent.parent / "text_encoders" / "sora_mini_text.safetensors"
    trainer.begin(student, bank, trainer.Settings(size="tiny", reading_steps=0, text=str(file)))
    theirs = Pipeline.load(dtype=torch.float32).text.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in student.text.state_dict().items())
    assert not student.transformer.blocks[0].cross_attn.o.weight.any()


def test_a_run_goes_on_from_a_model_file(bank):
    pipeline = Pipeline.load(dtype=torch.float32)
    student = trainer.Student(pipeline.transformer.config, TextConfig())
    trainer.begin(student, bank, trainer.Settings(reading_steps=0, start=str(SHIPPED)))
    ours, theirs = student.state_dict(), {"transformer": pipeline.transformer.state_dict(), "text": pipeline.text.state_dict()}
    assert all(torch.equal(ours[f"{part}.{name}"], value) for part, values in theirs.items() for name, value in values.items())
    with pytest.raises(ValueError, match="not of size 'tiny'"):
        trainer.begin(trainer.Student(preset("tiny"), TextConfig()), bank, trainer.Settings(size="tiny", start=str(SHIPPED)))
