"""Runs a plan, one pass or one batch of passes at a time, whoever does the work; results are kept in a job."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .jobs import Job, Progress
from .plan import Pass, Plan, check

Make = Callable[[list[Pass], list[Tensor], Progress | None], list[Tensor]]
"""Gets passes, the latents [B, C, f, h, w] of the cells of each as they are now, and where to save how far it is; returns the latents of
their cells, the seen ones untouched."""

TOKENS_AT_ONCE = 8_192
"""Tokens of one batched forward of several passes: they fill a GPU, and take about 300 MB with a small model."""


def run_plan(
    plan: Plan,
    latents: Tensor,
    make: Make,
    job: Job | None = None,
    waiting: Callable[[], None] = lambda: None,
    at_once: int = 0,
) -> Tensor:
    """All cells, group of passes by group.

    Args:
        latents: [B, C, F, h, w], the given cells as they are.
        make: the work of a group of passes.
        job: keeps what is made; None keeps nothing.
        waiting: see Job.results.
        at_once: cells of one forward; passes that fit and do not need one another share it (Plan.groups). 0 makes them one by one.

    Raises:
        ValueError: a plan that makes a cell twice or never, or sees what is not there.
    """
    check(plan)
    latents = latents.clone()
    for numbers in plan.groups(at_once):
        group = [plan.passes[number] for number in numbers]
        cells = [latents[:, :, p.cells] for p in group]

        def work(progress: Progress | None, group=group, cells=cells) -> list[Tensor]:
            made = make(group, cells, progress)
            return [whole[:, :, p.made_at] for p, whole in zip(group, made, strict=True)]

        made = work(None) if job is None else job.results(numbers, cells, work, waiting)
        for p, part in zip(group, made, strict=True):
            latents[:, :, list(p.make)] = part.to(latents)
    return latents


def at_once_on(device: str | torch.device, tokens_per_cell: int, batch: int) -> int:
    """`at_once` for `run_plan`: one short pass leaves most of a GPU idle, but not a CPU; more videos than one fill it by themselves."""
    return TOKENS_AT_ONCE // tokens_per_cell if batch == 1 and torch.device(device).type != "cpu" else 0


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


def stacked(masks: list[Tensor | None], batch: int) -> Tensor | None:
    """Masks of passes that look alike as one, for their latents in a row, `batch` videos each."""
    if masks[0] is None:
        return None
    return torch.cat([mask.expand(batch, -1, -1, -1, -1) for mask in masks])
