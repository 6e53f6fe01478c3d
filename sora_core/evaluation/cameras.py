"""How a video is filmed: which of all movements of a camera explains best how its frames follow each other.

The observer knows the cameras of stage S2. Those of stories are read from pixels, and nothing is learned: where the ground and what stands
behind it are seen follows from where the camera is, so every movement says to which place of a frame a second later each pixel goes.
Pixels are fetched from there and compared with what is here, in regions of the picture, whatever is painted on them. Bodies that move are
wrong under every movement alike, and they cover few regions. Of 64 renders of stories, 16 for each movement, all are told, and of 24 that
went through the codec; of 64 pans and tilts at 0.4 to 2 times the speed that is expected 61; and in 24 renders a camera that stands is
never taken for one that does what was told.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import frames_for_seconds
from ..world import CAMERAS, STORY_CAMERAS, Camera, Scene, render, sample_story
from ..world.backdrop import WALL_Z
from ..world.camera import Pose, pose, project, tangents
from ..world.facts import SIDES
from .adherence import BARS, long_caption
from .bench import SIZES, Bench
from .metrics import LUMA
from .report import Row, share_row
from .tracking import small

FIRST_SEED = 9_700_000
STEP = 0.5  # seconds between the frames that are looked at
SPEEDS = (0.6, 1.0, 1.6)  # times the world's own: words say what a camera does, not how fast
PAIR = 2  # steps between the two that are compared: what is slow must be seen to move
SMOOTH = 9  # pixels of the small picture: what is coarser than that is no detail
NOISE = 1e-7  # variance of detail that tells nothing
REGIONS = 8  # along each side
FAR = 1e4  # units: the sky, and the ground at the horizon
GOES, ALWAYS = 0.4, 0.8  # units a second, and in how much of the time: slower or seldomer, and there is no following to be seen


def movements(camera: Camera) -> list[Camera]:
    """All that a camera could do from where it stands, each movement in either sense if it has two."""
    ways = [(kind, sense) for kind in (*CAMERAS, *STORY_CAMERAS) for sense in ((1, -1) if kind in SIDES else (camera.sense,))]
    return [replace(camera, kind=kind, sense=sense, then="") for kind, sense in ways]


def targets(view: Pose, place: str, width: int, height: int) -> Tensor:
    """[T, H W, 3]: the point of the ground, of a room's wall or of the sky that each pixel of a picture of this size shows where nobody
    stands before it."""
    wide, tall = tangents(width, height)
    across, down = (((torch.arange(n) + 0.5) * 2 / n - 1).double() for n in (width, height))
    ray = view.forward[:, None, None] + (across * wide)[:, None] * view.right[:, None, None]
    ray = ray - (down * tall)[:, None, None] * view.up[:, None, None]  # T H W 3
    eye = view.eye[:, None, None]
    away = torch.where(ray[..., 1] < -1e-3, -eye[..., 1] / ray[..., 1].clamp_max(-1e-3), FAR)
    if place == "room":
        away = torch.minimum(away, (WALL_Z - eye[..., 2]) / ray[..., 2].clamp_max(-1e-3))
    return (eye + away[..., None] * ray).flatten(1, 2)


def explained(detail: Tensor, view: Pose, place: str) -> float:
    """How well frames [T, 1, H, W], seen by a camera with these poses, follow each other: the mean over pairs of frames and regions of
    -log(1.005 - correlation), a scale that tells 0.99 from 0.97."""
    pairs, (height, width) = len(detail) - PAIR, detail.shape[2:]
    index = torch.arange(pairs)
    across, up, _ = project(view.rows(index + PAIR), targets(view.rows(index), place, width, height))
    wide, tall = tangents(width, height)
    at = torch.stack((across / wide, -up / tall), -1).unflatten(1, (height, width)).float()  # T H W 2
    inside = (at.abs() < 1).all(-1)[:, None].float()
    here, there = detail[:-PAIR], F.grid_sample(detail[PAIR:], at, padding_mode="border", align_corners=False)
    both, one, other, share = (
        F.adaptive_avg_pool2d(p * inside, REGIONS) for p in (here * there, here.square(), there.square(), torch.ones_like(here))
    )
    alike = -(1.005 - both / ((one + NOISE) * (other + NOISE)).sqrt()).log()
    return float((alike * share).sum() / share.sum())


def seen_camera(frames: Tensor, scene: Scene, fps: float) -> Camera:
    """The scene's camera with the movement that explains frames uint8 [T, H, W, 3] best, at whichever speed; the scene says where it
    stands and whom it follows."""
    step = round(STEP * fps)
    times = torch.arange(0, len(frames), step, dtype=torch.float64) / fps
    luma = (small(frames[::step]).float() @ torch.tensor(LUMA) / 255)[:, None]
    detail = luma - F.avg_pool2d(luma, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    found = {
        camera: max(explained(detail, pose(camera, times * speed, scene), scene.place) for speed in SPEEDS)
        for camera in movements(scene.camera)
    }
    return max(found, key=found.get)


def films_on(scene: Scene, seconds: float) -> bool:
    """Whether the camera does one thing in the first `seconds`, and goes on doing it: who is followed may stand still."""
    camera = scene.camera
    if camera.then or camera.kind != "follow":
        return not camera.then
    way = pose(camera, torch.arange(0, seconds, STEP / 4, dtype=torch.float64), scene).eye[:, 0]
    return bool((way.diff().abs() > GOES * STEP / 4).double().mean() > ALWAYS)


def filmed_stories(count: int, seconds: float, first_seed: int = FIRST_SEED) -> dict[str, list[Scene]]:
    """By movement: the first `count` stories by seed with a held-out combination that are filmed so."""
    found: dict[str, list[Scene]] = {kind: [] for kind in STORY_CAMERAS}
    for seed in itertools.count(first_seed):
        if min(map(len, found.values())) == count:
            return found
        scene = sample_story(seed, held_out=True)
        kind = scene.camera.kind
        if kind in found and len(found[kind]) < count and films_on(scene, seconds):
            found[kind].append(scene)


def camera_rows(bench: Bench) -> Iterator[Row]:
    """Movements of the camera that only stories have, told in long captions: whether what is made is filmed so, in the sense that was
    told if there are two. The reference is what is read of renders."""
    studio, seconds = bench.studio, bench.budget.seconds
    shape = studio.shape(*SIZES["1:1"], frames_for_seconds(seconds, studio.pipeline.header.native_fps))
    for kind, scenes in filmed_stories(bench.budget.filmed, seconds).items():
        made, true = [], []
        for scene in scenes:
            frames = studio.video(long_caption(scene, "en", shape.seconds), shape, scene.seed)
            renders = render(scene, [k / shape.fps for k in range(shape.frames)], *SIZES["1:1"])
            for clip, hits in ((frames, made), (renders, true)):
                hits.append(seen_camera(clip, scene, shape.fps) == scene.camera)
            bench.say(f"camera {kind} {len(made)}/{len(scenes)}")
        yield share_row(f"prompt adherence: camera {kind}", made, BARS["camera"], sum(true) / len(true))
