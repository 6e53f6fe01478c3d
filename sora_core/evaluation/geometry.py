"""Whether what is filmed by a camera on an arc is one solid world: where bodies that rest are seen, against where a camera sees them.

The first second of a render is given, so place and path of the camera are known, and the rest is foreseen. The middle of each body,
found by its colour, is compared with its projection: under the scene's own camera, which also asks for the right speed, and in each
frame under whichever camera on the arc suits best, which only asks that all bodies move together as solid ones do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ..shapes import frames_for_seconds
from ..world import Scene, render, sample_scene
from ..world.camera import picture_paths
from .adherence import long_caption, told_apart
from .bench import SIZES, Bench
from .report import Row, mean_row
from .tracking import tracks

FIRST_SEED = 9_200_000
SECONDS = 5.0
GIVEN_CELLS = 3  # a second
LOST = 0.25  # of the picture's side: the largest error, and that of a body that is not seen
VIEWS = 200  # along the whole arc, there and back
MIDDLES = {"cone": 1 / 3}  # of what is seen of a body, as a share of its height


def orbit_scenes(count: int, first_seed: int = FIRST_SEED) -> Iterator[Scene]:
    """The first `count` scenes by seed with a held-out combination, bodies of different colours that rest, and a camera on an arc."""
    drawn = (sample_scene(seed, motions=("still",), cameras=("orbit",), held_out=True) for seed in itertools.count(first_seed))
    return itertools.islice((scene for scene in drawn if len(scene.objects) > 1 and told_apart(scene)), count)


def reprojection_errors(frames: Tensor, scene: Scene, times: list[float]) -> tuple[float, float]:
    """(under the scene's camera, under the one on the arc that suits each frame best): mean distance of the bodies' middles from their
    projections, as shares of the picture's side; frames uint8 [T, H, W, 3] at `times` seconds."""
    found = tracks(frames, scene)
    seen = torch.stack([torch.stack((track.x, track.y), -1) for track in found])  # K T 2
    lost = torch.stack([track.area == 0 for track in found])

    def apart(there: Tensor) -> Tensor:
        return (0.5 * (seen[:, :, None] - there).norm(dim=-1)).clamp_max(LOST).masked_fill(lost[:, :, None], LOST).mean(0)  # T n

    known = apart(picture_paths(scene, times, MIDDLES)[:, :, None])
    arc = torch.linspace(0, 2 * scene.camera.period, VIEWS)
    best = apart(picture_paths(scene, arc, MIDDLES)[:, None]).amin(1)
    return float(known.mean()), float(best.mean())


def geometry_rows(bench: Bench) -> Iterator[Row]:
    """Orbits that are foreseen from their first second; the reference is renders, that is how well a middle is found."""
    studio, fps = bench.studio, bench.studio.pipeline.header.native_fps
    shape = studio.shape(*SIZES["1:1"], frames_for_seconds(SECONDS, fps))
    times = [k / fps for k in range(shape.frames)]
    new = shape.strides.frames(GIVEN_CELLS)
    made, true = [], []
    for i, scene in enumerate(orbit_scenes(bench.budget.orbits)):
        renders = render(scene, times, *SIZES["1:1"])
        known = studio.encode(renders[:new])
        frames = studio.video(long_caption(scene, "en", SECONDS), shape, scene.seed, known)
        for clip, errors in ((frames, made), (renders, true)):
            errors.append(reprojection_errors(clip[new:], scene, times[new:]))
        bench.say(f"orbit {i + 1}/{bench.budget.orbits}")
    for name, errors, floor in zip(("the scene's camera", "the best camera on its arc"), zip(*made), zip(*true)):
        yield mean_row(f"3-D: reprojection error, {name}", errors, None, sum(floor) / len(floor))
