"""Measures this machine before sizes are fixed: `python -m sora_core.training probe`.

Prints frames a second of rendering, encoding and decoding at 128x128, and seconds of one training step of VAE and transformer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ..autoencoder import VideoVAE
from ..config import TextConfig, preset
from ..shapes import VideoShape
from ..speed import transformer_flops
from ..world import caption, render, sample_scene
from .group import ALONE
from .objective import TrainingBatch
from .transformer import Student, velocity_loss
from .vae import reconstruction_loss


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of `work`, until the device has done it, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        ALONE.wait()
        start = time.perf_counter()
        work()
        ALONE.wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def probe(size: str) -> dict[str, float]:
    """Runs and prints all measurements; `size` is a name of config.PRESETS."""
    device = ALONE.device
    frames = 17
    scene, times = sample_scene(0), [k / 8 for k in range(frames)]
    vae = VideoVAE().channels_last().to(device, torch.bfloat16)
    clip = torch.rand(1, 3, frames, 128, 128, device=device, dtype=torch.bfloat16) * 2 - 1
    with torch.inference_mode():
        z = vae.encode(clip)
        rates = {
            "render, frames/s": frames / seconds_of(lambda: render(scene, times, 128, 128, device)),
            "encode, frames/s": frames / seconds_of(lambda: vae.encode(clip)),
            "decode, frames/s": frames / seconds_of(lambda: vae.decode(z)),
        }
    trained = VideoVAE().channels_last().to(device)
    crop = torch.rand(4, 3, 9, 64, 64, device=device).contiguous(memory_format=torch.channels_last_3d) * 2 - 1

    def vae_step():
        with torch.autocast(device, torch.bfloat16):
            mean, _ = trained.moments(crop)
            y = trained.decoder(trained.conv2(mean))
        reconstruction_loss(crop, y.float()).backward()

    rates["VAE train step, 4 x 9 frames of 64x64, s"] = seconds_of(vae_step)
    shape, batch = VideoShape(128, 128, 5), 8
    student = Student(preset(size), TextConfig()).to(device)
    ones = torch.ones(batch, shape.cells)
    made = TrainingBatch(
        torch.randn(batch, *shape.latent), torch.arange(5.0), ones, ones * 0.5, list(range(batch)), list(range(shape.cells))
    )
    words = [[caption(sample_scene(i), "long", "en", i) for i in range(batch)]]
    step = seconds_of(lambda: velocity_loss(student, made, words, 0).backward())
    rates[f"{size} train step, {batch} x {shape.tokens} tokens, s"] = step
    rates[f"{size} train step, TFLOP/s"] = 3 * batch * transformer_flops(preset(size), shape) / step / 1e12
    for name, value in rates.items():
        print(f"{name:45s} {value:10.3f}", flush=True)
    return rates
