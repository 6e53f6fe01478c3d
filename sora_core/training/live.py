"""A latent bank in the memory of the device that trains: rendered and encoded there while training goes on, never on a disk.

In the process that trains: processes share a GPU by taking turns, and seven that rendered beside a training slowed it down three times.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace

import torch
from torch import Tensor

from ..autoencoder import VideoVAE
from ..shapes import PATCH, Strides
from .bank import SHARD, Recipe, Shape, Shard, encode, film, guide_frames, plan, scenes_of
from .bodies import who_is_where
from .feed import workers
from .group import ALONE, Group
from .objective import REPEATS_CLIP, REPEATS_STILL

MOST_RECORDS = 4 * SHARD  # of a shard: a still takes a GPU as long as the beginning of a clip
FIRST_SHARDS = 12  # before training begins: of several shapes at least
PIXELS_AT_ONCE = 1024 * 128 * 128  # rendered and encoded in one piece: about 4 GB in bfloat16


class LiveBank:
    """Grows along with the budget of a run, quickly at first.

    Args:
        vae: on the device, ready to encode.
        tokens: of a training step; a shard has as many records as fill one.
        recipes: what the shards show, each in turn.
        seconds: of rendering and encoding, over the whole run.
        first: index of the first shard; another one gives other scenes.
        scale: of width and height.
        pool: samples the scenes ahead; default this process, when they are needed.
        asking: whether the middle of the transformer is asked who is where.
    """

    def __init__(self, vae: VideoVAE, tokens: int, recipes: Sequence[Recipe] = (Recipe(),), *, seconds: float = 0.0, first: int = 0,
                 scale: float = 1.0, pool: Executor | None = None, ahead: int = 0, asking: bool = False,
                 group: Group | None = None):  # fmt: skip
        self.vae, self.tokens, self.recipes, self.seconds, self.scale = vae, tokens, recipes, seconds, scale
        self.pool, self.ahead, self.group, self.asking = pool or workers(0), ahead, group or ALONE, asking
        self.next, self.spent, self.began = first, 0.0, None
        self.shards: list[Shard] = []
        self.waiting: deque[tuple[int, Future]] = deque()

    def refresh(self, share: float) -> None:
        """Makes what should be there when `share` of the run's budget is used: a tenth at once, all at three fifths."""
        self.began = share if self.began is None else self.began
        done = (share - self.began) / max(1e-9, 1 - self.began)
        due = self.seconds * min(1.0, 0.1 + 1.5 * done)
        while len(self.shards) < FIRST_SHARDS or self.group.broadcast(self.spent) < due:
            self.group.wait()
            started = time.monotonic()
            self.shards.append(self.make())
            self.group.wait()
            self.spent += time.monotonic() - started

    def recipe(self, index: int) -> Recipe:
        return self.recipes[index % len(self.recipes)]

    def shape(self, index: int) -> Shape:
        shape, multiple = plan(index // len(self.recipes), self.recipe(index)), Strides().size_multiple
        width, height = (max(multiple, round(side * self.scale / multiple) * multiple) for side in (shape.width, shape.height))
        return replace(shape, width=width, height=height)

    def records(self, shape: Shape) -> int:
        """How many records fill a step, a multiple of the processes."""
        strides = Strides()
        per_cell = shape.width * shape.height // (strides.space * PATCH) ** 2
        repeats = REPEATS_STILL if shape.frames == 1 else REPEATS_CLIP
        count = self.tokens // (per_cell * strides.cells(shape.frames) * repeats)
        return -(-max(2, min(count, MOST_RECORDS)) // self.group.size) * self.group.size

    def scenes(self) -> tuple[int, list, Tensor | None]:
        """Index of the next shard and its `cast`, while the pool is at those after it."""
        while len(self.waiting) <= self.ahead:
            shape = self.shape(self.next)
            job = self.pool.submit(cast, self.next, shape, self.records(shape), self.recipe(self.next), self.asking)
            self.waiting.append((self.next, job))
            self.next += 1
        index, job = self.waiting.popleft()
        return index, *job.result()

    @torch.inference_mode()
    def make(self) -> Shard:
        """The next shard; of several processes each renders its part of it."""
        index, scenes, bodies = self.scenes()
        shape = self.shape(index)
        guides_at = guide_frames(index, shape)
        first, last = self.group.bounds(len(scenes))
        own = scenes[first:last]
        at_once = max(1, PIXELS_AT_ONCE // (shape.frames * shape.width * shape.height))
        if self.group.device == "cpu":
            at_once = 1  # what fits in a cache is faster there
        parts = [own[i : i + at_once] for i in range(0, len(own), at_once)]
        records = [encode(self.vae, film(part, shape, self.group.device), guides_at, shape.tails) for part in parts]
        shard = Shard.of(records, shape, guides_at, scenes)
        return replace(shard, **{name: self.group.gather(t) for name, t in shard.tensors.items()}, bodies=bodies)


def cast(index: int, shape: Shape, count: int, recipe: Recipe, asking: bool) -> tuple[list, Tensor | None]:
    """The scenes of a shard, and who is where in them if that is asked: slow, and no work for a GPU."""
    scenes = scenes_of(index, len(shape.cuts), count, recipe)
    if not asking:
        return scenes, None
    return scenes, who_is_where(scenes, shape.moments(guide_frames(index, shape)), *shape.grid)
