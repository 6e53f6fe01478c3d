"""One process, or several that torchrun started: the same command for both.

    torchrun --nproc-per-node 8 -m -- sora_core.training transformer ...      # -- keeps torchrun from reading --start

Every process draws the same batches and computes its part of each; gradients are summed, so a step is that of one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Which of `size` processes this one is, and its device."""

    rank: int = 0
    size: int = 1
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    @classmethod
    def join(cls) -> Group:
        """The group that torchrun's environment describes, joined; one process without it."""
        if "RANK" not in os.environ:
            return cls()
        cuda = torch.cuda.is_available()
        if not dist.is_initialized():
            # The first process may read a long folder of videos while the others wait.
            dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=12))
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return cls(dist.get_rank(), dist.get_world_size(), cls.device)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until the device has done all it was given; for clocks."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over all processes; x itself is left as it is."""
        if self.size == 1:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x

    def sum_gradients(self, parameters: list[Tensor]) -> None:
        """Sums all gradients, in one message. What has none, as words have none in a batch that is told nothing, counts as zero; so it
        does in one process too, that several do the same."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if self.size == 1:
            for p, grad in zip(parameters, grads):
                p.grad = grad
            return
        flat = self.sum(torch.cat([g.flatten() for g in grads]))
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad = part.view(p.shape)

    def share_weights(self, module: torch.nn.Module) -> None:
        """Gives every process the first one's weights."""
        if self.size > 1:
            for p in module.parameters():
                dist.broadcast(p.data, 0)

    def broadcast(self, value: float) -> float:
        """The value of rank 0: clocks differ."""
        if self.size == 1:
            return value
        x = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(x, 0)
        return float(x)

    def broadcast_list(self, value: list[str]) -> list[str]:
        """The list of rank 0."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def bounds(self, count: int) -> tuple[int, int]:
        """Which of `count` things are this process's: from the first to before the second."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def gather(self, x: Tensor) -> Tensor:
        """Rows of all processes [n, ...] -> [size n, ...], in their order."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)


ALONE = Group()
