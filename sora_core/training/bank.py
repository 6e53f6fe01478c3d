"""The latent bank: clips of the world, rendered and encoded once, read for many epochs with fresh noise, masks and captions.

    python -m sora_core.training bank --folder runs/bank --vae runs/vae/vae.safetensors --shards 200
    python -m sora_core.training bank --folder runs/bank --vae runs/vae/vae.safetensors --first 200 --shards 12 --cameras orbit

A shard is one safetensors file of `SHARD` records of one shape. Shards are made in a fixed order that mixes the shapes, so training may
start on the first ones while the rest are made, several processes may make them side by side, and a killed one is continued. What is in
a shard depends on its number and its recipe alone.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..autoencoder import VideoVAE, normalise, pixels_of
from ..canvas import encode_span
from ..config import UserError
from ..files import atomic_path, try_lock
from ..shapes import PATCH, Strides
from ..world import CAMERAS, MOTIONS, STORY_CAMERAS, STORY_MOTIONS, Scene, is_held_out, render_batch, sample_shots
from .bodies import who_is_where
from .group import ALONE, Group

SHARD = 32
GUIDES = 2
GUIDES_WITH_TAILS = 8  # the richest records carry as many guide cells as the objective ever shows
FIRST_SEED = 10_000_000  # seeds below are left to tests, sheets and the VAE
SEEDS = 10_000  # of a shard


@dataclass(frozen=True)
class Shape:
    """Frames, rate and size of all records of a shard.

    `tails` also encodes each clip's second half as a span of its own; `cuts` are the cells at which a second, third ... shot begins;
    `begin` is the second of the scenes at which the clips begin.
    """

    frames: int
    fps: float
    width: int
    height: int
    tails: bool = False
    cuts: tuple[int, ...] = ()
    begin: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of a cell in tokens."""
        side = Strides().space * PATCH
        return self.height // side, self.width // side

    def shot_of(self, cell: int) -> int:
        return bisect.bisect_right(self.cuts, cell)

    def first_frame(self, shot: int) -> int:
        """Number of the frame with which a shot begins."""
        return Strides().frames(self.cuts[shot - 1]) if shot else 0

    def span(self, cells: list[int], shot: int = 0) -> tuple[float, float]:
        """Seconds of a shot's scene at which the first and the last of some cells end; of a shot that begins with the first of them, and
        of a lone cell of a cut clip, as the shot may end with it, from where that cell begins; 0, 0 without any."""
        first = self.first_frame(shot) / self.fps
        own = [cell for cell in cells if self.shot_of(cell) == shot]
        inside = [max(0.0, Strides.time * cell / self.fps - first) for cell in own]
        if own and self.cuts and (len(own) == 1 or own[0] in self.cuts):
            inside.insert(0, max(0.0, inside[0] - Strides.time / self.fps))
        return (self.begin + inside[0], self.begin + inside[-1]) if inside else (0.0, 0.0)

    def moments(self, guide_frames: Sequence[int] = ()) -> list[tuple[int, float]]:
        """(shot, second of its scene) in the middle of every cell, then of every guide frame."""
        strides = Strides()
        middles = [max(0.0, strides.time * cell - (strides.time - 1) / 2) for cell in range(strides.cells(self.frames))]
        frames = [*middles, *guide_frames]
        shots = [self.shot_of(strides.cell_of_frame(frame)) for frame in frames]
        return [(shot, self.begin + max(0.0, frame - self.first_frame(shot)) / self.fps) for shot, frame in zip(shots, frames, strict=True)]


