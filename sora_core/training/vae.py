"""Trains the video VAE on rendered frames, then folds its latents: to the statistics of the public Wan 2.1 VAE, and to the
metric of pixels.

    python -m sora_core.training vae --folder runs/vae --steps 2400

Stills first, then clips: a still costs a ninth of a nine-frame clip and teaches most of what a frame needs. Clips longer than the
temporal receptive field (about 28 cells) are mixed in, because a causal VAE that never saw them loses its colours on long videos.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder import VideoVAE, pixels_of
from ..checkpoint import load_vae
from ..config import LATENT_MEAN, LATENT_STD, UserError, VAEConfig
from ..files import atomic_path
from ..world import render_batch, sample_scene
from .feed import workers
from .group import ALONE, Group
from .optim import Average, Optimizer
from .run import Run

KL_WEIGHT = 5e-4  # enough to keep the latents smooth for the transformer; 0.1 dB of reconstruction
EDGE_WEIGHT = 0.5  # of the difference between neighbouring pixels: sharp outlines, which L1 alone leaves soft
SHARPNESS_WEIGHT, BLOCK = 0.5, 8  # of how sharp blocks of so many pixels are: what the decoder cannot place it must still not blur
DETAIL_SHARE, DETAIL_TRIES = 0.7, 4  # of the crops, this share is the richest of so many: most places are plain sky or ground


@dataclass(frozen=True)
class Batch:
    """One kind of training batch: `count` clips of `frames` frames, cropped to `size` pixels, from share `start` of the run on."""

    frames: int
    size: int
    count: int
    weight: float
    start: float = 0.0
    end: float = 1.0


MIX = (
    Batch(1, 64, 16, 1.0, 0.0, 0.2),
    Batch(1, 128, 6, 0.2, 0.2),
    Batch(5, 64, 6, 0.4, 0.05),
    Batch(9, 64, 4, 0.9, 0.1),
    Batch(17, 64, 2, 0.9, 0.15),
    # A causal codec takes seconds to settle: what only short clips teach is how to begin.
    Batch(33, 64, 1, 0.8, 0.2),
    Batch(65, 48, 1, 0.8, 0.3),
    Batch(129, 32, 1, 0.6, 0.3),
)
WITHOUT_TILES = ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
"""oneDNN's gradients of bfloat16 convolutions write beyond their memory on processors with AMX (torch 2.11: "double free", or a process
that hangs). Read at the first convolution of a process."""

FOLDING = Batch(17, 128, 1, 1.0)  # what the statistics of the latents are taken from
LATEST_START = max(kind.start for kind in MIX)
METRIC_SPACING = 3  # cells
LEAST_SEEN = 1e-3  # of the largest eigenvalue of the metric: no channel is lost, whatever it does for pixels


CLIPS = {"stills": (2400, 1, 128), "normal": (240, 33, 128), "long": (64, 129, 64)}  # clips, frames, pixels on a side
FIRST_SEEDS = {"stills": 1_000_000, "normal": 1_100_000, "long": 1_200_000}  # seeds below are left to tests and sheets
RATES = (8.0, 8.0, 4.0, 16.0)  # frames a second of the clips, in turn
RENDERED_AT_ONCE = 512  # frames


class FramePool:
    """Rendered clips to cut training batches from, uint8 [n, T, H, W, 3]: `stills`, `normal` ones and `long` ones."""

    def __init__(self, stills: Tensor, normal: Tensor, long: Tensor):
        self.stills, self.normal, self.long = stills, normal, long

    @classmethod
    def on_disk(cls, folder: Path) -> FramePool:
        """Made at the first start, and read by memory mapping afterwards."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(**{name: torch.from_numpy(_file(folder / f"{name}.npy", name)) for name in CLIPS})

    @classmethod
    def on_device(cls, device: str, pool: Executor) -> FramePool:
        """Rendered into the memory of a GPU; `pool` samples the scenes."""
        return cls(**{name: _render(name, device, pool, count) for name, (count, _, _) in CLIPS.items()})

    def batch(self, kind: Batch, rng: np.random.Generator) -> Tensor:
        """[count, 3, frames, size, size] in -1..1, at random places, mostly where there is something, and half the time mirrored."""
        source = self.stills if kind.frames == 1 else self.normal if kind.frames <= self.normal.shape[1] else self.long
        clips = []
        for _ in range(kind.count):
            tries = DETAIL_TRIES if rng.random() < DETAIL_SHARE else 1
            crops = torch.stack([self._crop(source, kind, rng) for _ in range(tries)])
            clip = crops.index_select(0, _richness(crops[:, -1]).argmax(0, keepdim=True))
            clips.append(clip.flip(3) if rng.random() < 0.5 else clip)
        return pixels_of(torch.cat(clips))

    @staticmethod
    def _crop(source: Tensor, kind: Batch, rng: np.random.Generator) -> Tensor:
        n, t, h, w, _ = source.shape
        i, start = rng.integers(n), rng.integers(t - kind.frames + 1)
        y, x = rng.integers(h - kind.size + 1), rng.integers(w - kind.size + 1)
        return source[i, start : start + kind.frames, y : y + kind.size, x : x + kind.size]


