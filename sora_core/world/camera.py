"""Where the camera is at any second, and how points land in the picture.

The field of view is given to the shorter side of the picture: 16:9 shows more width, 9:16 more height, and what is in view of a
square is in view of both. An orbit is an arc of about 50 degrees that goes and returns; a zoom is a push that slows down and never ends.
"""

import math
from dataclasses import dataclass

import torch

from .motion import there_and_back
from .scene import Camera

DISTANCE = 8.0
TARGET_HEIGHT = 0.85
HALF_VIEW = 0.37  # tangent of half the field of view along the shorter side
ORBIT_HALF_ARC = 0.45
ZOOM_FAR, ZOOM_NEAR = 1.5, 0.96  # times DISTANCE
ZOOM_SECONDS = 3.5


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


def pose(camera: Camera, times: torch.Tensor) -> Pose:
    """[T] seconds (float64) -> the camera's Pose at each."""
    azimuth = torch.full_like(times, camera.azimuth)
    distance = torch.full_like(times, DISTANCE)
    if camera.kind == "orbit":
        azimuth = azimuth + camera.sense * ORBIT_HALF_ARC * there_and_back(times, camera.period)
    elif camera.kind in ("zoom in", "zoom out"):
        done = torch.tanh(times / ZOOM_SECONDS)
        first, last = (ZOOM_FAR, ZOOM_NEAR) if camera.kind == "zoom in" else (ZOOM_NEAR, ZOOM_FAR)
        distance = distance * (first + (last - first) * done)
    level = (camera.height - TARGET_HEIGHT) / DISTANCE
    flat = torch.zeros_like(times)
    eye = torch.stack((distance * torch.sin(azimuth), TARGET_HEIGHT + level * distance, distance * torch.cos(azimuth)), -1)
    target = torch.stack((flat, flat + TARGET_HEIGHT, flat), -1)
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.stack((torch.cos(azimuth), flat, -torch.sin(azimuth)), -1)
    return Pose(eye, right, torch.linalg.cross(right, forward), forward)


def tangents(width: int, height: int) -> tuple[float, float]:
    """Half-view tangents across and up for a picture of this size."""
    short = min(width, height)
    return HALF_VIEW * width / short, HALF_VIEW * height / short


def project(view: Pose, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[T, P, 3] -> (across, up, depth) [T, P]; across and up as tangents, up positive."""
    offset = points - view.eye[:, None]
    depth = (offset * view.forward[:, None]).sum(-1).clamp_min(0.05)
    return (offset * view.right[:, None]).sum(-1) / depth, (offset * view.up[:, None]).sum(-1) / depth, depth


def cycle(camera: Camera, points: int) -> Pose:
    """The Pose at `points` moments that cover everything the camera ever shows."""
    if camera.kind == "static":
        return pose(camera, torch.zeros(1, dtype=torch.float64))
    last = 2 * camera.period if camera.kind == "orbit" else math.atanh(0.999) * ZOOM_SECONDS
    return pose(camera, torch.linspace(0.0, last, points, dtype=torch.float64))