STILLS = tuple(Shape(1, 8.0, w, h) for w, h in ((128, 128), (176, 96), (96, 176)))
# Whatever is to lead to a given end (backward, fill, join, loop) is learned from tails alone.
SECONDS_2 = tuple(Shape(17, 8.0, w, h, w == h) for w, h in ((128, 128), (128, 128), (176, 96), (96, 176)))
SECONDS_5 = tuple(Shape(41, 8.0, w, h, w == h) for w, h in ((128, 128), (128, 128), (176, 96), (96, 176)))
RARE = (Shape(17, 4.0, 128, 128, True), Shape(25, 16.0, 128, 128))
SHOTS = (Shape(33, 8.0, 128, 128, cuts=(5,)), Shape(41, 8.0, 128, 128, cuts=(3, 6, 9)))
MINUTE = (Shape(481, 8.0, 128, 128),)  # batches see parts and strided subsets of it, as the first pass over a long video does
SHAPES = {"STILLS": STILLS, "SECONDS_2": SECONDS_2, "SECONDS_5": SECONDS_5, "RARE": RARE, "SHOTS": SHOTS, "MINUTE": MINUTE}
LATEST = 6.5  # seconds, a leg of what slides: clips that all began with one would teach that nothing was moving before a video


@dataclass(frozen=True)
class Stage:
    """The shapes of a stage of training; its scenes are the world's. Eight of twelve shards are stills, three `clips`, one `rare`.

    `later` is the share of clips that begin after their scenes do.
    """

    clips: tuple[Shape, ...]
    rare: tuple[Shape, ...]
    later: float = 0.5