def _file(path: Path, name: str) -> np.ndarray:
    if not path.exists():
        started, clips = time.monotonic(), _render(name, "cpu", workers(0), CLIPS[name][0])
        with atomic_path(path) as part, part.open("wb") as file:  # to a name, np.save would add its own suffix
            np.save(file, clips.numpy())
        print(f"{path.name}: {len(clips) * clips.shape[1] / (time.monotonic() - started):.0f} frames rendered a second", flush=True)
    return np.load(path, mmap_mode="c")


def _render(name: str, device: str, pool: Executor, count: int) -> Tensor:
    """The first `count` clips of a kind."""
    _, frames, side = CLIPS[name]
    scenes = [pool.submit(sample_scene, FIRST_SEEDS[name] + i, held_out=False) for i in range(count)]
    clips = torch.empty(count, frames, side, side, 3, dtype=torch.uint8, device=device)
    at_once = max(1, RENDERED_AT_ONCE // frames) if device != "cpu" else 1
    for first in range(0, count, at_once):
        some = range(first, min(first + at_once, count))
        times = [[k / RATES[i % len(RATES)] for k in range(frames)] for i in some]
        clips[first : some.stop] = torch.stack(render_batch([scenes[i].result() for i in some], times, side, side, device))
    return clips


def _richness(frames: Tensor) -> Tensor:
    """Mean square difference of neighbouring pixels of uint8 [n, H, W, 3]: [n]."""
    x = frames.float()
    return sum(x.diff(dim=axis).square().mean((1, 2, 3)) for axis in (1, 2))


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of pixels, of their differences to the right, below and next in time, and of the sharpness of blocks."""
    loss = (x - y).abs().mean()
    error = x - y
    for axis in (2, 3, 4):
        if x.shape[axis] > 1:
            loss = loss + EDGE_WEIGHT / 3 * error.diff(dim=axis).abs().mean()
    for axis in (3, 4):
        sharp, soft = (F.avg_pool2d(frames.diff(dim=axis).abs().flatten(1, 2), BLOCK) for frames in (x, y))
        loss = loss + SHARPNESS_WEIGHT / 2 * (sharp - soft).abs().mean()
    return loss


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of frames in -1..1."""
    return -10 * torch.log10((x.clamp(-1, 1) - y.clamp(-1, 1)).square().mean() / 4)


@torch.no_grad()
def turn_latents(vae: VideoVAE, turn: Tensor, shift: Tensor) -> None:
    """Makes raw latents z into `turn` z + `shift` ([C, C] and [C]) by `conv1` and `conv2` alone; reconstructions stay the same."""
    channels, back = len(turn), torch.linalg.inv(turn)
    vae.conv2.weight.copy_(torch.einsum("oizyx,ij->ojzyx", vae.conv2.weight, back))
    vae.conv2.bias.sub_(vae.conv2.weight.flatten(1) @ shift)
    vae.conv1.weight[:channels] = torch.einsum("ij,jczyx->iczyx", turn, vae.conv1.weight[:channels])
    vae.conv1.bias[:channels] = turn @ vae.conv1.bias[:channels] + shift


def unfold_latents(vae: VideoVAE) -> None:
    """Latents of mean 0 and deviation 1, as training wants them, from those of the published statistics."""
    scale = 1 / torch.tensor(LATENT_STD)
    turn_latents(vae, scale.diag(), -scale * torch.tensor(LATENT_MEAN))


@torch.no_grad()
def fold_latents(vae: VideoVAE, clips: list[Tensor]) -> None:
    """Gives raw latents the published mean and deviation, and makes an error in them about as large as that of the pixels it spoils.

    A VAE spends its channels as it likes: of ours half of all variance was detail that is a tenth of the picture, and so half of what a
    transformer's loss asked for. In the metric of the decoder colours and outlines have most of the variance, as they have in pixels:
    they come first, while there is much noise, and details last. This is the metric's root, in the principal axes of what it gives, and a
    Hadamard rotation of those, after which all channels have the same deviation.

    Args:
        clips: frames [1, 3, T, H, W] in -1..1 that stand for all.
    """
    means, log_variances = zip(*(vae.moments(x) for x in clips), strict=True)
    z = torch.cat([mean.movedim(1, 0).flatten(1) for mean in means], 1)
    centre, deviation = z.mean(1), z.std(1)
    standard = (z - centre[:, None]) / deviation[:, None]
    values, vectors = torch.linalg.eigh(decoder_metric(vae, means, deviation))
    root = vectors @ values.clamp_min(LEAST_SEEN * values.max()).sqrt().diag() @ vectors.T
    spread, axes = torch.linalg.eigh(torch.cov(root @ standard))
    turn = _hadamard(len(axes)) @ axes.T @ root / spread.mean().sqrt()
    turn = torch.tensor(LATENT_STD).diag() @ turn @ (1 / deviation).diag()
    turn_latents(vae, turn, torch.tensor(LATENT_MEAN) - turn @ centre)
    # The posterior's deviations belonged to the old axes. A training that goes on learns them anew from one for all places.
    channels, old = len(turn), torch.cat([v.movedim(1, 0).flatten(1) for v in log_variances], 1).exp().mean(1)
    vae.conv1.weight[channels:] = 0
    vae.conv1.bias[channels:] = (turn.square() @ old).log()


@torch.no_grad()
def decoder_metric(vae: VideoVAE, latents: Sequence[Tensor], steps: Tensor, step: float = 0.3) -> Tensor:
    """J^T J of the decoder, averaged over cells and up to a factor: how far changes of the channels, in units of `steps` [C], move pixels.

    By finite differences of `step` such units: every channel is changed with the same random signs in cells that are three apart, so that
    what one of them does to its neighbourhood meets little of the next.
    """
    metric, signs = torch.zeros(len(steps), len(steps)), torch.Generator().manual_seed(0)
    for z in latents:
        change = torch.randint(0, 2, (1, 1, *z.shape[2:]), generator=signs) * 2.0 - 1
        change[..., [i for i in range(z.shape[-1]) if i % METRIC_SPACING], :] = 0
        change[..., [i for i in range(z.shape[-1]) if i % METRIC_SPACING]] = 0
        plain, units = vae.decode(z), (step * steps).diag().view(len(steps), 1, -1, 1, 1, 1)
        moved = torch.stack([(vae.decode(z + unit * change) - plain).flatten() for unit in units])
        metric += moved @ moved.T / change.abs().sum()
    return metric


def _hadamard(size: int) -> Tensor:
    """An orthogonal matrix of entries of one magnitude; `size` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix) / 2**0.5
    return matrix


@dataclass(frozen=True)
class VAESettings:
    """Length, rates and size of the batches of a training of the VAE.

    Args:
        steps, minutes: length of the run, one of the two (run.py).
        start: file of an earlier VAE to go on from: the stills alone at the beginning are then left out.
        decoder_only: of `start`: latents stay what they are, so a transformer that was trained on them stays good.
        batch: times the clips of every kind in MIX.
        workers: processes that sample scenes, where a GPU renders them.
    """

    steps: int = 0
    minutes: float = 0.0
    start: str = ""
    decoder_only: bool = False
    muon_lr: float = 2.5e-3
    adam_lr: float = 2e-3
    batch: int = 1
    workers: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.decoder_only and not self.start:
            raise UserError("decoder-only: name the VAE whose decoder is to be trained with start")


def train_vae(folder: str, settings: VAESettings, group: Group = ALONE) -> VideoVAE:
    """Trains for the budget of `settings`, resuming from `folder` if it was started there; returns the averaged, folded VAE on the CPU."""
    run, device = Run(folder, settings.steps, settings.minutes, group=group), group.device
    if device == "cpu":
        os.environ.setdefault(*WITHOUT_TILES)
    torch.manual_seed(settings.seed)
    vae = VideoVAE(VAEConfig()).init_weights()
    if settings.start:
        vae.load_state_dict(load_vae(settings.start).state_dict())
        if settings.decoder_only:
            vae.encoder.requires_grad_(False)
            vae.conv1.requires_grad_(False)
        else:
            unfold_latents(vae)
    vae = vae.channels_last().to(device)
    optimizer = Optimizer(vae, muon_lr=settings.muon_lr, adam_lr=settings.adam_lr, decay=0.5)
    average = Average(vae, 0.998)
    first = run.resume(vae, optimizer, average)
    with workers(settings.workers) as others:
        if device == "cpu" and group.is_main:
            FramePool.on_disk(Path(folder) / "frames")
        group.broadcast(0.0)  # the others wait for the files
        pool = FramePool.on_disk(Path(folder) / "frames") if device == "cpu" else FramePool.on_device(device, others)
    torch.backends.cudnn.benchmark = True  # a dozen shapes come again and again
    for step, share in run.budget(first):
        rng = np.random.default_rng((settings.seed, step))  # what a step draws does not depend on restarts
        kind = choose_kind(max(share, LATEST_START) if settings.start else share, rng)
        rng = np.random.default_rng((settings.seed, step, group.rank)) if group.rank else rng
        torch.manual_seed(settings.seed * 1_000_003 + step * group.size + group.rank)
        x = pool.batch(replace(kind, count=kind.count * settings.batch), rng).to(device, memory_format=torch.channels_last_3d)
        with torch.autocast(device, torch.bfloat16):
            z, kl = (vae.encode(x, None), torch.zeros(())) if settings.decoder_only else sample_posterior(vae, x)
            y = vae.decoder(vae.conv2(z)).float()
        loss = reconstruction_loss(x, y) + KL_WEIGHT * kl
        (loss / group.size).backward()
        group.sum_gradients(optimizer.parameters)
        norm = optimizer.step(step, share)
        average.update(step)
        run.record(step + 1, 50, loss=loss, kl=kl, psnr=psnr(x, y.detach()), grad=norm)
        run.save(step + 1, vae, optimizer, average)
    run.finish(vae, optimizer, average)
    average.swap()
    vae = vae.to("cpu").eval()
    if not settings.decoder_only:
        rng = np.random.default_rng((settings.seed, run.step))
        fold_latents(vae, [pool.batch(FOLDING, rng).cpu() for _ in range(12)])
    return vae


def sample_posterior(vae: VideoVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents drawn from the posterior of frames, and its divergence from a normal distribution (Kingma & Welling, arXiv 1312.6114)."""
    mean, log_variance = (moment.float() for moment in vae.moments(x))
    log_variance = log_variance.clamp(-20, 10)
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    return z, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def choose_kind(share: float, rng: np.random.Generator) -> Batch:
    """A kind of batch that is open when `share` of the run is over."""
    kinds = [kind for kind in MIX if kind.start <= share < kind.end]
    weights = np.array([kind.weight for kind in kinds])
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())]
