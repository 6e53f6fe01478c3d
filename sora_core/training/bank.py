"""The latent bank: clips of the world, rendered and encoded once, read for many epochs with fresh noise, masks and captions.

    python -m sora_core.training bank --folder runs/bank --vae runs/vae/vae.safetensors --shards 200

A shard is one safetensors file of `SHARD` records of one shape. Shards are made in a fixed order that mixes the shapes, so training may
start on the first ones while the rest are made, several processes may make them side by side, and a killed one is continued.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..autoencoder import VideoVAE, normalise
from ..canvas import encode_span
from ..shapes import Strides
from ..world import CAMERAS, PLACES, TIMES_OF_DAY, Scene, is_held_out, render, sample_scene, scene_for

SHARD = 32
GUIDES = 2
GUIDES_WITH_TAILS = 8  # the richest records carry as many guide cells as the objective ever shows
STALE_SECONDS = 1800.0  # no shard takes that long: its maker is dead
FIRST_SEED = 10_000_000  # seeds below are left to tests, sheets and the VAE


@dataclass(frozen=True)
class Shape:
    """Frames, rate and size of all records of a shard.

    `tails` also encodes each clip's second half as a span of its own; `cuts` are the cells at which a second, third ... shot begins.
    """

    frames: int
    fps: float
    width: int
    height: int
    tails: bool = False
    cuts: tuple[int, ...] = ()


STILLS = tuple(Shape(1, 8.0, w, h) for w, h in ((128, 128), (176, 96), (96, 176)))
SECONDS_2 = tuple(Shape(17, 8.0, w, h) for w, h in ((128, 128), (128, 128), (176, 96), (96, 176)))
SECONDS_5 = (Shape(41, 8.0, 128, 128, True), Shape(41, 8.0, 128, 128), Shape(41, 8.0, 176, 96), Shape(41, 8.0, 96, 176))
RARE = (
    Shape(17, 4.0, 128, 128, True),
    Shape(25, 16.0, 128, 128),
    Shape(33, 8.0, 128, 128, cuts=(5,)),
    Shape(41, 8.0, 128, 128, cuts=(3, 6, 9)),
)


def plan(index: int) -> Shape:
    """The shape of shard `index`: of twelve shards eight are stills, three last 2 s, and one lasts 5 s or is of a rare kind."""
    turn, slot = divmod(index, 12)
    if slot == 11:
        return RARE[turn // 3 % 4] if turn % 3 == 2 else SECONDS_5[turn % 4]
    if slot % 3 == 2:
        return SECONDS_2[(turn * 3 + slot // 3) % 4]
    return STILLS[(turn + slot) % 3]


def scenes_of(index: int) -> list[list[Scene]]:
    """The shots of every record of a shard, by their seeds; held-out combinations are passed over and never trained on."""
    records, seed = [], FIRST_SEED + index * 10_000
    while len(records) < SHARD:
        seed += 1
        shots = [sample_scene(seed)]
        with contextlib.suppress(ValueError):  # this cast cannot be filmed so
            shots += [next_shot(shots[0], seed * 10 + k) for k, _ in enumerate(plan(index).cuts)]
            if not any(map(is_held_out, shots)):
                records.append(shots)
    return records


def next_shot(scene: Scene, seed: int) -> Scene:
    """The same characters with the same motions, at another place, time of day and camera. Raises ValueError where that is impossible."""
    rng = random.Random(seed)
    cast = [(body.colour, body.shape, body.motion, body.size) for body in scene.objects]
    place = rng.choice([p for p in PLACES if p != scene.place])
    return scene_for(cast, place, rng.choice(TIMES_OF_DAY), rng.choice(CAMERAS), seed)


def to_float(frames: Tensor) -> Tensor:
    """uint8 frames [T, H, W, 3] -> [1, 3, T, H, W] in -1..1."""
    return frames.permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1


def guide_frames(index: int, shape: Shape) -> Tensor:
    """Which frames of all clips of shard `index` are also kept as stills, sorted."""
    count = GUIDES_WITH_TAILS if shape.tails else GUIDES
    return torch.randperm(shape.frames, generator=torch.Generator().manual_seed(index))[:count].sort().values


def film(shots: list[Scene], shape: Shape) -> Tensor:
    """Frames uint8 [T, H, W, 3] of one record; every shot begins at its own second 0."""
    starts = [0, *(Strides().frames(cut) for cut in shape.cuts), shape.frames]
    lengths = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    parts = [render(shot, [k / shape.fps for k in range(n)], shape.width, shape.height) for shot, n in zip(shots, lengths, strict=True)]
    return torch.cat(parts)


def encode_record(vae: VideoVAE, shots: list[Scene], shape: Shape, guides_at: Tensor) -> dict[str, Tensor]:
    """Latents of one clip, of the frames `guides_at` as stills (guide cells), and of its second half as a span."""
    x = to_float(film(shots, shape)).to(vae.conv2.weight.dtype)
    record = {"latents": normalise(vae.encode(x, None).float())[0]}
    if shape.frames > 1:
        stills = x[0, :, guides_at].transpose(0, 1).unsqueeze(2)  # G 3 1 H W
        record["guides"] = normalise(vae.encode(stills, None).float())
    if shape.tails:
        cells = record["latents"].shape[1]
        span = x[:, :, vae.strides.frames(cells // 2 + 1) :]
        record["tail"] = normalise(encode_span(vae, span, starts_at_zero=False).float())[0]
    return record


def make_shard(folder: Path, index: int, vae: VideoVAE) -> bool:
    """Makes shard `index` unless it is there or another process is at it; returns whether it was made."""
    path, lock = folder / f"{index:05d}.safetensors", folder / f"{index:05d}.lock"
    if path.exists():
        return False
    if lock.exists() and time.time() - lock.stat().st_mtime > STALE_SECONDS:
        lock.unlink(missing_ok=True)
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        shape, scenes = plan(index), scenes_of(index)
        guides_at = guide_frames(index, shape)
        records = [encode_record(vae, shots, shape, guides_at) for shots in scenes]
        tensors = {name: torch.stack([r[name] for r in records]).half().contiguous() for name in records[0]}
        facts = {"fps": shape.fps, "cuts": shape.cuts, "guide_frames": guides_at.tolist()}
        facts["scenes"] = [[scene.to_json() for scene in shots] for shots in scenes]
        part = path.with_suffix(".part")
        save_file(tensors, str(part), metadata={"bank": json.dumps(facts, ensure_ascii=False)})
        part.replace(path)
    finally:
        lock.unlink(missing_ok=True)
    return True


@torch.inference_mode()
def make_bank(folder: str, vae: VideoVAE, shards: int) -> None:
    """Makes the first `shards` shards in `folder`."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    started, frames = time.monotonic(), 0
    for index in range(shards):
        if make_shard(place, index, vae):
            frames += plan(index).frames * SHARD
            print(f"shard {index + 1}/{shards}  {frames / (time.monotonic() - started):.0f} frames a second", flush=True)


