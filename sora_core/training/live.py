"""A latent bank in the memory of the device that trains: other processes render and encode it while training goes on, never on a disk.

A training step of a small model is a thousand short kernels, whose launching keeps one processor busy and leaves the device idle half
of the time; what others render and encode meanwhile fills it.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..autoencoder import VideoVAE
from ..config import VAEConfig
from ..shapes import PATCH, Strides
from ..world import Scene
from .bank import SHARD, Shape, Shard, encode, film, guide_frames, plan, scenes_of
from .feed import workers
from .group import ALONE, Group
from .objective import REPEATS_CLIP, REPEATS_STILL

FIRST_SHARDS = 6  # stills and clips, before training begins
MOST_RECORDS = 4 * SHARD  # of a shard: stills take as long to sample and render as the beginning of a clip
PIXELS_AT_ONCE = 512 * 128 * 128  # rendered and encoded in one piece: about 2 GB in bfloat16, in each maker


@dataclass(frozen=True)
class Order:
    """What is to be made of shard `index`: records `first` to before `last` of `count`."""

    index: int
    shape: Shape
    stage: str
    count: int
    first: int
    last: int


@torch.inference_mode()
def make(order: Order, vae: VideoVAE) -> tuple[dict[str, torch.Tensor], list[list[Scene]]]:
    """Latents of the records ordered, in half precision on the device of `vae`, and the scenes of all records."""
    shape, device = order.shape, vae.conv2.weight.device.type
    scenes = scenes_of(order.index, len(shape.cuts), order.count, order.stage)
    own = scenes[order.first : order.last]
    at_once = max(1, PIXELS_AT_ONCE // (shape.frames * shape.width * shape.height)) if device != "cpu" else 1  # fits in a cache
    parts = [own[i : i + at_once] for i in range(0, len(own), at_once)]
    records = [encode(vae, film(part, shape, device), guide_frames(order.index, shape), shape.tails) for part in parts]
    return {name: torch.cat([record[name] for record in records]).half() for name in records[0]}, scenes


_makers: dict[str, VideoVAE] = {}  # of this process, if it is a maker


def _open(config: VAEConfig, weights: bytes, dtype: torch.dtype, device: str) -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    vae = VideoVAE(config, dtype=dtype).eval()
    vae.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True, map_location="cpu"))
    _makers["vae"] = vae.to(device).channels_last()


def _packed(vae: VideoVAE) -> tuple[VAEConfig, bytes, torch.dtype]:
    weights = io.BytesIO()
    torch.save(vae.state_dict(), weights)
    return vae.config, weights.getvalue(), vae.conv2.weight.dtype


def _deliver(order: Order) -> tuple[dict[str, np.ndarray], list[list[Scene]]]:
    tensors, scenes = make(order, _makers["vae"])
    return {name: t.cpu().numpy() for name, t in tensors.items()}, scenes


class LiveBank:
    """Shards in the order of a stage's plan, and more of them as long as there are makers.

    Args:
        vae: on the device, ready to encode.
        tokens: of a training step; a shard has as many records as fill one.
        stage: a name in bank.STAGES.
        first: index of the first shard; another one gives other scenes.
        scale: of width and height.
        makers: processes that render and encode; with 0 this one makes the first shards, and no more.
        group: of several processes each has makers of its own, for its part of every shard.
    """

    def __init__(self, vae: VideoVAE, tokens: int, stage: str = "S2", *, first: int = 0, scale: float = 1.0, makers: int = 0,
                 group: Group | None = None):  # fmt: skip
        plan(0, stage)  # an unknown stage is refused here
        self.vae, self.tokens, self.stage, self.scale, self.group = vae, tokens, stage, scale, group or ALONE
        self.next, self.shards = first, []
        self.pool: Executor | None = workers(makers, _open, (*_packed(vae), self.group.device)) if makers else None
        self.ordered: deque[tuple[Order, Future]] = deque()
        for _ in range(2 * makers):
            self._order()

    def refresh(self) -> None:
        """Takes what the makers have done, and orders as much again; waits for the first shards."""
        while len(self.shards) < FIRST_SHARDS:
            self.shards.append(self.make())
        ready = 0
        while ready < len(self.ordered) and self.ordered[ready][1].done():
            ready += 1
        for _ in range(int(self.group.agree(ready))):
            self.shards.append(self.make())

    def close(self) -> None:
        """Sends the makers home."""
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def shape(self, index: int) -> Shape:
        shape, multiple = plan(index, self.stage), Strides().size_multiple
        width, height = (max(multiple, round(side * self.scale / multiple) * multiple) for side in (shape.width, shape.height))
        return replace(shape, width=width, height=height)

    def records(self, shape: Shape) -> int:
        """How many records fill a step, a multiple of the processes."""
        strides = Strides()
        per_cell = shape.width * shape.height // (strides.space * PATCH) ** 2
        repeats = REPEATS_STILL if shape.frames == 1 else REPEATS_CLIP
        count = self.tokens // (per_cell * strides.cells(shape.frames) * repeats)
        return -(-max(2, min(count, MOST_RECORDS)) // self.group.size) * self.group.size

    def make(self) -> Shard:
        """The next shard: what was ordered first, or one made here."""
        if self.ordered:
            order, job = self.ordered.popleft()
            arrays, scenes = job.result()
            own = {name: torch.from_numpy(array).to(self.group.device) for name, array in arrays.items()}
            self._order()
        else:
            order = self._next_order()
            own, scenes = make(order, self.vae)
        shape, guides_at = order.shape, guide_frames(order.index, order.shape)
        return Shard(shape.fps, list(shape.cuts), guides_at, scenes, **{name: self.group.gather(t) for name, t in own.items()})

    def _order(self) -> None:
        order = self._next_order()
        self.ordered.append((order, self.pool.submit(_deliver, order)))

    def _next_order(self) -> Order:
        index, self.next = self.next, self.next + 1
        shape = self.shape(index)
        count = self.records(shape)
        return Order(index, shape, self.stage, count, *self.group.bounds(count))
