"""What can be seen of every body: the boxes of bodies and walls in the picture, who is behind a wall, beyond an edge or under a cover."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import camera
from .backdrop import to_ground, to_wall
from .layout import corners
from .motion import places_and_tips
from .parts import cover, covered, tipped_base
from .scene import Object, Scene

WIDE = camera.HALF_VIEW * 1.85  # out of a square picture is not yet out of a wide one (176x96)


def boxes(scene: Scene, times: Tensor) -> tuple[Tensor, Tensor]:
    """([T, K, 4] left, right, bottom and top tangents of every body in the picture, [T, K] distances of the nearest points)."""
    view = camera.pose(scene.camera, times, scene)
    place, tip = places_and_tips(scene, times)
    found = [_box(*camera.project(view, _corners(body, place[:, i], tip[:, i]))) for i, body in enumerate(scene.objects)]
    return tuple(torch.stack(of, 1) for of in zip(*found, strict=True))


def _corners(body: Object, place: Tensor, tip: Tensor) -> Tensor:
    """[T, 8, 3] corners of the box round a body that stands at places [T, 3], or is tipped by angles [T]."""
    x, y, z = corners(torch.zeros(3, dtype=place.dtype), body.clearance, body.height).unbind(-1)
    cos, sin = torch.cos(tip)[:, None], torch.sin(tip)[:, None]
    return tipped_base(place, tip, body.radius)[:, None] + torch.stack((cos * x + sin * y, cos * y - sin * x, z.expand_as(cos * x)), -1)


def _box(across: Tensor, up: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Of points in the picture [T, P]: left, right, bottom and top [T, 4], and the distance of the nearest [T]."""
    return torch.stack((across.amin(1), across.amax(1), up.amin(1), up.amax(1)), -1), depth.amin(1)


def wall_faces(scene: Scene, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(outer [T, W, 4] and inner [T, W, 4] rectangles of every wall in the picture, distances of the nearest points [T, W])."""
    view = camera.pose(scene.camera, times, scene)
    outer, inner, near = [], [], []
    for wall in scene.walls:
        foot = torch.tensor([wall.x, 0.0, wall.z], dtype=times.dtype)
        half = torch.tensor([wall.width / 2, wall.height, wall.thickness / 2], dtype=times.dtype)
        unit = corners(torch.zeros(3, dtype=times.dtype), 1.0, 1.0)
        across, up, depth = camera.project(view, (foot + unit * half).expand(len(times), 8, 3))
        box, nearest = _box(across, up, depth)
        outer.append(box), near.append(nearest)
        front = unit[:, 2] > 0  # the face towards the camera is all that surely hides
        a, u = across[:, front], up[:, front]
        left, low = unit[front, 0] < 0, unit[front, 1] == 0
        inner.append(torch.stack((a[:, left].amax(1), a[:, ~left].amin(1), u[:, low].amax(1), u[:, ~low].amin(1)), -1))
    return torch.stack(outer, 1), torch.stack(inner, 1), torch.stack(near, 1)


def cover_boxes(scene: Scene, times: Tensor) -> tuple[Tensor, Tensor]:
    """As `boxes`, of the covers of a scene that has any: [T, C, 4] and [T, C]; above the picture while they wait."""
    view = camera.pose(scene.camera, times, scene)
    place, _ = places_and_tips(scene, times)
    covers = [cover(body, place[:, i], times) for i, body in enumerate(scene.objects) if body.change == "cover"]
    found = [_box(*camera.project(view, corners(part.base, part.half[0], part.height))) for part in covers]
    return tuple(torch.stack(of, 1) for of in zip(*found, strict=True))


class Sight(NamedTuple):
    """Of every body at every moment, booleans [T, K]. hidden: wholly behind a wall. free: no wall in front of any of it. out_left,
    out_right: wholly outside even a wide picture. inside: inside a square one, but for its foot. under: wholly under its cover."""

    hidden: Tensor
    free: Tensor
    out_left: Tensor
    out_right: Tensor
    inside: Tensor
    under: Tensor


def sight(scene: Scene, times: Tensor) -> Sight:
    """What can be seen of every body at `times` [T]."""
    box, near = boxes(scene, times)
    hidden = torch.zeros(box.shape[:2], dtype=torch.bool)
    free = torch.ones_like(hidden)
    if scene.walls:
        outer, inner, wall_near = wall_faces(scene, times)
        for w in range(len(scene.walls)):
            behind = near > wall_near[:, w, None]
            o, n = outer[:, w, None], inner[:, w, None]
            within = (box[..., 0] > n[..., 0]) & (box[..., 1] < n[..., 1]) & (box[..., 3] < n[..., 3])
            apart = (box[..., 0] > o[..., 1]) | (box[..., 1] < o[..., 0]) | (box[..., 2] > o[..., 3])
            hidden |= behind & within
            free &= ~behind | apart
    inside = (box[..., 0] > -camera.HALF_VIEW) & (box[..., 1] < camera.HALF_VIEW) & (box[..., 3] < camera.HALF_VIEW)
    under = torch.stack([covered(body, times) >= 1.0 for body in scene.objects], -1)
    return Sight(hidden, free, box[..., 1] < -WIDE, box[..., 0] > WIDE, inside, under)


def surroundings(scene: Scene, times: Tensor, width: int, height: int) -> Tensor:
    """What stands behind all bodies in the middle of each part of a picture of width x height parts, on the ground, at a room's wall or far
    away: points [T, height * width, 3], row by row."""
    view = camera.pose(scene.camera, times, scene)
    half = camera.tangents(width, height)
    across, down = (side * ((torch.arange(n, dtype=times.dtype) + 0.5) * 2 / n - 1) for side, n in zip(half, (width, height)))
    rays = view.forward[:, None, None] + across[:, None] * view.right[:, None, None] - down[:, None, None] * view.up[:, None, None]
    eye = view.eye[:, None, None]
    reach = to_ground(eye[..., 1], rays[..., 1])
    if scene.place == "room":
        reach = torch.minimum(reach, to_wall(eye[..., 2], rays[..., 2]))
    return (eye + reach[..., None] * rays).flatten(1, 2)
