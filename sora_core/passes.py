"""Runs a plan: pass by pass, whoever does the work of one, with what was made kept in a job."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .jobs import Job, Progress
from .plan import Pass, Plan, check


def run_plan(
    plan: Plan,
    latents: Tensor,
    make: Callable[[Pass, Tensor, Progress | None], Tensor],
    job: Job | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Tensor:
    """All cells, pass by pass.

    Args:
        latents: [B, C, F, h, w], the given cells as they are.
        make: the work of a pass: gets it, the latents [B, C, f, h, w] of its cells as they are now, and where to save how far it is;
            returns the latents of its cells, the seen ones untouched.
        job: keeps what is made; None keeps nothing.
        waiting: see Job.result.

    Raises:
        ValueError: a plan that makes a cell twice or never, or sees what is not there.
    """
    check(plan)
    latents = latents.clone()
    for number, p in enumerate(plan.passes):
        cells = latents[:, :, p.cells]

        def work(progress: Progress | None, p=p, cells=cells) -> Tensor:
            return make(p, cells, progress)[:, :, p.made_at]

        made = work(None) if job is None else job.result(number, cells, work, waiting)
        latents[:, :, list(p.make)] = made.to(latents)
    return latents


def known_cells(mask: Tensor | None) -> frozenset[int]:
    """Numbers of the cells that a mask [B, 1, F, H, W] keeps whole, in all videos."""
    if mask is None:
        return frozenset()
    return frozenset((mask.float().amax((0, 1, 3, 4)) == 0).nonzero().flatten().tolist())


def mask_of(p: Pass, mask: Tensor | None) -> Tensor | None:
    """The mask of the cells of a pass: 0 too where they are only seen. None where all are made whole."""
    if mask is None and not p.see:
        return None
    part = torch.ones(1, 1, len(p.cells), 1, 1) if mask is None else mask[:, :, p.cells].clone()
    part[:, :, p.seen_at] = 0
    return part