@dataclass
class Shard:
    """One file of the bank in memory. Latents are normalised; `tail` holds the cells from `cells // 2 + 1` on, encoded as a span."""

    fps: float
    cuts: list[int]
    guide_frames: list[int]
    scenes: list[list[Scene]]  # the shots of every record
    latents: Tensor  # n C F h w
    guides: Tensor | None = None  # n G C 1 h w
    tail: Tensor | None = None  # n C f h w

    def shot_of(self, cell: int) -> int:
        return bisect.bisect_right(self.cuts, cell)

    def span(self, cells: list[int], shot: int = 0) -> tuple[float, float]:
        """Seconds of a shot, counted from its own beginning, in which the first and the last of some cells end; 0, 0 without any."""
        inside = [Strides.time * cell / self.fps for cell in cells if self.shot_of(cell) == shot]
        begin = (Strides().frames(self.cuts[shot - 1]) if shot else 0) / self.fps
        return (max(0.0, inside[0] - begin), max(0.0, inside[-1] - begin)) if inside else (0.0, 0.0)


class Bank:
    """All shards of a folder, found anew by `refresh` while others are being made."""

    def __init__(self, folder: str | Path):
        self.folder, self.shards, self.seen = Path(folder), [], set()
        self.refresh()
        if not self.shards:
            raise FileNotFoundError(f"no latent bank in {folder}: make one with `python -m sora_core.training bank --folder {folder}`")

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self.seen:
                continue
            with safe_open(path, "pt") as f:
                facts = json.loads(f.metadata()["bank"])
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (safe_open is not a dict)
            scenes = [[Scene.from_json(s) for s in shots] for shots in facts["scenes"]]
            self.shards.append(Shard(facts["fps"], facts["cuts"], facts["guide_frames"], scenes, **tensors))
            self.seen.add(path.name)
