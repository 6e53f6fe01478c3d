"""Training without files: minutes as budget, a bank that grows while training goes on, sheets, and the whole in one command."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import save_vae
from sora_pack.sora_core.config import TextConfig, UserError, VAEConfig, preset
from sora_pack.sora_core.pipeline import Pipeline
from sora_pack.sora_core.plan import DISTANCE, Lattice, foresight
from sora_pack.sora_core.training import gpu, live, sheet, studies
from sora_pack.sora_core.training import transformer as trainer
from sora_pack.sora_core.training import vae as vae_trainer
from sora_pack.sora_core.training.bank import STAGES, Recipe, Shape, plan
from sora_pack.sora_core.training.feed import Prefetcher, workers
from sora_pack.sora_core.training.objective import choose_cells, choose_gap
from sora_pack.sora_core.training.run import Run

TINY = trainer.Settings(size="tiny", tokens=64, reading_steps=1, workers=0)


@pytest.fixture
def small_world(monkeypatch):
    """A plan of stills and short clips of 32x32 pixels, two shards at the start."""
    shapes = (Shape(1, 8.0, 32, 32), Shape(5, 8.0, 32, 32))
    monkeypatch.setattr(live, "plan", lambda index, recipe: shapes[index % 2])
    monkeypatch.setattr(live, "FIRST_SHARDS", 2)
    monkeypatch.setattr(sheet, "SIDE", 32)
    monkeypatch.setattr(sheet, "STEPS", 1)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(VAEConfig(dim=8)).channels_last().eval()


def test_a_budget_of_minutes_is_the_clocks(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("sora_pack.sora_core.training.run.time.monotonic", lambda: now[0])
    run, seen = Run(tmp_path, minutes=1.0), []
    for step, share in run.budget(0):
        seen.append((step, round(share, 3)))
        now[0] += 21.0
    assert seen == [(0, 0.0), (1, 0.35), (2, 0.7)]
    with pytest.raises(ValueError, match="steps: 0"):
        Run(tmp_path)


def test_a_live_bank_grows_with_the_budget(small_world, vae, monkeypatch):
    bank = live.LiveBank(vae, tokens=64, seconds=10.0)
    monkeypatch.setattr(live.time, "monotonic", iter(range(1000)).__next__)  # every shard takes a second
    sizes = []
    for share in (0.2, 0.2, 0.5, 0.7, 0.99):  # begun at a fifth, as after a resume
        bank.refresh(share)
        sizes.append(len(bank.shards))
    assert sizes == [2, 2, 7, 10, 10], "a tenth of the time at once, all of it at three fifths of what is left"
    still, clip = bank.shards[:2]
    assert still.latents.shape == (4, 16, 1, 4, 4) and still.guides is None, "64 tokens are 4 stills of 4 tokens, each 4 times"
    assert clip.latents.shape == (4, 16, 2, 4, 4) and clip.guides.shape == (4, 2, 16, 1, 4, 4)
    mixed = live.LiveBank(vae, 64, [Recipe("S2"), Recipe("S4")])
    assert [mixed.recipe(i).stage for i in range(3)] == ["S2", "S4", "S2"]
    assert [mixed.shape(i).frames for i in range(4)] == [1, 1, 5, 5], "each stage has all shapes of its plan"
    assert still.bodies is None, "nobody asks who is where"
    asking = live.LiveBank(vae, tokens=64, asking=True)
    asking.refresh(0.0)
    assert torch.equal(asking.shards[0].bodies, still.who_is_where())
    other = live.LiveBank(vae, tokens=64, first=12)
    other.refresh(0.0)
    assert other.shards[0].scenes != still.scenes


@pytest.mark.parametrize(("processors", "count"), [(2, 0), (8, 6), (16, 12), (64, 12)])
def test_a_large_machine_writes_captions_with_most_of_its_processors(monkeypatch, processors, count):
    monkeypatch.setattr(gpu.os, "sched_getaffinity", lambda pid: range(processors), raising=False)
    assert gpu.default_workers() == count


def test_stages_are_what_they_say():
    for name, stage in STAGES.items():
        shapes = {replace(plan(index, Recipe(name)), begin=0.0) for index in range(144)}
        assert set(stage.clips) | set(stage.rare) <= shapes
    longest = {name: max(plan(i, Recipe(name)).frames for i in range(144)) for name in STAGES}
    assert longest == {"S1": 17, "S2": 41, "S3": 41, "S4": 481}
    with pytest.raises(UserError, match="stage: 'S9' is not known: use one of S1"):
        Recipe("S9")


def test_a_long_video_is_seen_in_parts():
    shard = type("Long", (), {"latents": torch.empty(1, 16, 121, 2, 2), "has_story": False})()
    seen = [choose_cells(shard, np.random.default_rng(seed), most=20) for seed in range(60)]
    assert max(map(len, seen)) == 20 and all(cells == sorted(set(cells)) for cells in seen)
    assert list(np.linspace(0, 120, 20).round()) in seen, "all of it, equally far apart"
    assert any(cells[-1] - cells[0] > 60 and len(cells) < 20 for cells in seen)


def test_gaps_are_trained_as_foresight_makes_them():
    passes = [p for p in foresight(Lattice(121)).passes if p.name == "gap" and len(p.make) == DISTANCE - 1]
    made = {(tuple(c - p.make[0] for c in p.see), tuple(c - p.make[0] for c in p.make)) for p in passes}
    shard, taught = type("Long", (), {"latents": torch.empty(1, 16, 121, 2, 2)})(), set()
    for seed in range(400):
        cells, unknown = choose_gap(shard, np.random.default_rng(seed))
        assert cells[0] == 0 or not unknown[0]
        make = [c for c, u in zip(cells, unknown, strict=True) if u]
        taught.add((tuple(c - make[0] for c, u in zip(cells, unknown, strict=True) if not u), tuple(c - make[0] for c in make)))
    assert len(made) >= 3 and made <= taught, made - taught


def test_the_feed_keeps_order_and_looks_ahead():
    drawn = []

    def draw(step):
        drawn.append(step)
        return step * 10, pow, step, 2

    feed = Prefetcher(draw, workers(0), ahead=2)
    assert [feed.next(step) for step in (5, 6)] == [(50, 25), (60, 36)]
    assert drawn == [5, 6, 7, 8]


def test_run_makes_a_model_that_opens_and_goes_on(small_world, vae, tmp_path, monkeypatch):
    # A second passes whenever the clock is looked at.
    monkeypatch.setattr(Run, "elapsed", property(lambda self: self.before + next(self.__dict__.setdefault("ticks", itertools.count()))))
    save_vae(tmp_path / "vae.safetensors", vae)
    plan = gpu.RunSettings(0.1, vae=str(tmp_path / "vae.safetensors"), bank_share=0.2, out=str(tmp_path / "made"), name="tiny")
    files = gpu.run_all(str(tmp_path / "run"), plan, replace(TINY, sheets=1))
    assert [path.name for path in files] == ["tiny.safetensors", "tiny_vae.safetensors", "tiny_text.safetensors"]
    log = [json.loads(line) for line in (tmp_path / "run/transformer/log.jsonl").read_text().splitlines()]
    assert log[-1]["tokens_per_second"] > 0 and log[-1]["mfu"] > 0
    assert (tmp_path / "run/transformer/sheet_100.png").exists()
    frames = Pipeline.load(files[0], torch.float32).video("a red ball", seconds=0.5, width=32, height=32, steps=1)
    assert frames.shape == (5, 32, 32, 3)
    gpu.run_all(str(tmp_path / "run"), replace(plan, minutes=0.3), TINY)
    again = [json.loads(line) for line in (tmp_path / "run/transformer/log.jsonl").read_text().splitlines()]
    assert again[: len(log)] == log and again[-1]["step"] > log[-1]["step"], "the same command goes on where it was"
    with pytest.raises(ValueError, match="leaves none of 1 minutes"):
        gpu.run_all(str(tmp_path), replace(plan, minutes=1.0, vae_minutes=2.0), TINY)
    with pytest.raises(ValueError, match="vae: name a file"):
        gpu.run_all(str(tmp_path), replace(plan, vae=""), TINY)


def test_vae_trains_from_clips_in_memory(tmp_path, monkeypatch):
    """What a GPU does: clips rendered at once, batches cut from them."""
    monkeypatch.setattr(vae_trainer, "CLIPS", {"stills": (4, 1, 32), "normal": (2, 5, 32), "long": (1, 5, 32)})
    kinds = (vae_trainer.Batch(1, 16, 2, 1.0), vae_trainer.Batch(5, 16, 1, 1.0))
    pool = vae_trainer.FramePool.on_device("cpu", workers(0))
    assert pool.stills.shape == (4, 1, 32, 32, 3) and pool.normal.shape == (2, 5, 32, 32, 3)
    batch = pool.batch(kinds[1], np.random.default_rng(0))
    assert batch.shape == (1, 3, 5, 16, 16) and -1 <= batch.min() < batch.max() <= 1
    monkeypatch.setattr(vae_trainer, "MIX", kinds)
    monkeypatch.setattr(vae_trainer, "VAEConfig", lambda: VAEConfig(dim=8))
    monkeypatch.setattr(vae_trainer, "FOLDING", replace(kinds[1], count=1))
    first = vae_trainer.train_vae(str(tmp_path / "a"), vae_trainer.VAESettings(steps=3, batch=2))
    second = vae_trainer.train_vae(str(tmp_path / "b"), vae_trainer.VAESettings(steps=3, batch=2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert json.loads((tmp_path / "a/log.jsonl").read_text())["psnr"] > 0
    save_vae(tmp_path / "a/vae.safetensors", first)
    settings = vae_trainer.VAESettings(steps=3, start=str(tmp_path / "a/vae.safetensors"), decoder_only=True)
    third = vae_trainer.train_vae(str(tmp_path / "c"), settings)
    with torch.no_grad():
        z = first.encode(batch)
        assert torch.equal(third.encode(batch), z) and not torch.equal(third.decode(z), first.decode(z))


def test_a_decoder_alone_is_that_of_a_file():
    with pytest.raises(ValueError, match="^decoder-only: name the VAE"):
        vae_trainer.VAESettings(steps=3, decoder_only=True)


def test_blocks_compile_for_all_shapes(small_world, vae, monkeypatch):
    """With a backend that generates no code: one graph without breaks, few for all shapes, and the same gradients."""
    torch._dynamo.reset()
    compile_module = torch.nn.Module.compile
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compile_module(self, backend=count, fullgraph=True, **options))
    bank = live.LiveBank(vae, tokens=64)
    bank.refresh(0.0)
    torch.manual_seed(0)
    student = trainer.new_student(TINY)
    torch.nn.init.normal_(student.transformer.head.head.weight, std=0.02)
    lessons = [trainer.draw_batch(shard, 64, 8.0, np.random.default_rng(seed)) for seed in range(2) for shard in bank.shards]
    words = [[["a red ball"] * len(made.records)] for made in lessons]

    def gradients():
        for made, said in zip(lessons, words, strict=True):
            trainer.velocity_loss(student, made, said, 0).backward()
        found = [p.grad.clone() for p in student.parameters() if p.grad is not None]
        student.zero_grad(set_to_none=True)
        return found

    plain = gradients()
    drawn = ((lessons[0], 0, 0.0), list, words[0])
    trainer.compile_blocks(student, lambda made, said: trainer.velocity_loss(student, made, said, 0), drawn)
    compiled = gradients()
    assert 0 < len(graphs) <= 8, f"{len(graphs)} graphs"
    difference = max((a - b).abs().max().item() for a, b in zip(plain, compiled, strict=True))
    assert difference < 0.02, f"max_diff {difference}"


def test_studies_at_tiny_size(small_world, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "UNSEEN_SHARDS", 2)
    monkeypatch.setattr(studies, "LESSONS", 2)
    monkeypatch.setattr(studies, "PROMPTS", 2)
    settings = replace(TINY, steps=2)
    path = studies.scaling(str(tmp_path), vae, settings, shards=2, sizes=("tiny", "scale-1x"))
    small, large = json.loads(path.read_text())["rows"]
    assert small["parameters"] < large["parameters"] and small["flops"] < large["flops"]
    assert small["loss"] > 0 and (tmp_path / "scaling.png").exists() and "log10 of FLOPs" in (tmp_path / "scaling.svg").read_text()
    rows = json.loads(studies.recaptioning(str(tmp_path), vae, settings, shards=2).read_text())["rows"]
    assert [row["trained on"] for row in rows] == ["long captions"] * 2 + ["short captions"] * 2
    assert all(row[kind] > 0 for row in rows for kind in ("right words", "another's", "no words"))
    assert all(row["low"] <= row["adherence"] <= row["high"] and row["of renders"] > 0.5 for row in rows)
    assert rows[0]["facts"] > rows[1]["facts"] > 0, "a short caption tells less"


def test_worth_of_words_changes_nothing_but_the_words(small_world, vae):
    bank = studies.study_bank(vae, 64, 1, "S2")
    torch.manual_seed(0)
    student = trainer.Student(preset("tiny"), TextConfig(dim=64, num_layers=1, num_heads=1, pieces=256))
    torch.nn.init.normal_(student.transformer.head.head.weight, std=0.2)
    losses = studies.worth_of_words(student, bank, "long")
    assert len(set(losses.values())) == 3, "right words, another's and none: three answers"
    bank.shards[0].scenes[1:] = bank.shards[0].scenes[:1] * (len(bank.shards[0].scenes) - 1)
    losses = studies.worth_of_words(student, bank, "long")
    assert losses["another's"] == losses["right words"] != losses["no words"], "where all scenes are one, another's words are right"


def test_training_needs_no_pyav():
    """A machine for training may have what torch brings, and little more."""
    code = "import sys; sys.modules['av'] = None; import sora_core.training.__main__, sora_core.training.gpu, sora_core.evaluation.__main__"
    subprocess.run([sys.executable, "-c", code], cwd=Path(gpu.__file__).parents[2], check=True)
