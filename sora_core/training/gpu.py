"""One process that renders, encodes and trains on one GPU (or several by torchrun) for some minutes, and writes a model.

    python -m sora_core.training run --folder runs/gpu --minutes 9 --vae sora_core/weights/vae/sora_mini_vae.safetensors --out made

Nothing is read but the files named, nothing but checkpoints, logs, sheets and the model is written. The same command goes on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..autoencoder import VideoVAE
from ..checkpoint import load_vae, save_vae
from ..config import UserError
from .bank import STAGES, Recipe
from .feed import AHEAD, workers
from .group import Group
from .live import LiveBank
from .run import Run
from .ship import ship
from .transformer import Settings, train_transformer
from .vae import VAESettings, train_vae


@dataclass(frozen=True)
class RunSettings:
    """What is made in how much time.

    Args:
        minutes: of all starts together, from the first shard to the last step; loading and writing come on top (about one minute).
        vae_minutes: of these for the VAE; 0 takes `vae` as it is.
        vae: file of a VAE to use, or to go on from.
        bank_share: of the transformer's time, for rendering and encoding.
        stages: names in bank.STAGES; shards are of each in turn.
        shapes: of the shards, names in bank.SHAPES in turn; none for the plan of each stage, of which two thirds are stills.
        out: folder for the files of the pack; empty for none.
        name: of the model.

    Raises:
        UserError: no VAE, or more minutes for it than there are.
    """

    minutes: float
    vae_minutes: float = 0.0
    vae: str = ""
    bank_share: float = 0.3
    stages: tuple[str, ...] = ("S2",)
    shapes: tuple[str, ...] = ()
    out: str = ""
    name: str = "sora_mini"

    def __post_init__(self):
        if not self.vae and not self.vae_minutes:
            raise UserError("vae: name a file, or give vae-minutes to train one")
        if self.vae_minutes >= self.minutes:
            near = f"use {self.minutes / 3:g}"
            raise UserError(f"vae-minutes {self.vae_minutes:g} leaves none of {self.minutes:g} minutes for the transformer: {near}")


def run_all(folder: str, run: RunSettings, settings: Settings) -> list[Path]:
    """Trains VAE and transformer and writes the model; returns its files."""
    group = Group.join()
    torch.set_float32_matmul_precision("high")
    vae_path = _train_vae(Path(folder) / "vae", run, settings, group) if run.vae_minutes else Path(run.vae)
    vae = load_vae(vae_path, torch.bfloat16, group.device).channels_last()
    settings = replace(settings, steps=0, minutes=run.minutes - run.vae_minutes)
    part = str(Path(folder) / "transformer")
    with workers(settings.workers) as pool:
        bank = _live_bank(part, vae, run, settings, group, pool)
        train_transformer(part, bank, settings, group=group, vae=vae)
    if not run.out or not group.is_main:
        return []
    last = max(run.stages, key=list(STAGES).index)  # which tells what those before it do
    return ship(part, str(vae_path), run.out, name=run.name, stage=last)


def _train_vae(folder: Path, run: RunSettings, settings: Settings, group: Group) -> Path:
    path = folder / "vae.safetensors"
    if not path.exists():
        batch = 8 if group.device == "cuda" else 1
        vae = VAESettings(minutes=run.vae_minutes, start=run.vae, batch=batch, workers=settings.workers, seed=settings.seed)
        made = train_vae(str(folder), vae, group)
        if group.is_main:
            save_vae(path, made)
        group.broadcast(0.0)  # the others wait for the file
    return path


def _live_bank(folder: str, vae: VideoVAE, run: RunSettings, settings: Settings, group: Group, pool) -> LiveBank:
    """A bank with the time that is left; after a resume with scenes that no earlier start has had."""
    before = Run.seconds_done(folder)
    seconds = run.bank_share * max(0.0, 60 * settings.minutes - before)
    ahead = AHEAD * settings.workers
    recipes = [Recipe(stage, run.shapes) for stage in run.stages]
    return LiveBank(vae, settings.tokens, recipes, seconds=seconds, first=12 * int(before), pool=pool, ahead=ahead,
                    asking=settings.asking > 0, group=group)  # fmt: skip


def default_workers() -> int:
    """Three quarters of the processors, up to twelve, write captions, and as many sample scenes and say who is where in them; none where
    there are few."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(12, 3 * processors // 4) if processors >= 8 else 0
