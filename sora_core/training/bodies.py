"""Asks the middle of the transformer which body is at every token, and where it goes next, or what is behind it.

As in representation alignment (REPA, arXiv 2410.06940) the middle blocks are pulled towards what a picture means; here the teacher is the
world itself, of which every fact is known. Where noise hides all, only the words can answer, so the words are used long before the
velocity alone, which is mostly sky and ground, would ask for them. Where ground, wall and sky go is how the camera moves. The head is
dropped when the model is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..world import COLOURS, MOTIONS, SHAPES, SIZES, STORY_MOTIONS, STORY_SHAPES, Object, Scene
from ..world.camera import pose, project, tangents
from ..world.events import LASTING, lasting
from ..world.motion import positions
from ..world.scene import WALLS
from ..world.sight import boxes, cover_boxes, sight, surroundings, wall_faces
from ..world.simulation import takes_part

ASKED = {
    "shape": (*SHAPES, *STORY_SHAPES, "wall", "cover"),
    "colour": (*COLOURS, *WALLS),  # covers are grey
    "size": SIZES,
    "motion": (*MOTIONS, "move away", *STORY_MOTIONS),
    "state": tuple(LASTING.values()),
}
ANSWERS = [1 + len(words) for words in ASKED.values()]  # 0 is nobody
FIELDS = len(ASKED) + 2  # and the two coordinates of where it goes
COVERED = 0.3  # share of a token, or of a body smaller than one, that makes the body the token's
WALLED = 0.5  # that of a token which makes it a wall's
STEP = 0.125  # seconds on either side of a moment, for its speed
RESTING = 0.02  # units a second: slower, and a body stands
NOBODY = 0.1  # weight of a token with nobody in it: nine of ten are such
PACE = 0.1  # of a second, what goes slowly: the unit in which where all goes is asked, for beside the words a smaller error is not learned


def standing(scene: Scene, seconds: Sequence[float], height: int, width: int) -> Tensor:
    """Who is at each token of a scene's pictures: [T, height, width, FIELDS].

    One number for each of ASKED, 0 where there is nobody; then how far the body, or what else is seen there, goes in a second, across and
    down, in half the short side of the picture. Walls and covers are there as bodies are, and the nearest counts.

    Args:
        seconds: T moments of the scene. height, width: of the picture, in tokens.
    """
    times = torch.tensor(seconds, dtype=torch.float64)
    begin, end = (times - STEP).clamp_min(0), times + STEP
    three = torch.cat([times, begin, end])
    kinds = [boxes(scene, three)]
    if any(body.change == "cover" for body in scene.objects):
        kinds.append(cover_boxes(scene, three))
    if scene.walls:
        kinds.append(wall_faces(scene, three)[::2])
    all_boxes, distances = (torch.cat(of, 1) for of in zip(*kinds, strict=True))
    box, near = all_boxes[: len(times)], distances[: len(times)]  # T K 4, T K: bodies, covers, walls
    middle = torch.stack((all_boxes[..., :2].sum(-1), -all_boxes[..., 2:].sum(-1)), -1) / 2
    _, before, after = middle.chunk(3)
    half = torch.tensor(tangents(width, height), dtype=torch.float64)
    speed = (after - before) / (end - begin)[:, None, None] / half.min()
    across, down = (torch.linspace(-side, side, count + 1, dtype=torch.float64) for side, count in zip(half, (width, height)))
    shared = _overlap(across, box[..., 0], box[..., 1])[:, :, None] * _overlap(down, -box[..., 3], -box[..., 2])[..., None]  # T K h w
    token = (across[1] - across[0]) * (down[1] - down[0])
    area = (box[..., 1] - box[..., 0]) * (box[..., 3] - box[..., 2])
    there = shared >= COVERED * area.clamp(max=token)[..., None, None]
    if scene.walls:  # where less of one is seen, what is beside it counts
        there[:, -len(scene.walls) :] &= shared[:, -len(scene.walls) :] >= WALLED * token
    if scene.has_story:
        seen = sight(scene, times)
        there[:, : len(scene.objects)] &= ~(seen.hidden | seen.under)[..., None, None]
    depth, first = torch.where(there, near[..., None, None], torch.inf).min(1)  # T h w
    facts = torch.cat([_words(scene, times, begin, end).double(), speed], -1)  # T K FIELDS
    picked = facts.gather(1, first.flatten(1).unsqueeze(-1).expand(-1, -1, FIELDS)).view(*first.shape, FIELDS)
    points = surroundings(scene, times, width, height)
    (x, y, _), (u, v, _) = (project(pose(scene.camera, t, scene), points) for t in (begin, end))
    behind = torch.zeros_like(picked)
    behind[..., -2:] = (torch.stack((u - x, y - v), -1) / ((end - begin)[:, None, None] * half.min())).view(*first.shape, 2)
    return torch.where(depth.isfinite().unsqueeze(-1), picked, behind).float()


def _words(scene: Scene, times: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """The number of each of ASKED, for bodies, covers and walls at each of `times`, between `begin` and `end`: [T, K, len(ASKED)]."""
    paths = positions(scene, torch.cat([begin, end])).unflatten(0, (2, -1))
    pace = (paths[1] - paths[0]) / (end - begin)[:, None, None]  # T K 3
    told = []
    for moment, steps in zip(times.tolist(), pace.tolist(), strict=True):
        state = dict(lasting(scene, moment)) if scene.has_story else {}
        bodies = enumerate(zip(scene.objects, steps, strict=True))
        words = [(body.shape, body.colour, body.size, _does(body, *step), state.get(i, "")) for i, (body, step) in bodies]
        words += [("cover", "grey", "", "", "") for body in scene.objects if body.change == "cover"]
        words += [("wall", wall.colour, "", "", "") for wall in scene.walls]
        told.append([[1 + names.index(word) if word else 0 for word, names in zip(row, ASKED.values(), strict=True)] for row in words])
    return torch.tensor(told)


def _does(body: Object, x: float, y: float, z: float) -> str:
    """The word for what a body does while it goes x, y, z units a second: what has turned round goes the other way, as captions say too,
    and what has come to rest stands. "" where there is none."""
    if takes_part(body):
        if max(abs(x), abs(y), abs(z)) < RESTING:
            return "still"
        if body.motion == "still":  # pushed
            return ""
    how, _, side = body.motion.partition(" ")
    if side in ("left", "right"):
        way = "right" if x > 0 else "left"
        return f"{how} {way}" if how != "leave" or way == side else ""
    if body.motion == "come closer":
        return "come closer" if z > 0 else "move away"
    return body.motion


def _overlap(edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Length that each interval between `edges` [n + 1] shares with low..high [T, K]: [T, K, n]."""
    return (torch.minimum(high[..., None], edges[1:]) - torch.maximum(low[..., None], edges[:-1])).clamp_min(0)


