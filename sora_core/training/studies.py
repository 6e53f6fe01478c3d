"""Two small studies of what makes a model better: more compute, and long captions.

    python -m sora_core.training scaling --vae vae.safetensors --folder runs/scaling --steps 4000
    python -m sora_core.training recaptioning --vae vae.safetensors --folder runs/recaptioning --steps 4000

The models of a study see the same batches in the same order, at 64 pixels; the same command goes on. An hour or less on a GPU.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..autoencoder import VideoVAE
from ..evaluation.adherence import found, scored_scenes, told
from ..evaluation.observer import load_observer
from ..evaluation.report import share_row
from ..pictures import contact_sheet
from ..world import caption, render
from .bank import Recipe
from .curve import draw, read_log
from .group import Group
from .live import LiveBank
from .objective import TrainingBatch, draw_batch, draw_captions
from .sheet import videos, world_prompts
from .transformer import Settings, Student, averaged_student, sampling, train_transformer, velocity_loss

SCALE = 0.5  # of the sizes of a stage's plan: 64 pixels
SIZES = ("scale-1x", "scale-4x", "scale-32x")  # by compute for a token
CAPTIONS = {"long captions": 1.0, "short captions": 0.0}
UNSEEN = 100_000  # first shard of scenes that no training of a study reaches
UNSEEN_SHARDS = 12
LESSONS = 16
FALL = 0.25  # of a run, which is not drawn
HIGH_NOISE = 0.97  # where only the words tell what to make
PROMPTS, SECONDS = 24, 2.0  # whose adherence is measured
SHORT_TELL = ("colour", "shape")


def study_bank(vae: VideoVAE, tokens: int, shards: int, stage: str, first: int = 0) -> LiveBank:
    bank = LiveBank(vae, tokens, [Recipe(stage)], first=first, scale=SCALE)
    while len(bank.shards) < shards:
        bank.shards.append(bank.make())
    return bank


def scaling(folder: str, vae: VideoVAE, settings: Settings, *, shards: int = 48, stage: str = "S2", sizes: tuple[str, ...] = SIZES) -> Path:
    """Trains one model of each size on equal data; draws loss against compute, and the same prompts by all.

    Returns:
        scaling.json: parameters, FLOPs and loss on unseen scenes of every size; scaling.svg and scaling.png are beside it.
    """
    bank, unseen = study_bank(vae, settings.tokens, shards, stage), study_bank(vae, settings.tokens, UNSEEN_SHARDS, stage, UNSEEN)
    curves, rows, shown, prompts = {}, [], [], world_prompts(4)
    for size in sizes:
        student = _train(f"{folder}/{size}", bank, replace(settings, size=size))
        spent = list(itertools.accumulate(flops for _, flops in read_log(f"{folder}/{size}", "flops")))
        curves[size] = later([(float(np.log10(flops)), loss) for flops, (_, loss) in zip(spent, read_log(f"{folder}/{size}", "loss"))])
        parameters = sum(p.numel() for p in student.transformer.parameters())
        rows.append({"size": size, "parameters": parameters, "flops": spent[-1], "loss": unseen_loss(student, unseen)})
        shown += [video[-1] for video in videos(student, vae, prompts, sampling(settings.native_fps), round(128 * SCALE))]
    draw(curves, Path(folder) / "scaling.svg", "loss against training compute", across="log10 of FLOPs", begin=None)
    contact_sheet(shown, Path(folder) / "scaling.png", columns=len(prompts), labels=list(sizes))
    return _write(Path(folder) / "scaling.json", rows)


def recaptioning(folder: str, vae: VideoVAE, settings: Settings, *, shards: int = 48, stage: str = "S2") -> Path:
    """Trains one model on long captions and one on short ones; asks both how much captions of either kind tell them.

    Returns:
        recaptioning.json: for every model and kind of caption the loss at high noise on unseen scenes with the right words, with
        another scene's, and with none (what words are worth is how much the first lies below the last); and the share of what held-out
        prompts tell that the observer finds in videos of them, beside what it finds in renders.
    """
    bank, unseen = study_bank(vae, settings.tokens, shards, stage), study_bank(vae, settings.tokens, UNSEEN_SHARDS, stage, UNSEEN)
    rows = []
    for name, share in CAPTIONS.items():
        student = _train(f"{folder}/{name.split()[0]}", bank, replace(settings, long_captions=share))
        for length in ("long", "short"):
            shown = prompt_adherence(student, vae, settings.native_fps, length)
            rows.append({"trained on": name, "asked with": f"{length} captions", **worth_of_words(student, unseen, length), **shown})
    return _write(Path(folder) / "recaptioning.json", rows)


def later(curve: list) -> list:
    """A curve without its first fall, which would hide all else."""
    return curve[min(len(curve) - 1, round(FALL * len(curve))) :]


def _train(folder: str, bank: LiveBank, settings: Settings) -> Student:
    train_transformer(folder, bank, settings)
    return averaged_student(folder)[0].to(Group().device)


def _write(path: Path, rows: list[dict]) -> Path:
    for row in rows:
        print("  ".join(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in row.items()))
    path.write_text(json.dumps({"rows": rows}, indent=1))
    return path


@torch.no_grad()
def unseen_loss(student: Student, bank: LiveBank) -> float:
    """Mean loss over fixed batches of scenes that were never trained on."""
    losses = []
    for i in range(LESSONS):
        rng, shard = np.random.default_rng(i), bank.shards[i % len(bank.shards)]
        made = draw_batch(shard, bank.tokens, 8.0, rng)
        losses.append(float(velocity_loss(student, made, draw_captions(shard, made, rng), i)))
    return sum(losses) / len(losses)


def prompt_adherence(student: Student, vae: VideoVAE, native_fps: float, length: str) -> dict[str, float | int]:
    """Share of the facts of PROMPTS held-out captions that the observer finds in what a model makes of them, with its 95 % interval, and
    in renders. Of short captions the facts are those that all of them tell."""
    observer, scenes, side = load_observer(), list(scored_scenes(PROMPTS)), round(128 * SCALE)
    prompts = [caption(scene, length, "en", scene.seed, seconds=SECONDS) for scene in scenes]
    made = videos(student, vae, prompts, sampling(native_fps), side)
    hits, true, clips = [], [], []
    for clip, (scene, prompt, frames) in enumerate(zip(scenes, prompts, made, strict=True)):
        renders = render(scene, [k / native_fps for k in range(len(frames))], side, side)
        seen, shown = observer.read([frames.cpu(), renders])
        facts = [fact for fact in told(scene, prompt, "en", SECONDS) if length == "long" or fact.kind in SHORT_TELL]
        hits += [found(fact, seen) for fact in facts]
        true += [found(fact, shown) for fact in facts]
        clips += [clip] * len(facts)
    row = share_row("adherence", hits, clips=clips)
    return {"adherence": row.value, "low": row.low, "high": row.high, "facts": len(hits), "of renders": sum(true) / len(true)}


@torch.no_grad()
def worth_of_words(student: Student, bank: LiveBank, length: str) -> dict[str, float]:
    """Mean loss of stills at high noise with the right captions, with those of the next record, and with none."""
    kinds: dict[str, Callable[[list[str]], list[str]]] = {
        "right words": lambda told: told,
        "another's": lambda told: told[1:] + told[:1],
        "no words": lambda told: [""] * len(told),
    }
    losses: dict[str, list[float]] = {kind: [] for kind in kinds}
    for i, shard in enumerate(s for s in bank.shards if s.latents.shape[2] == 1):
        ones = torch.ones(len(shard.scenes), 1)
        made = TrainingBatch(shard.latents.float(), torch.zeros(1), ones, HIGH_NOISE * ones, list(range(len(ones))), [0])
        told = [caption(shots[0], length, "en", i) for shots in shard.scenes]
        for kind, change in kinds.items():
            losses[kind].append(float(velocity_loss(student, made, [change(told)], i)))
    return {kind: sum(values) / len(values) for kind, values in losses.items()}
