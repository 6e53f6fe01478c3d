"""Clips that cannot be: the same frames as clips that can, in an order that breaks the world, and whether the model is surprised.

Impossible clips follow IntPhys (Riochet et al., arXiv 1803.07616): two possible clips A and B differ in one fact, and their second halves
are exchanged. The four clips are made of the same frames, so only what happens between them tells the possible ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..flow import flow_loss, mix
from ..pipeline import Pipeline
from ..shapes import Strides
from ..world import COLOURS, SHAPES, Scene, render, sample_scene
from ..world.scene import away
from .bench import SIZES, Bench
from .report import Row, share_row

BREAKS = ("colour", "shape", "existence", "place")
ELSEWHERE = 1.5  # units to the side
FIRST_SEED = 8_000_000
SURPRISE_LEVELS = (0.2, 0.4, 0.6, 0.8)


def broken(scene: Scene, what: str) -> Scene:
    """The scene with one fact of its first body changed; an unknown `what` raises ValueError."""
    body = scene.objects[0]
    if what == "colour":
        taken = {other.colour for other in scene.objects}
        other = replace(body, colour=next(c for c in COLOURS[scene.seed % 8 :] + COLOURS if c not in taken))
    elif what == "shape":
        other = replace(body, shape=SHAPES[(SHAPES.index(body.shape) + 1) % len(SHAPES)])
    elif what == "existence":
        other = away(body)
    elif what == "place":
        other = replace(body, x=body.x + (ELSEWHERE if body.x < 0 else -ELSEWHERE))
    else:
        raise ValueError(f"what={what!r}: use one of {', '.join(BREAKS)}")
    return replace(scene, objects=(other, *scene.objects[1:]))


def quadruple(scene: Scene, what: str, frames: int, fps: float, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """(two possible clips, two impossible ones), each uint8 [frames, size, size, 3]; the exchange is at a cell's border."""
    times = [k / fps for k in range(frames)]
    a, b = (render(s, times, size, size) for s in (scene, broken(scene, what)))
    half = Strides().frames(1 + Strides().cells(frames) // 2)
    return [a, b], [torch.cat([a[:half], b[half:]]), torch.cat([b[:half], a[half:]])]


@torch.inference_mode()
def surprise(pipeline: Pipeline, latents: Tensor, fps: float, noise: Tensor) -> float:
    """Denoising loss of a clip's normalised latents [1, C, F, h, w] without words, mean over SURPRISE_LEVELS."""
    transformer, device = pipeline.transformer, pipeline.text.device
    positions = torch.arange(latents.shape[2], device=device) * (pipeline.header.native_fps / fps)
    text = transformer.prepare_text(pipeline.text.encode([""]).to(pipeline.vae.conv2.weight.dtype))
    losses = []
    for sigma in SURPRISE_LEVELS:
        noisy, level = mix(latents, noise, sigma).to(device), torch.full((1,), 1000 * sigma, device=device)
        losses.append(flow_loss(transformer(noisy, level, text=text, positions=positions).cpu(), latents, noise))
    return float(torch.stack(losses).mean())


def change(clip: Tensor) -> float:
    """The largest mean square step between frames of a clip uint8 [T, H, W, 3]."""
    return float(clip.float().diff(dim=0).square().mean((1, 2, 3)).max())


def surprise_rows(bench: Bench) -> Iterator[Row]:
    """Two possible clips against two impossible ones of the same frames: how often the possible ones surprise less. Chance is 0.5; the
    reference is how often their largest step is smaller, as what changes here changes in full view, which no knowledge is needed to see."""
    studio, everything, every_step = bench.studio, [], []
    for k, what in enumerate(BREAKS):
        hits, steps = [], []
        for seed in range(bench.budget.surprise):
            scene = sample_scene(FIRST_SEED + seed, max_objects=1, cameras=("static",), held_out=True)
            noise, losses, largest = None, [], []
            for clips in quadruple(scene, what, 17, 8.0, SIZES["1:1"][0]):
                latents = [studio.encode(clip) for clip in clips]
                noise = torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(k * 1000 + seed)) if noise is None else noise
                losses.append([surprise(studio.pipeline, z, 8.0, noise) for z in latents])
                largest.append(sum(map(change, clips)))
            hits.append(sum(losses[0]) < sum(losses[1]))
            steps.append(largest[0] < largest[1])
        everything += hits
        every_step += steps
        yield share_row(f"surprise pairs: {what}", hits, None, sum(steps) / len(steps))
        bench.say(f"surprise: {what}")
    yield share_row("surprise pairs: all", everything, None, sum(every_step) / len(every_step))
