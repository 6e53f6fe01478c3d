"""What a video keeps: the VAE's own loss, pictures that were given, how much fades in ten seconds; and what making it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import verbs
from ..canvas import blank, result_frames
from ..shapes import frames_for_seconds
from ..world import Scene, render, sample_scene
from .adherence import long_caption, scored_scenes
from .bench import SIZES, Bench
from .intervals import geometric_mean, mean
from .metrics import DRIFTS, psnr, relative_drift, seam_jump
from .report import Row, mean_row
from .studio import Studio

MINUTE = 481  # frames, 8 a second: whole cells
CYCLE = 59  # seconds after which a recurring scene is as it was: second 60 shows what second 1 did
SETTLED = 5  # seconds after which the shipped codec no longer knows that a clip has begun


def reconstruction_rows(bench: Bench) -> Iterator[Row]:
    """The VAE alone, on renders that no training had."""
    lost = []
    for seed in range(bench.budget.reconstructions):
        frames = render(sample_scene(7_000_000 + seed, held_out=True), [k / 8 for k in range(17)], *SIZES["1:1"])
        lost.append(psnr(frames, bench.studio.decode(bench.studio.encode(frames))))
    yield mean_row("VAE reconstruction, dB", lost, ">= 32")
    yield from length_rows(bench)


def recurring(scene: Scene) -> Scene:
    """The scene with periods so near to its own that all of it is again as it was after CYCLE seconds, there and back; no zooms."""

    def near(period: float) -> float:
        return CYCLE / (2 * round(CYCLE / (2 * period)))

    objects = tuple(replace(body, period=near(body.period)) for body in scene.objects)
    return replace(scene, objects=objects, camera=replace(scene.camera, period=near(scene.camera.period)))


def length_losses(studio: Studio, frames: Tensor) -> tuple[float, float]:
    """What a codec loses over MINUTE frames of a recurring scene, 8 a second, in dB, negative where it is worse at the end.

    Returns:
        Second 60 over second 1, which shows the same pictures. Then second 60 over the same second of a clip of its own, which begins
        SETTLED seconds before it. A codec that is good while it begins loses in the first number alone; one that loses more the longer a
        video is, in both.
    """
    again, before = studio.decode(studio.encode(frames)), -1 - 8 * (1 + SETTLED)
    short = studio.decode(studio.encode(frames[before:]))
    last = slice(-9, -1)  # the very last frame begins another second
    at_end = psnr(frames[last], again[last])
    return at_end - psnr(frames[:8], again[:8]), at_end - psnr(frames[last], short[last])


def length_rows(bench: Bench) -> Iterator[Row]:
    """Whether the VAE gets worse with the length of a video: pictures that a minute shows in its first second and in its last."""
    side, changes = bench.budget.minute_side, []
    for seed in range(bench.budget.minutes):
        scene = recurring(sample_scene(7_100_000 + seed, cameras=("static", "orbit"), held_out=True))
        changes.append(length_losses(bench.studio, render(scene, [k / 8 for k in range(MINUTE)], side, side)))
        bench.say(f"minute {seed + 1}/{bench.budget.minutes}")
    from_start, from_clip = zip(*changes)
    yield mean_row("VAE, second 60 - second 1 of the same pictures, dB", from_start, "within 0.5", 0)
    yield mean_row(f"VAE, second 60 of a minute - of a clip of {1 + SETTLED} s, dB", from_clip, "within 0.5", 0)


def picture_rows(bench: Bench) -> Iterator[Row]:
    """Pictures that are animated: does the given frame come back, and is there a jump behind it."""
    size = SIZES["1:1"]
    apart, jumps, true_jumps = [], [], []
    for scene in scored_scenes(bench.budget.pictures, 5_500_000):
        renders = render(scene, [k / 8 for k in range(17)], *size)
        made = bench.studio.pipeline.video(long_caption(scene, "en", 2.0), 2.0, *size, picture=renders[0], seed=scene.seed, fps=8.0,
                                           steps=bench.studio.steps, guidance=bench.studio.guidance)  # fmt: skip
        apart.append(float((made[0].int() - renders[0].int()).abs().max()))
        jumps.append(seam_jump(made, [1]))
        true_jumps.append(seam_jump(renders, [1]))
        bench.say(f"picture {len(apart)}/{bench.budget.pictures}")
    yield Row("kept frames, largest difference", max(apart), max(apart), max(apart), len(apart), "<= 0", 0)
    yield mean_row("seam behind a given picture", jumps, "<= 1.1", geometric_mean(np.array(true_jumps)), geometric_mean)
    yield from later_picture_rows(bench)


def later_picture_rows(bench: Bench) -> Iterator[Row]:
    """A picture at second 2 of 5: is there a jump onto it, and do the frames before lead to it?"""
    studio, size, at = bench.studio, SIZES["1:1"], 16
    canvas = verbs.place(blank(studio.shape(*size, 41, 8.0)), at, 0)
    jumps, ways, true_jumps, true_ways = [], [], [], []
    for scene in scored_scenes(bench.budget.pictures, 5_600_000):
        renders = render(scene, [k / 8 for k in range(41)], *size)
        picture, words = renders[at : at + 1].float() / 255, long_caption(scene, "en", 5.0)
        latents = studio.pipeline.complete(canvas, [picture], words, seed=scene.seed, steps=studio.steps, guidance=studio.guidance)
        result = result_frames(canvas, lambda: iter([studio.pipeline.decode(latents)]), lambda *_: iter([picture]))  # noqa: B023
        made = torch.cat(list(result)).mul(255).round().byte()
        jumps.append(seam_jump(made, [at]))
        ways.append(leads_to(made, at))
        true_jumps.append(seam_jump(renders, [at]))
        true_ways.append(leads_to(renders, at))
        bench.say(f"later picture {len(ways)}/{bench.budget.pictures}")
    yield mean_row("seam before a picture at second 2 of 5", jumps, None, geometric_mean(np.array(true_jumps)), geometric_mean)
    yield mean_row("frames before it lead to it", ways, None, mean(true_ways))


def leads_to(frames: Tensor, at: int) -> float:
    """Rank correlation (Spearman's) of the frames before frame `at` of how late and how like to it they are: 1 if each is more like it than
    the one before, 0 if they know nothing of it."""
    apart = (frames[:at].float() - frames[at].float()).abs().mean((1, 2, 3))
    return -float(np.corrcoef(np.arange(at), apart.argsort().argsort().numpy())[0, 1])


def drift_rows(bench: Bench) -> Iterator[Row]:
    """Last 5 s over first 5 s of videos of 10 s in one pass, over the same of renders of their scenes."""
    ratios: dict[str, list[float]] = {name: [] for name in DRIFTS}
    fps = bench.studio.pipeline.header.native_fps
    shape = bench.studio.shape(*SIZES["1:1"], frames_for_seconds(10.0, fps))
    for scene in scored_scenes(bench.budget.long, 5_700_000):
        made = bench.studio.video(long_caption(scene, "en", 5.0), shape, scene.seed)
        renders = render(scene, [k / fps for k in range(shape.frames)], *SIZES["1:1"])
        for name, value in relative_drift(made, renders, fps).items():
            ratios[name].append(value)
        bench.say(f"long {len(ratios[name])}/{bench.budget.long}")
    for name, values in ratios.items():
        if values:
            yield mean_row(f"drift of {name}, 10 s", values, None, 1, geometric_mean)


COST = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from sora_core.pipeline import Pipeline
from sora_core.speed import peak_memory
pipeline, started = Pipeline.load(sys.argv[2]), time.monotonic()
pipeline.video("a red ball", float(sys.argv[3]), steps=int(sys.argv[4]), guidance=float(sys.argv[5]))
print(json.dumps([time.monotonic() - started, peak_memory() / 2**20]))
"""


def cost_rows(bench: Bench) -> Iterator[Row]:
    """Seconds and peak memory of a process that makes one video of 128 x 128, for every second of it."""
    first = None
    for seconds in bench.budget.cost_seconds:
        settings = map(str, (seconds, bench.studio.steps, bench.studio.guidance))
        command = [sys.executable, "-c", COST, str(Path(__file__).parents[2]), bench.model_path, *settings]
        took, memory = json.loads(subprocess.check_output(command))
        yield Row(f"cost: seconds a second of video, {seconds:g} s", took / seconds, None, None, 1, None, first and first[0])
        yield Row(f"cost: peak memory in MiB, {seconds:g} s", memory, None, None, 1, None, first and first[1])
        first = first or (took / seconds, memory)
        bench.say(f"cost {seconds:g} s")