def _in_turn(*kinds: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """One of each kind, then the next of each, until all have been there."""
    return tuple(kind[i % len(kind)] for i in range(max(map(len, kinds))) for kind in kinds)


STAGES = {
    "S1": Stage(SECONDS_2, SECONDS_2),
    "S2": Stage(SECONDS_2, _in_turn(SECONDS_5, SECONDS_5[1:], RARE + SHOTS)),
    # An event and what it leaves take their time, and all of them happen in a scene's first seconds.
    "S3": Stage(_in_turn(SECONDS_2, SECONDS_5[1:]), SECONDS_5, later=0.2),
    "S4": Stage(_in_turn(SECONDS_2, SECONDS_5[1:]), _in_turn(SECONDS_5, SHOTS, RARE + MINUTE), later=0.2),
}


@dataclass(frozen=True)
class Recipe:
    """What the shards of a bank show: without more than a stage, the plan of it.

    Args:
        stage: of the scenes, a name in STAGES.
        shapes: names in SHAPES, one shape of each in turn, in place of the stage's plan.
        cameras, motions: only scenes with one of these movements of the camera, and with a body of one of these motions; of several shots
            one is such a scene.

    Raises:
        UserError: a name that is not known, or not to the stage; the known ones are listed.
    """

    stage: str = "S2"
    shapes: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    motions: tuple[str, ...] = ()

    def __post_init__(self):
        _check("stage", (self.stage,), STAGES)
        _check("shapes", self.shapes, SHAPES)
        cameras = {"S1": CAMERAS[:1], "S2": CAMERAS}.get(self.stage, CAMERAS + STORY_CAMERAS)
        motions = MOTIONS if self.stage in ("S1", "S2") else MOTIONS + STORY_MOTIONS
        _check(f"cameras of stage {self.stage}", self.cameras, cameras)
        _check(f"motions of stage {self.stage}", self.motions, motions)

    def wants(self, shots: Sequence[Scene]) -> bool:
        """Whether a record shows what was asked for."""
        return any(
            (not self.cameras or shot.camera.kind in self.cameras)
            and (not self.motions or any(body.motion in self.motions for body in shot.objects))
            for shot in shots
        )


def _check(field: str, names: Sequence[str], known: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{field}: {unknown[0]!r} is not known: use one of {', '.join(known)}")


def plan(index: int, recipe: Recipe = Recipe()) -> Shape:
    """The shape of shard `index`; a share of the clips of one shot begins after their scenes do."""
    stage, (turn, slot) = STAGES[recipe.stage], divmod(index, 12)
    if recipe.shapes:
        shapes = _in_turn(*(SHAPES[name] for name in recipe.shapes))
        shape = shapes[index % len(shapes)]
    elif slot == 11:
        shape = stage.rare[turn % len(stage.rare)]
    elif slot % 3 == 2:
        shape = stage.clips[(turn * 3 + slot // 3) % len(stage.clips)]
    else:
        shape = STILLS[(turn + slot) % 3]
    if shape.frames == 1 or shape.cuts or shape in MINUTE:
        return shape
    at_once = LATEST * (1 - stage.later) / stage.later
    return replace(shape, begin=max(0.0, random.Random(index).uniform(-at_once, LATEST)))


def scenes_of(index: int, cuts: int, count: int = SHARD, recipe: Recipe = Recipe()) -> list[list[Scene]]:
    """The shots of every record of shard `index`, by their seeds; held-out combinations are passed over and never trained on.

    Args:
        cuts: in each record. count: of records.

    Raises:
        UserError: what the recipe asks for is too rare.
    """
    records, first, refused = [], FIRST_SEED + index * SEEDS, None
    for seed in range(first + 1, first + SEEDS):
        try:
            shots = sample_shots(seed, 1 + cuts, stage=recipe.stage, held_out=False)
        except ValueError as error:  # this cast cannot be filmed so
            refused = error
            continue
        if recipe.wants(shots) and not any(map(is_held_out, shots)):
            records.append(shots)
        if len(records) == count:
            return records
    found = f"shard {index}: {len(records)} of {count} scenes found with {SEEDS:,} seeds"
    if recipe.cameras or recipe.motions:
        raise UserError(f"{found}: name more cameras or motions")
    raise RuntimeError(found) from refused


def guide_frames(index: int, shape: Shape) -> list[int]:
    """Which frames of all clips of shard `index` are also kept as stills, sorted; none of a still."""
    count = GUIDES_WITH_TAILS if shape.tails else GUIDES if shape.frames > 1 else 0
    return torch.randperm(shape.frames, generator=torch.Generator().manual_seed(index))[:count].sort().values.tolist()


def film(records: list[list[Scene]], shape: Shape, device: str = "cpu") -> Tensor:
    """Frames uint8 [n, T, H, W, 3] of some records; every shot begins at second `begin` of its own scene."""
    starts = [0, *(Strides().frames(cut) for cut in shape.cuts), shape.frames]
    times = [[shape.begin + k / shape.fps for k in range(b - a)] for a, b in zip(starts, starts[1:])]
    parts = render_batch(sum(records, []), times * len(records), shape.width, shape.height, device)
    return torch.cat(parts).unflatten(0, (len(records), shape.frames))


def encode(vae: VideoVAE, frames: Tensor, guides_at: list[int], tails: bool = False) -> dict[str, Tensor]:
    """Normalised latents of clips uint8 [n, T, H, W, 3], of their frames `guides_at` as stills (guide cells), and with `tails` of
    their second halves as spans."""
    x = pixels_of(frames).to(vae.conv2.weight)
    record = {"latents": normalise(vae.encode(x, None).float())}
    if guides_at:
        stills = x[:, :, guides_at].transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (n G) 3 1 H W
        record["guides"] = normalise(vae.encode(stills, None).float()).unflatten(0, (len(x), -1))
    if tails:
        cells = record["latents"].shape[2]
        span = x[:, :, vae.strides.frames(cells // 2 + 1) :]
        record["tail"] = normalise(encode_span(vae, span, starts_at_zero=False).float())
    return record


def make_shard(folder: Path, index: int, vae: VideoVAE, recipe: Recipe = Recipe()) -> bool:
    """Makes shard `index` on the device of the VAE, unless it is there or another process is at it; returns whether it was made."""
    path, lock = folder / f"{index:05d}.safetensors", folder / f"{index:05d}.lock"
    if path.exists():
        return False
    with lock.open("a+b") as held:
        if not try_lock(held):
            return False
        try:
            if path.exists():  # by now
                return False
            shape, device = plan(index, recipe), str(vae.conv2.weight.device)
            scenes = scenes_of(index, len(shape.cuts), SHARD, recipe)
            guides_at = guide_frames(index, shape)
            records = [encode(vae, film([shots], shape, device), guides_at, shape.tails) for shots in scenes]
            write_shard(path, Shard.of(records, shape, guides_at, scenes))
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                lock.unlink()
    return True


@torch.inference_mode()
def make_bank(folder: str, vae: VideoVAE, shards: int, recipe: Recipe = Recipe(), first: int = 0) -> None:
    """Makes `shards` shards in `folder`, from number `first` on."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    started, frames, made = time.monotonic(), 0, 0
    for index in range(first, first + shards):
        if make_shard(place, index, vae, recipe):
            made, frames = made + 1, frames + plan(index, recipe).frames * SHARD
            print(f"shard {index - first + 1}/{shards}  {frames / (time.monotonic() - started):.0f} frames a second", flush=True)
    if made < shards:
        print(f"{made} of {shards} shards made; the others are there, or another process is at them", flush=True)


@dataclass
class Shard:
    """Records of one shape. Latents are normalised; `tail` holds the cells from `cells // 2 + 1` on, encoded as a span.

    A record is told by the scenes of its shots, or, one shot only, by written captions. `bodies` is what `who_is_where` found.
    """

    shape: Shape
    guide_frames: list[int]
    scenes: list[list[Scene | tuple[str, ...]]]
    latents: Tensor  # n C F h w
    guides: Tensor | None = None  # n G C 1 h w
    tail: Tensor | None = None  # n C f h w
    bodies: Tensor | None = None  # n (F + G) h/2 w/2 FIELDS of bodies.py

    @classmethod
    def of(cls, records: list[dict[str, Tensor]], shape: Shape, guides_at: list[int], scenes: list) -> Shard:
        """A shard of what `encode` gave, in half precision."""
        tensors = {name: torch.cat([r[name] for r in records]).half() for name in records[0]}
        return cls(shape, guides_at, scenes, **tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are."""
        named = {"latents": self.latents, "guides": self.guides, "tail": self.tail}
        return {name: t for name, t in named.items() if t is not None}

    @property
    def has_story(self) -> bool:
        return any(isinstance(shots[0], Scene) and shots[0].has_story for shots in self.scenes)

    def who_is_where(self) -> Tensor | None:
        """Which body is at each token of all cells and then of all guide frames, in their middle: [n, F + G, h / 2, w / 2, FIELDS], on the
        CPU, where picking from it waits for no GPU; made once. None where written captions are all that is known."""
        if self.bodies is None:
            self.bodies = who_is_where(self.scenes, self.shape.moments(self.guide_frames), *self.shape.grid)
        return self.bodies


def write_shard(path: Path, shard: Shard) -> None:
    """Writes a shard whole or not at all."""
    shape = shard.shape
    facts = {"fps": shape.fps, "cuts": shape.cuts, "guide_frames": shard.guide_frames, "begin": shape.begin}
    facts["scenes"] = [[shot.to_json() if isinstance(shot, Scene) else list(shot) for shot in shots] for shots in shard.scenes]
    data = save({name: t.cpu().contiguous() for name, t in shard.tensors.items()}, {"bank": json.dumps(facts, ensure_ascii=False)})
    with atomic_path(path) as part:
        part.write_bytes(data)


def read_shard(path: Path) -> Shard:
    with safe_open(path, "pt") as f:
        facts = json.loads(f.metadata()["bank"])
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (safe_open is not a dict)
    scenes = [[tuple(shot) if isinstance(shot, list) else Scene.from_json(shot) for shot in shots] for shots in facts["scenes"]]
    strides, (cells, h, w) = Strides(), tensors["latents"].shape[2:]
    shape = Shape(strides.frames(cells), facts["fps"], w * strides.space, h * strides.space, "tail" in tensors, tuple(facts["cuts"]),
                  facts.get("begin", 0.0))  # fmt: skip
    return Shard(shape, facts["guide_frames"], scenes, **tensors)


class Bank:
    """All shards of a folder, found anew by `refresh` while others are being made."""

    def __init__(self, folder: str | Path, group: Group = ALONE):
        self.folder, self.group, self.shards, self.seen = Path(folder), group, [], set()
        self.refresh()
        if not self.shards:
            raise FileNotFoundError(f"no latent bank in {folder}: make one with `python -m sora_core.training bank --folder {folder}`")

    def refresh(self, share: float = 0.0) -> None:
        names = sorted(path.name for path in self.folder.glob("*.safetensors") if path.name not in self.seen)
        for name in self.group.broadcast_list(names):  # a process that looks later finds more
            self.shards.append(read_shard(self.folder / name))
            self.seen.add(name)
