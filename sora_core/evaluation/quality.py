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
LATER = 16  # frames: 2 seconds
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
    """Pictures that are given at the beginning of a video, or at second 2 of 5: do they come back, is there a jump beside them, and do the
    frames before lead there?"""
    first, later = _with_a_picture(bench, 0, 17, 5_500_000), _with_a_picture(bench, LATER, 41, 5_600_000)
    yield _kept_row("kept frames, largest difference", first, 0)
    yield _seam_row("seam behind a given picture", first, 1, "<= 1.1")
    yield _kept_row("kept frames, largest difference, second 2 of 5", later, LATER)
    yield _seam_row("seam before a picture at second 2 of 5", later, LATER)
    ways, true_ways = ([leads_to(frames, LATER) for frames in clips] for clips in zip(*later))
    yield mean_row("frames before it lead to it", ways, None, mean(true_ways))


def _with_a_picture(bench: Bench, at: int, frames: int, first_seed: int) -> list[tuple[Tensor, Tensor]]:
    """(frames made, renders) of videos with a picture at frame `at`."""
    studio, fps, made = bench.studio, 8.0, []
    canvas = verbs.place(blank(studio.shape(*SIZES["1:1"], frames, fps)), at, 0)
    for scene in scored_scenes(bench.budget.pictures, first_seed):
        renders = render(scene, [k / fps for k in range(frames)], *SIZES["1:1"])
        picture, words = renders[at : at + 1].float() / 255, long_caption(scene, "en", (frames - 1) / fps)
        latents = studio.pipeline.complete(canvas, [picture], words, seed=scene.seed, steps=studio.steps, guidance=studio.guidance)
        chunks = result_frames(canvas, lambda: iter([studio.pipeline.decode(latents)]), lambda *_: iter([picture]))  # noqa: B023
        made.append((torch.cat(list(chunks)).mul(255).round().byte(), renders))
        bench.say(f"picture at frame {at} {len(made)}/{bench.budget.pictures}")
    return made


def _kept_row(name: str, videos: list[tuple[Tensor, Tensor]], at: int) -> Row:
    apart = max(float((made[at].int() - renders[at].int()).abs().max()) for made, renders in videos)
    return Row(name, apart, apart, apart, len(videos), "<= 0", 0)


def _seam_row(name: str, videos: list[tuple[Tensor, Tensor]], border: int, bar: str | None = None) -> Row:
    jumps, true_jumps = ([seam_jump(frames, [border]) for frames in clips] for clips in zip(*videos))
    return mean_row(name, jumps, bar, geometric_mean(np.array(true_jumps)), geometric_mean)


def leads_to(frames: Tensor, at: int) -> float:
    """Rank correlation (Spearman's) of the frames before frame `at` of how late and how like to it they are: 1 if each is more like it than
    the one before, 0 if they know nothing of it, or if nothing moves."""
    apart = (frames[:at].float() - frames[at].float()).abs().mean((1, 2, 3)).numpy()
    ordered = np.sort(apart)
    ranks = np.searchsorted(ordered, apart) + np.searchsorted(ordered, apart, "right")  # twice the mean rank of equal ones
    return -float(np.corrcoef(np.arange(at), ranks)[0, 1]) if np.ptp(ranks) else 0.0


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
pipeline, started = Pipeline.load(**json.loads(sys.argv[2])), time.monotonic()
pipeline.video("a red ball", float(sys.argv[3]), steps=int(sys.argv[4]), guidance=float(sys.argv[5]))
print(json.dumps([time.monotonic() - started, peak_memory() / 2**20]))
"""


def cost_rows(bench: Bench) -> Iterator[Row]:
    """Seconds and peak memory of a process that makes one video of 128 x 128, for every second of it."""
    first = None
    for seconds in bench.budget.cost_seconds:
        settings = map(str, (seconds, bench.studio.steps, bench.studio.guidance))
        command = [sys.executable, "-c", COST, str(Path(__file__).parents[2]), json.dumps(bench.source), *settings]
        took, memory = json.loads(subprocess.check_output(command))
        yield Row(f"cost: seconds a second of video, {seconds:g} s", took / seconds, None, None, 1, None, first and first[0])
        yield Row(f"cost: peak memory in MiB, {seconds:g} s", memory, None, None, 1, None, first and first[1])
        first = first or (took / seconds, memory)
        bench.say(f"cost {seconds:g} s")
