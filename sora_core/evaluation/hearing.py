"""Whether words are heard: how much of a change in the words is seen at once, without sampling.

Two scenes differ in one fact, and their captions in its words. From noisy latents of the first the model foresees clean ones, told by
either caption; `heard` is the share of the scenes' true difference that lies in the difference of the two. 0 is deaf. Noise hides where a
body is, and the rest of the picture tells much of what the words say, so 1 is out of reach: facts and models are to be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..flow import mix
from ..pipeline import Pipeline
from ..world import PLACES, TIMES_OF_DAY, Scene, caption, render, sample_scene
from .bench import SIZES as PICTURES
from .bench import Bench
from .report import Row, mean_row
from .surprise import broken

FACTS = {"colour": 1, "shape": 1, "size": 1, "place": 1, "time of day": 1, "motion": 17, "camera": 17}
"""What is changed, and how many frames it takes to see it."""

SECONDS = 2.0  # that captions tell of
FIRST_SEED = 8_500_000
LEVELS = (0.8, 0.9, 0.95)  # below, the picture tells it; above, nobody can


def changed(scene: Scene, what: str) -> Scene:
    """The scene with another colour, shape or size of its first body, elsewhere or at another time; or with a body or a camera that
    stands still, which says nothing where it did."""
    body = scene.objects[0]
    if what in ("colour", "shape"):
        return broken(scene, what)
    if what == "size":
        other = replace(body, size="small" if body.size == "large" else "large")
        return replace(scene, objects=(other, *scene.objects[1:]))
    if what == "motion":
        return replace(scene, objects=(replace(body, motion="still"), *scene.objects[1:]))
    if what == "camera":
        return replace(scene, camera=replace(scene.camera, kind="static"))
    field, words = {"place": ("place", PLACES), "time of day": ("time_of_day", TIMES_OF_DAY)}[what]
    return replace(scene, **{field: words[(words.index(getattr(scene, field)) + 1) % len(words)]})


def pairs(what: str) -> Iterator[tuple[Scene, Scene]]:
    """Scenes of one body with the same scenes changed, by seed."""
    scenes = (sample_scene(seed, max_objects=1) for seed in itertools.count(FIRST_SEED))
    return ((scene, other) for scene in scenes if (other := changed(scene, what)) != scene)


@torch.inference_mode()
def heard(pipeline: Pipeline, words: tuple[str, str], latents: tuple[Tensor, Tensor], fps: float, noise: Tensor) -> float:
    """Share of the difference of two clips' normalised latents [1, C, F, h, w] that the model foresees from noisy ones of the first
    when it is told the words of the second, mean over LEVELS."""
    transformer, device, dtype = pipeline.transformer, pipeline.text.device, pipeline.vae.conv2.weight.dtype
    texts = [transformer.prepare_text(pipeline.text.encode([told]).to(dtype)) for told in words]
    positions = torch.arange(noise.shape[2], device=device) * (pipeline.header.native_fps / fps)
    difference, shares = latents[1] - latents[0], []
    for sigma in LEVELS:
        noisy, level = mix(latents[0], noise, sigma).to(device), torch.full((1,), 1000 * sigma, device=device)
        first, second = (transformer(noisy, level, text=text, positions=positions).float().cpu() for text in texts)
        shares.append((sigma * (first - second) * difference).sum() / difference.square().sum())
    return float(torch.stack(shares).mean())


def hearing_rows(bench: Bench) -> Iterator[Row]:
    studio, fps = bench.studio, 8.0
    for what, frames in FACTS.items():
        shares = []
        for scene, other in itertools.islice(pairs(what), bench.budget.heard):
            words = tuple(caption(s, "long", "en", scene.seed, seconds=SECONDS) for s in (scene, other))
            latents = tuple(studio.encode(render(s, [k / fps for k in range(frames)], *PICTURES["1:1"])) for s in (scene, other))
            noise = torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(scene.seed))
            shares.append(heard(studio.pipeline, words, latents, fps, noise))
        yield mean_row(f"hears a change of {what}", shares)
    bench.say("hearing")
