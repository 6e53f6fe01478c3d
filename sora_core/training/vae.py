"""Trains the video VAE on rendered frames, then folds its latents to the statistics of the public Wan 2.1 VAE.

    python -m sora_core.training vae --folder runs/vae --steps 2400

Stills first, then clips: a still costs a ninth of a nine-frame clip and teaches most of what a frame needs. Clips longer than the
temporal receptive field (about 28 cells) are mixed in, because a causal VAE that never saw them loses its colours on long videos.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder import VideoVAE
from ..checkpoint import load_vae
from ..config import LATENT_MEAN, LATENT_STD, VAEConfig
from ..world import render, sample_scene
from .optim import Average, Optimizer
from .run import Run

KL_WEIGHT = 5e-4  # enough to keep the latents smooth for the transformer; 0.1 dB of reconstruction
EDGE_WEIGHT = 0.5  # of the difference between neighbouring pixels: sharp outlines, which L1 alone leaves soft
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
    Batch(17, 64, 2, 1.2, 0.15),
    Batch(33, 48, 2, 0.6, 0.2),
    Batch(129, 32, 1, 0.25, 0.3),
)
LATEST_START = max(kind.start for kind in MIX)


class FramePool:
    """Rendered clips kept as uint8 files, made at the first start and read by memory mapping afterwards.

    `normal` [n, 33, 128, 128, 3], `long` [m, 129, 64, 64, 3] and `stills` [k, 1, 128, 128, 3]. Seeds below `first_seed` are left to tests.
    """

    def __init__(self, folder: Path, clips: int = 240, long: int = 16, stills: int = 2400, first_seed: int = 1_000_000):
        folder.mkdir(parents=True, exist_ok=True)
        self.stills = self._load(folder / "stills.npy", stills, 1, 128, first_seed)
        self.normal = self._load(folder / "normal.npy", clips, 33, 128, first_seed + 100_000)
        self.long = self._load(folder / "long.npy", long, 129, 64, first_seed + 200_000)

    @staticmethod
    def _load(path: Path, count: int, frames: int, size: int, seed: int) -> np.ndarray:
        if not path.exists():
            part = path.with_suffix(".part.npy")
            data = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, frames, size, size, 3))
            started = time.monotonic()
            for i in range(count):
                fps = (8.0, 8.0, 4.0, 16.0)[i % 4]
                data[i] = render(sample_scene(seed + i), [k / fps for k in range(frames)], size, size).numpy()
            data.flush()
            part.replace(path)
            print(f"{path.name}: {count * frames / (time.monotonic() - started):.0f} frames rendered a second", flush=True)
        return np.load(path, mmap_mode="r")

    def batch(self, kind: Batch, rng: np.random.Generator) -> Tensor:
        """[count, 3, frames, size, size] in -1..1, at random places, mostly where there is something, and half the time mirrored."""
        source = self.stills if kind.frames == 1 else self.normal if kind.frames <= self.normal.shape[1] else self.long
        clips = []
        for _ in range(kind.count):
            tries = DETAIL_TRIES if rng.random() < DETAIL_SHARE else 1
            clip = max((self._crop(source, kind, rng) for _ in range(tries)), key=_detail) if tries > 1 else self._crop(source, kind, rng)
            clips.append(clip[:, :, ::-1] if rng.random() < 0.5 else clip)
        return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    @staticmethod
    def _crop(source: np.ndarray, kind: Batch, rng: np.random.Generator) -> np.ndarray:
        n, t, h, w, _ = source.shape
        i, start = rng.integers(n), rng.integers(t - kind.frames + 1)
        y, x = rng.integers(h - kind.size + 1), rng.integers(w - kind.size + 1)
        return source[i, start : start + kind.frames, y : y + kind.size, x : x + kind.size]


def _detail(clip: np.ndarray) -> float:
    """Mean square difference of neighbouring pixels in the last frame of uint8 [T, H, W, 3]."""
    frame = clip[-1].astype(np.float32)
    return float(np.square(np.diff(frame, axis=0)).mean() + np.square(np.diff(frame, axis=1)).mean())


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of pixels, and of their differences to the right, below and next in time."""
    loss = (x - y).abs().mean()
    error = x - y
    for axis in (2, 3, 4):
        if x.shape[axis] > 1:
            loss = loss + EDGE_WEIGHT / 3 * error.diff(dim=axis).abs().mean()
    return loss


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of frames in -1..1."""
    return float(-10 * torch.log10((x.clamp(-1, 1) - y.clamp(-1, 1)).square().mean() / 4))


@torch.no_grad()
def unfold_statistics(vae: VideoVAE) -> None:
    """The inverse of `fold_statistics` up to the deviation before it: latents of about mean 0 and deviation 1, as training wants them."""
    std, mean, channels = torch.tensor(LATENT_STD), torch.tensor(LATENT_MEAN), len(LATENT_STD)
    vae.conv2.bias.add_(vae.conv2.weight.flatten(1) @ mean)
    vae.conv2.weight.mul_(std.view(1, -1, 1, 1, 1))
    vae.conv1.bias[:channels].sub_(mean).div_(std)
    vae.conv1.weight[:channels].div_(std.view(-1, 1, 1, 1, 1))


@torch.no_grad()
def fold_statistics(vae: VideoVAE, clips: list[Tensor]) -> None:
    """Rescales `conv1` and `conv2` so that raw latents get the published mean and deviation; reconstructions stay the same."""
    z = torch.cat([vae.encode(x).movedim(1, 0).flatten(1) for x in clips], 1)
    scale = torch.tensor(LATENT_STD) / z.std(1)
    shift = torch.tensor(LATENT_MEAN) - z.mean(1) * scale
    vae.conv2.bias.add_(vae.conv2.weight.flatten(1) @ (-shift / scale))
    vae.conv2.weight.div_(scale.view(1, -1, 1, 1, 1))
    channels = len(scale)
    vae.conv1.weight[:channels].mul_(scale.view(-1, 1, 1, 1, 1))
    vae.conv1.bias[:channels].mul_(scale).add_(shift)


def train_vae(folder: str, steps: int, seed: int = 0, start: str = "", muon_lr: float = 2.5e-3, adam_lr: float = 2e-3) -> VideoVAE:
    """Trains for `steps`, resuming from `folder` if it was started there; returns the averaged, folded VAE on the CPU.

    `start` is the file of an earlier VAE to go on from: the stills alone at the beginning are then left out.
    """
    run, pool = Run(folder, steps), FramePool(Path(folder) / "frames")
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = VideoVAE(VAEConfig()).init_weights()
    if start:
        vae.load_state_dict(load_vae(start).state_dict())
        unfold_statistics(vae)
    vae = vae.channels_last().to(device)
    optimizer = Optimizer(vae, muon_lr=muon_lr, adam_lr=adam_lr, steps=steps, decay=0.5)
    average = Average(vae, 0.998)
    first = run.resume(vae, optimizer, average)
    for step in range(first, steps):
        rng = np.random.default_rng((seed, step))  # the batch of a step does not depend on restarts
        torch.manual_seed(seed * 1_000_003 + step)
        done = max(step / steps, LATEST_START) if start else step / steps
        open_kinds = [kind for kind in MIX if kind.start <= done < kind.end]
        weights = np.array([kind.weight for kind in open_kinds])
        kind = open_kinds[rng.choice(len(open_kinds), p=weights / weights.sum())]
        x = pool.batch(kind, rng).to(device, memory_format=torch.channels_last_3d)
        with torch.autocast(device, torch.bfloat16):
            mean, log_variance = vae.moments(x)
            mean, log_variance = mean.float(), log_variance.float().clamp(-20, 10)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            y = vae.decoder(vae.conv2(z)).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = reconstruction_loss(x, y) + KL_WEIGHT * kl
        loss.backward()
        norm = optimizer.step(step)
        average.update(step)
        run.record(step + 1, 50, loss=loss.item(), kl=kl.item(), psnr=psnr(x, y.detach()), grad=norm)
        run.save(step + 1, vae, optimizer, average)
    average.swap()
    vae = vae.to("cpu").eval()
    rng = np.random.default_rng((seed, steps))
    fold_statistics(vae, [F.interpolate(pool.batch(Batch(17, 128, 1, 1.0), rng), scale_factor=1) for _ in range(12)])
    return vae
