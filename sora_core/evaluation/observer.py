"""The observer: a small network that reads the facts of a video clip back from its frames.

Eight frames of 96 x 96 go through a convolutional trunk; two convolutions over space and time see what moves, and correlations of frames
at a few displacements (as in FlowNet, arXiv 1504.06852) see how the camera moves. Every colour of the world then looks
for its body: a map over the picture says where it is in each frame, and what stands there is read by one head that all colours share.
Place, time of day, camera and count are read from the whole picture and from all bodies.

It sees the middle square of a clip: whatever the aspect ratio, the world keeps all bodies there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..files import atomic_path
from ..pictures import evenly
from ..world import COLOURS, MOTIONS, PLACES, SHAPES, SIZES, TIMES_OF_DAY

FRAMES, SIDE = 8, 96
GRID = SIDE // 4  # of the maps that say where a body is
SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6)]  # in pixels of half the size
LAGS = (1, 4)  # frames: a zoom is slow
WIDE = 256
REGIONS = 3  # along each side: a zoom moves them apart, an orbit along
WEIGHTS = Path(__file__).parent / "observer.safetensors"

# What a window can show beyond the world's own words: a leg coming back, or more than one leg (world/captions.py).
SEEN_MOTIONS = (*MOTIONS, "slide back and forth", "move away", "come and go")
SEEN_CAMERAS = ("static", "orbit", "orbit left", "orbit right", "zoom in", "zoom out")
MIRRORED = {"slide left": "slide right", "slide right": "slide left", "orbit left": "orbit right", "orbit right": "orbit left"}
BODY = {"shape": SHAPES, "size": SIZES, "motion": SEEN_MOTIONS}
WHOLE = {"place": PLACES, "time of day": TIMES_OF_DAY, "camera": SEEN_CAMERAS, "count": (0, 1, 2, 3)}


@dataclass(frozen=True)
class Body:
    """What is read of the body of one colour. `path`: [FRAMES, 2], its middle across and down in -1..1; `presence`: probability."""

    shape: str
    size: str
    motion: str
    path: Tensor
    presence: float


@dataclass(frozen=True)
class Reading:
    """All that the observer says of a clip; `bodies` by colour."""

    bodies: dict[str, Body]
    count: int
    place: str
    time_of_day: str
    camera: str
    camera_direction: str | None


def glimpse(frames: Tensor) -> Tensor:
    """uint8 frames [T, H, W, 3] -> what the observer sees, uint8 [FRAMES, SIDE, SIDE, 3]: evenly spaced, the middle square, smaller."""
    t, h, w, _ = frames.shape
    chosen = frames[evenly(t, FRAMES)]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = chosen[:, top : top + side, left : left + side].movedim(-1, 1).float()
    small = square if side == SIDE else F.interpolate(square, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).byte().movedim(1, -1)


class Residual(nn.Module):
    """x + convolution(relu(norm(x))); the norm is over channels."""

    def __init__(self, convolution: nn.Module, dim: int):
        super().__init__()
        self.norm, self.convolution = nn.LayerNorm(dim), convolution

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return x + self.convolution(F.relu(normed))


class Observer(nn.Module):
    """Clips [B, FRAMES, 3, SIDE, SIDE] in -1..1 -> answers, a dict of logits (see `forward`). 0.7 M parameters at width 64.

    `held_out`: (facts found, facts) by kind on renders it never saw (observer_training.measure).
    """

    def __init__(self, dim: int = 64):
        super().__init__()
        self.held_out: dict[str, tuple[int, int]] = {}
        self.stem = nn.Sequential(nn.Conv2d(5, dim, 8, 4, 2), nn.ReLU())
        self.near = nn.Sequential(*(Residual(nn.Conv2d(dim, dim, 3, 1, 1), dim) for _ in range(2)))
        self.down = nn.Conv2d(dim, dim, 4, 2, 1)
        self.over_time = nn.Sequential(*(Residual(nn.Conv3d(dim, dim, 3, 1, 1), dim) for _ in range(2)))
        self.where = nn.Conv2d(2 * dim, len(COLOURS), 1)
        self.glance = nn.Linear(2 * dim + 3, dim)
        correlations = len(LAGS) * len(SHIFTS) * REGIONS**2
        self.flow = nn.Sequential(nn.Linear(correlations, dim), nn.ReLU())
        self.filmed = nn.Linear(correlations, len(SEEN_CAMERAS))  # a plain sum of correlations tells nine cameras of ten
        self.body = nn.Sequential(nn.Linear(FRAMES * (dim + 3) + dim, WIDE), nn.ReLU())
        self.of_body = nn.Linear(WIDE, 1 + sum(map(len, BODY.values())))
        self.whole = nn.Sequential(nn.Linear(11 * dim + WIDE + len(COLOURS), WIDE), nn.ReLU())
        self.of_whole = nn.Linear(WIDE, sum(map(len, WHOLE.values())))
        line = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
        grid = (torch.arange(GRID) + 0.5) * (2 / GRID) - 1
        self.register_buffer("place_of_pixel", torch.stack([line.expand(SIDE, SIDE), line[:, None].expand(SIDE, SIDE)]), persistent=False)
        self.register_buffer("place_of_cell", torch.stack([grid.repeat(GRID), grid.repeat_interleave(GRID)], -1), persistent=False)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns:
        where: [B, FRAMES, colours, GRID * GRID] logits over the picture. path: [B, colours, FRAMES, 2] in -1..1.
        presence: [B, colours]. shape, size, motion: [B, colours, n]. place, time of day, camera, count: [B, n].
        """
        b, t = clips.shape[:2]
        x = torch.cat([clips.flatten(0, 1), self.place_of_pixel.expand(b * t, -1, -1, -1)], 1)
        x = self.near(self.stem(x.contiguous(memory_format=torch.channels_last)))  # BT D G G
        context = self.down(x).unflatten(0, (b, t)).transpose(1, 2)  # B D T g g
        context = self.over_time(context.contiguous(memory_format=torch.channels_last_3d))
        alike = self.alike(clips).to(x)
        flow = self.flow(alike)  # B D
        seen, answers = self.look(torch.cat([x, F.interpolate(context.transpose(1, 2).flatten(0, 1), scale_factor=2)], 1), b)
        of_bodies = self.body(torch.cat([seen, flow[:, None].expand(-1, len(COLOURS), -1)], -1))  # B c WIDE
        presence, *parts = self.of_body(of_bodies).float().split([1, *map(len, BODY.values())], -1)
        answers |= dict(zip(BODY, parts)) | {"presence": presence[..., 0]}
        x, weight = x.unflatten(0, (b, t)), presence.sigmoid().to(x)
        whole = [F.adaptive_avg_pool3d(context, 2).flatten(1), x.amax((1, 3, 4)), x.mean((1, 3, 4)), flow]
        whole += [(of_bodies * weight).sum(1), weight[..., 0]]
        parts = self.of_whole(self.whole(torch.cat(whole, 1))).float().split([len(v) for v in WHOLE.values()], -1)
        answers |= dict(zip(WHOLE, parts))
        return answers | {"camera": answers["camera"] + self.filmed(alike).float()}

    def look(self, x: Tensor, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [BT, 2 D, G, G] -> what stands where each colour looks in every frame, [B, colours, FRAMES (D + 3)], and the places."""
        where = self.where(x).flatten(2).float()  # BT c GG
        gaze = where.softmax(-1)
        path = gaze @ self.place_of_cell  # BT c 2
        told = torch.cat([path, where.logsumexp(-1, keepdim=True) / 8], -1).to(x)
        seen = gaze.to(x) @ x.flatten(2).transpose(1, 2)  # BT c 2D
        seen = torch.cat([F.relu(self.glance(torch.cat([seen, told], -1))), told], -1)  # BT c D+3
        where, path, seen = (y.unflatten(0, (batch, -1)) for y in (where, path, seen))
        return seen.transpose(1, 2).flatten(2), {"where": where, "path": path.transpose(1, 2)}

    @staticmethod
    def alike(clips: Tensor) -> Tensor:
        """How alike frames LAGS apart are at each of SHIFTS, in regions of the picture, mean over a clip, [B, n].

        Normalised correlation of what is finer than nine pixels, on a scale that tells 0.99 from 0.97. It is of the frames themselves: the
        trunk's features know their place, and so are always most alike where they are.
        """
        b, t = clips.shape[:2]
        fine = F.avg_pool2d(clips.flatten(0, 1).mean(1), 2)  # BT h h
        fine = (fine - F.avg_pool2d(fine, 9, 1, 4, count_include_pad=False)).unflatten(0, (b, t))
        side, (down, along) = fine.shape[-1], SHIFTS[-1]
        found = []
        for lag in LAGS:
            first, second = fine[:, :-lag].flatten(0, 1), F.pad(fine[:, lag:].flatten(0, 1), (along, along, down, down))
            moved = torch.stack([second[:, down + y : down + y + side, along + x : along + x + side] for y, x in SHIFTS], 1)
            first = first[:, None]
            both, one, other = (F.adaptive_avg_pool2d(p, REGIONS) for p in (first * moved, first.square(), moved.square()))
            correlation = both / (one * other + 1e-9).sqrt()
            found.append(-(1.02 - correlation).clamp_min(0.02).log().unflatten(0, (b, -1)).mean(1).flatten(1))
        return torch.cat(found, 1)

    def both_ways(self, clips: Tensor) -> dict[str, Tensor]:
        """The answers, of which each is the mean of what a clip says and what its mirror image says in mirrored words; without `where`."""
        answers, mirrored = self(clips), self(clips.flip(-1))
        for name, words in (("motion", SEEN_MOTIONS), ("camera", SEEN_CAMERAS)):
            mirrored[name] = mirrored[name][..., [words.index(MIRRORED.get(word, word)) for word in words]]
        mirrored["path"] = mirrored["path"] * mirrored["path"].new_tensor([-1.0, 1.0])
        return {name: (answer + mirrored[name]) / 2 for name, answer in answers.items() if name != "where"}

    @torch.inference_mode()
    def read(self, frames: list[Tensor]) -> list[Reading]:
        """Readings of clips, each uint8 [T, H, W, 3] of any size and length."""
        readings = []
        for first in range(0, len(frames), 16):
            clips = torch.stack([glimpse(f) for f in frames[first : first + 16]]).movedim(-1, 2).float() / 127.5 - 1
            answers = self.both_ways(clips)
            readings += [_reading({name: a[i] for name, a in answers.items()}) for i in range(len(clips))]
        return readings


def _reading(answers: dict[str, Tensor]) -> Reading:
    """Of one clip: the likeliest of every answer."""
    whole = {name: words[int(answers[name].argmax())] for name, words in WHOLE.items()}
    presence = answers["presence"].sigmoid()
    bodies = {}
    for i in (presence > 0.5).nonzero()[:, 0].tolist():
        words = {name: values[int(answers[name][i].argmax())] for name, values in BODY.items()}
        bodies[COLOURS[i]] = Body(**words, path=answers["path"][i], presence=float(presence[i]))
    kind, direction = whole["camera"], None
    if kind.startswith("orbit "):
        kind, direction = kind.split()
    return Reading(bodies, whole["count"], whole["place"], whole["time of day"], kind, direction)


def save_observer(observer: Observer, path: Path = WEIGHTS) -> None:
    """bfloat16, about 1.4 MB, with what it was measured at."""
    state = {name: t.to(torch.bfloat16).contiguous() for name, t in observer.state_dict().items()}
    with atomic_path(path) as part:
        part.write_bytes(save(state, {"held_out": json.dumps(observer.held_out)}))


def load_observer(path: Path = WEIGHTS) -> Observer:
    """The shipped observer, float32, ready to read.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no observer at {path}: train one with `python -m sora_core.evaluation observer`")
    with safe_open(path, "pt") as file:
        held_out = json.loads(file.metadata()["held_out"])
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (safe_open is not a dict)
    observer = Observer(state["down.weight"].shape[0])
    observer.load_state_dict(state)
    observer.held_out = {kind: tuple(counts) for kind, counts in held_out.items()}
    return observer.eval()
