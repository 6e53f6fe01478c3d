"""Where the camera is at any second, and how points land in the picture.

The field of view is given to the shorter side of the picture: 16:9 shows more width, 9:16 more height, and what is in view of a
square is in view of both. An orbit is an arc of about 50 degrees that goes and returns, and so do a pan and a tilt on the spot; a zoom
or a rise slows down and never ends; a camera that follows keeps beside its object. A second movement begins where the first has come to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .motion import positions, there_and_back
from .scene import Camera, Scene

DISTANCE = 8.0
TARGET_HEIGHT = 0.85
HALF_VIEW = 0.37  # tangent of half the field of view along the shorter side
ORBIT_HALF_ARC = 0.45
ZOOM_FAR, ZOOM_NEAR = 1.5, 0.96  # times DISTANCE
ZOOM_SECONDS = 3.5
HALF_PAN, HALF_TILT = 0.13, 0.1  # radians
LOW, HIGH = -0.9, 2.1  # how far below and above its height a rise begins and ends


@dataclass
class Pose:
    """eye, right, up, forward: [T, 3]; the last three are unit vectors."""

    eye: torch.Tensor
    right: torch.Tensor
    up: torch.Tensor
    forward: torch.Tensor

    def to(self, *args) -> "Pose":
        return Pose(self.eye.to(*args), self.right.to(*args), self.up.to(*args), self.forward.to(*args))

    def rows(self, index: torch.Tensor) -> "Pose":
        return Pose(self.eye[index], self.right[index], self.up[index], self.forward[index])


@dataclass
class _Moved:
    """What a movement has added at each second, [T] each: to the azimuth, to the height, to the directions, along x; times the distance."""

    azimuth: torch.Tensor
    lift: torch.Tensor
    pan: torch.Tensor
    tilt: torch.Tensor
    shift: torch.Tensor
    distance: torch.Tensor


def _moved(kind: str, camera: Camera, times: torch.Tensor, scene: Scene | None) -> _Moved:
    flat = torch.zeros_like(times)
    made = _Moved(flat, flat, flat, flat, flat, flat + 1.0)
    if kind == "orbit":
        made.azimuth = camera.sense * ORBIT_HALF_ARC * there_and_back(times, camera.period)
    elif kind == "pan":
        made.pan = camera.sense * HALF_PAN * there_and_back(times, camera.period)
    elif kind == "tilt":
        made.tilt = camera.sense * HALF_TILT * there_and_back(times, camera.period)
    elif kind == "rise":
        made.lift = LOW + (HIGH - LOW) * torch.tanh(times / ZOOM_SECONDS)
    elif kind == "follow":
        if scene is None:
            raise ValueError("camera.kind='follow' needs the scene: pass it to pose(), so that the camera knows whom it follows.")
        made.shift = positions(scene, times)[:, camera.target, 0]
    elif kind in ("zoom in", "zoom out"):
        first, last = (ZOOM_FAR, ZOOM_NEAR) if kind == "zoom in" else (ZOOM_NEAR, ZOOM_FAR)
        made.distance = first + (last - first) * torch.tanh(times / ZOOM_SECONDS)
    return made


def _joined(camera: Camera, times: torch.Tensor, scene: Scene | None) -> _Moved:
    """Both movements: the first is held at `change_at`, and the second adds what it has done since then."""
    first = _moved(camera.kind, camera, times.clamp_max(camera.change_at) if camera.then else times, scene)
    if not camera.then:
        return first
    since = (times - camera.change_at).clamp_min(0.0)
    second, before = (_moved(camera.then, camera, t, scene) for t in (since, torch.zeros_like(since)))
    added = {
        name: getattr(first, name) + getattr(second, name) - getattr(before, name) for name in ("azimuth", "lift", "pan", "tilt", "shift")
    }
    return _Moved(**added, distance=first.distance * second.distance / before.distance)


def pose(camera: Camera, times: torch.Tensor, scene: Scene | None = None) -> Pose:
    """[T] seconds (float64) -> the camera's Pose at each; the scene is needed by a camera that follows."""
    moved = _joined(camera, times, scene)
    azimuth, distance = camera.azimuth + moved.azimuth, DISTANCE * moved.distance
    level = (camera.height - TARGET_HEIGHT) / DISTANCE
    flat = torch.zeros_like(times)
    eye = torch.stack(
        (
            moved.shift + distance * torch.sin(azimuth),
            TARGET_HEIGHT + level * distance + moved.lift,
            distance * torch.cos(azimuth),
        ),
        -1,
    )
    target = torch.stack((moved.shift, flat + TARGET_HEIGHT, flat), -1)
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.stack((torch.cos(azimuth), flat, -torch.sin(azimuth)), -1)
    if not (moved.pan.any() or moved.tilt.any()):
        return Pose(eye, right, torch.linalg.cross(right, forward), forward)
    cos, sin = moved.pan.cos(), moved.pan.sin()
    forward, right = (torch.stack((cos * v[:, 0] - sin * v[:, 2], v[:, 1], cos * v[:, 2] + sin * v[:, 0]), -1) for v in (forward, right))
    up = torch.linalg.cross(right, forward)
    cos, sin = moved.tilt.cos()[:, None], moved.tilt.sin()[:, None]
    return Pose(eye, right, cos * up - sin * forward, cos * forward + sin * up)


def tangents(width: int, height: int) -> tuple[float, float]:
    """Half-view tangents across and up for a picture of this size."""
    short = min(width, height)
    return HALF_VIEW * width / short, HALF_VIEW * height / short


def project(view: Pose, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[T, P, 3] -> (across, up, depth) [T, P]; across and up as tangents, up positive."""
    offset = points - view.eye[:, None]
    depth = (offset * view.forward[:, None]).sum(-1).clamp_min(0.05)
    return (offset * view.right[:, None]).sum(-1) / depth, (offset * view.up[:, None]).sum(-1) / depth, depth


def picture_paths(scene: Scene, times: Sequence[float], heights: dict[str, float] | None = None) -> torch.Tensor:
    """Where the middles of the bodies are seen at `times` seconds: [K, T, 2], across and down, -1..1 in the middle square of any picture.

    heights: shape -> what share of its height counts as the middle; a half where it says nothing.
    """
    when = torch.as_tensor(times, dtype=torch.float64)
    middles = positions(scene, when)
    shares = [(heights or {}).get(body.shape, 0.5) * body.height for body in scene.objects]
    middles[..., 1] += torch.tensor(shares, dtype=torch.float64)
    across, up, _ = project(pose(scene.camera, when, scene), middles)
    return (torch.stack((across, -up), -1) / HALF_VIEW).transpose(0, 1).float()


def cycle(camera: Camera, points: int) -> Pose:
    """The Pose at `points` moments that cover everything that one of CAMERAS ever shows."""
    if camera.kind == "static":
        return pose(camera, torch.zeros(1, dtype=torch.float64))
    last = 2 * camera.period if camera.kind == "orbit" else math.atanh(0.999) * ZOOM_SECONDS
    return pose(camera, torch.linspace(0.0, last, points, dtype=torch.float64))
