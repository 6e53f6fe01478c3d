"""Scenes in which one body passes behind another, and clips that cannot be: the same frames in an order that breaks the world.

The present world has no walls, so what hides a body is a nearer body. Impossible clips follow IntPhys (Riochet et al., arXiv 1803.07616):
two possible clips A and B differ in one fact, and their second halves are exchanged. The four clips are made of the same frames, so only
what happens between them tells the possible ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shapes import Strides
from ..world import COLOURS, SHAPES, Scene, render, sample_scene
from ..world.camera import pose, project
from ..world.motion import positions

HIDDEN, VISIBLE = 0.75, 0.1  # covered share of a body that counts as hidden, and as seen again
BREAKS = ("colour", "shape", "existence", "place")
SLIDING = ("still", "slide left", "slide right")  # what passes behind something slides
ELSEWHERE = 1.5  # units to the side


def covered(scene: Scene, times: list[float]) -> Tensor:
    """[K, T]: share of every body's bounding box in the picture that one nearer body's box hides."""
    when = torch.tensor(times, dtype=torch.float64)
    middles = positions(scene, when)
    middles[..., 1] += torch.tensor([body.height / 2 for body in scene.objects], dtype=torch.float64)
    across, up, depth = (part.T for part in project(pose(scene.camera, when), middles))  # K T
    wide = torch.tensor([[body.radius] for body in scene.objects]) / depth
    tall = torch.tensor([[body.height / 2] for body in scene.objects]) / depth
    shares = torch.zeros(across.shape)
    for i in range(len(scene.objects)):
        for j in range(len(scene.objects)):
            if i != j and scene.objects[j].shape != "cone":  # a cone's box is half empty
                shared_x = torch.minimum(across[i] + wide[i], across[j] + wide[j]) - torch.maximum(across[i] - wide[i], across[j] - wide[j])
                shared_y = torch.minimum(up[i] + tall[i], up[j] + tall[j]) - torch.maximum(up[i] - tall[i], up[j] - tall[j])
                share = shared_x.clamp_min(0) * shared_y.clamp_min(0) / (4 * wide[i] * tall[i])
                shares[i] = torch.maximum(shares[i], torch.where(depth[j] < depth[i], share, 0.0).float())
    return shares


@dataclass(frozen=True)
class Hiding:
    """Body `body` is seen up to frame `last_seen`, then hidden, and seen again from frame `back` to the end."""

    scene: Scene
    body: int
    last_seen: int
    back: int


def hidings(count: int, frames: int, fps: float, first_seed: int, before: float = 0.5, after: float = 1.5) -> Iterator[Hiding]:
    """The first `count` cases by seed, in clips of `frames` frames; the body is seen `before` seconds or more from the start, which tell
    how it moves, and is back `after` seconds or more before the end."""
    found, seed = 0, first_seed
    times = [k / fps for k in range(frames)]
    while found < count:
        scene = sample_scene(seed, motions=SLIDING)
        seed += 1
        colours = [body.colour for body in scene.objects]
        if len(colours) < 2 or len(set(colours)) < len(colours):
            continue
        case = _hiding(scene, covered(scene, times), round(before * fps), round(after * fps))
        if case is not None:
            found += 1
            yield case


def _hiding(scene: Scene, shares: Tensor, frames_before: int, frames_after: int) -> Hiding | None:
    for body, share in enumerate(shares.tolist()):
        hidden = [t for t, s in enumerate(share) if s >= HIDDEN]
        if not hidden:
            continue
        before = [t for t in range(frames_before, hidden[0]) if share[t] <= VISIBLE]
        back = next((t for t in range(hidden[-1], len(share)) if max(share[t:]) <= VISIBLE), len(share))
        if before and len(share) - back >= frames_after:
            return Hiding(scene, body, before[-1], back)
    return None


def broken(scene: Scene, what: str) -> Scene:
    """The scene with one fact of its first body changed; an unknown `what` raises ValueError."""
    body = scene.objects[0]
    if what == "colour":
        taken = {other.colour for other in scene.objects}
        other = replace(body, colour=next(c for c in COLOURS[scene.seed % 8 :] + COLOURS if c not in taken))
    elif what == "shape":
        other = replace(body, shape=SHAPES[(SHAPES.index(body.shape) + 1) % len(SHAPES)])
    elif what == "existence":
        other = replace(body, x=1e3)  # far out of the picture
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