def who_is_where(records: Sequence[Sequence[Scene | tuple[str, ...]]], moments: Sequence[tuple[int, float]], height: int,
                 width: int) -> Tensor | None:  # fmt: skip
    """`standing` of every record at (shot, second of its scene): [b, F, height, width, FIELDS] in half precision.

    None where written captions are all that is known.
    """
    if not all(isinstance(shot, Scene) for shots in records for shot in shots):
        return None
    told = torch.empty(len(records), len(moments), height, width, FIELDS, dtype=torch.float16)
    for made, shots in zip(told, records, strict=True):
        for number in {shot for shot, _ in moments}:
            cells = [i for i, (shot, _) in enumerate(moments) if shot == number]
            made[cells] = standing(shots[number], [moments[i][1] for i in cells], height, width).half()
    return told


class Asker(nn.Module):
    """The questions behind a block of a transformer of width `dim`."""

    def __init__(self, dim: int):
        super().__init__()
        self.answer = nn.Linear(dim, sum(ANSWERS) + 2)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Hidden states [B, N, D] -> answers [B, N, ...]: logits of all ASKED, then the two coordinates in PACE."""
        return self.answer(F.layer_norm(states, states.shape[-1:]))


def answer_loss(answers: Tensor, told: Tensor, weight: Tensor) -> Tensor:
    """Sum over tokens of what the answers are wrong by: mean cross-entropy of ASKED, plus the distance in PACE from where all goes.

    Args:
        answers: [B, N, ...] of an Asker. told: [B, N, FIELDS]. weight: [B, N], see `weight_of`.
    """
    *logits, goes = answers.float().split([*ANSWERS, 2], -1)
    wrong = sum(F.cross_entropy(x.transpose(1, 2), told[..., i].long(), reduction="none") for i, x in enumerate(logits))
    away = F.smooth_l1_loss(goes, told[..., -2:] / PACE, reduction="none").sum(-1)
    return ((wrong / len(ASKED) + away) * weight).sum()


def weight_of(told: Tensor) -> Tensor:
    """How much each token's answers count [...]: those with a body most."""
    return torch.where(told[..., 0] > 0, 1.0, NOBODY)
