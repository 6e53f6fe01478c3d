"""A plan on the host's samplers: what one pass is there, where it can go on, and by what a job knows it again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..sora_core.jobs import SAVE_SECONDS, Job, Progress, content_hash
from ..sora_core.passes import mask_of, run_plan
from ..sora_core.plan import Pass, Plan, PlanSettings, window_of
from ..sora_core.storyboard import lattice_of
from .canvas import KEY, Given
from .graph_facts import FactsError, facts_above

RESUMABLE = ("euler", "heun")
"""Solvers of the host whose next step depends on nothing but the latents: these go on inside a pass."""


def jobs_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "sora_jobs"


# -- the plan ------------------------------------------------------------------------------------------------------------------------


def plan_for(model, positive, given: Given, known: frozenset[int]) -> Plan:
    """The plan of a canvas: its own settings, or what suits the MODEL.

    Args:
        positive: CONDITIONING; that of a storyboard has shots.
        known: numbers of the cells that are kept whole.

    Raises:
        ValueError: settings that do not fit the canvas or the MODEL.
    """
    from . import host

    header, ours = host.header_of(model), isinstance(model.model, host.SoraModel)
    settings, shape, shots = given.plan or PlanSettings(), given.canvas.shape, shots_of(positive)
    if settings.kind == "foresight" and not ours:
        raise ValueError("plan: foresight sees cells that are far apart, which this MODEL was not made for: use rollout")
    if settings.kind == "auto" and "context_handler" in model.model_options:
        settings = PlanSettings("single")  # the host's context windows cut the video themselves
    seconds = [shape.strides.time * k / shape.fps for k in range(shape.cells)]
    lattice = lattice_of(seconds, known, shots.starts if shots else (0.0,), shots.cuts if shots else (False,))
    return settings.plan(lattice, window_of(header, shape.strides), header.foresight and ours)


def shots_of(conditioning):
    """The Shots (storyboard.py) that a CONDITIONING carries; None if it is of plain words."""
    return next((extra[KEY] for _, extra in conditioning or () if KEY in extra), None)


# -- one pass ------------------------------------------------------------------------------------------------------------------------


@dataclass
class PassSampler:
    """The work of each pass, for `run_plan`.

    Args:
        run: the whole lattice as the host's sampler gets it (sample_video.Run).
        given: what its LATENT carries; None for a foreign one.
        solver: the host's SAMPLER.
        resumable: whether it can go on inside a pass.
        noise_of: seed -> noise [B, C, F, h, w] of the lattice, for passes that are made anew.
        told: the callback of the host's samplers, for the steps of all passes.
    """

    run: object
    plan: Plan
    given: Given | None
    positive: list
    negative: list
    guidance: float
    sigmas: Tensor
    seed: int
    solver: comfy.samplers.KSAMPLER
    resumable: bool
    noise_of: Callable[[int], Tensor]
    told: Callable

    def sample(self, job: Job | None) -> Tensor:
        """The latents [B, C, F, h, w] of the whole lattice."""
        latents = self.run.samples[:, :, : self.run.cells]
        wait = comfy.model_management.throw_exception_if_processing_interrupted
        return run_plan(self.plan, latents, self.make, job, self.facts, wait)

    def make(self, p: Pass, cells: Tensor, progress: Progress | None) -> Tensor:
        index, steps = self._index(p), len(self.sigmas) - 1
        done = steps * self.plan.passes.index(p)

        def told(i: int, x0: Tensor, x: Tensor, total: int) -> None:
            self.told(done + i, x0[:, :, : len(p.cells)], x, steps * len(self.plan.passes))

        guider = comfy.samplers.CFGGuider(self._model(index))
        guider.set_conds(self._heard(p), self.negative)
        guider.set_cfg(self.guidance)
        made = guider.sample(
            self._noise(p, index),
            torch.cat([cells, self._guides(p)], 2),
            resumed(self.solver, progress) if self.resumable and progress else self.solver,
            self.sigmas,
            denoise_mask=self._mask(p),
            callback=told,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self._seed(p),
        )
        return made[:, :, : len(p.cells)]

    def facts(self, p: Pass) -> list:
        """What determines a pass beside the latents of its cells and what all passes have in common."""
        index = self._index(p)
        words = [[rows, *_rest(extra)] for rows, extra in self._heard(p)]
        if (shots := shots_of(self.positive)) is not None:
            numbers = [self.plan.lattice.shots[k] for k in p.cells]
            words = [words, numbers, {i: shots.rows[i] for i in set(numbers)}]
        return [self._noise(p, index), self._mask(p), self._guides(p), self._positions(index), words, self._seed(p)]

    def _index(self, p: Pass) -> list[int]:
        """Its cells in the run, then the guides that stand between them."""
        if self.run.samples.shape[2] == self.run.cells:
            return p.cells
        canvas = self.given.canvas
        places = [guide.frame / canvas.shape.strides.time for guide in canvas.guides]
        return p.cells + [self.run.cells + i for i, place in enumerate(places) if p.cells[0] - 1 < place <= p.cells[-1]]

    def _guides(self, p: Pass) -> Tensor:
        return self.run.samples[:, :, self._index(p)[len(p.cells) :]]

    def _mask(self, p: Pass) -> Tensor | None:
        whole = self.run.mask
        mask = mask_of(p, whole)
        if mask is None:
            return None
        guides = self._guides(p)
        mask = mask.expand(max(len(mask), len(guides) if guides.shape[2] else 1), -1, -1, *self.run.samples.shape[3:])
        return torch.cat([mask, torch.zeros_like(guides[:, :1]).to(mask)], 2) if guides.shape[2] else mask

    def _noise(self, p: Pass, index: list[int]) -> Tensor:
        if p.seed is None:
            return self.run.noise[:, :, index]
        fresh = self.noise_of(p.seed)[:, :, p.cells]
        return torch.cat([fresh, torch.zeros_like(self._guides(p)).to(fresh)], 2)

    def _seed(self, p: Pass) -> int:
        """For solvers that draw noise themselves: not the same in every pass."""
        seed = self.seed if p.seed is None else p.seed
        return seed if len(self.plan.passes) == 1 else (seed + p.make[0]) % 2**64

    def _positions(self, index: list[int]) -> Tensor | None:
        positions = self.run.model.model_options["transformer_options"].get(KEY, {}).get("positions")
        return None if positions is None else positions[index]

    def _model(self, index: list[int]):
        positions = self._positions(index)
        if positions is None:
            return self.run.model
        model = self.run.model.clone()
        options = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
        options[KEY] = {**options[KEY], "positions": positions}
        return model

    def _heard(self, p: Pass) -> list:
        """The words of a pass. Our MODEL finds those of each cell itself; another hears those of the shot that the pass begins."""
        from . import host

        shots = shots_of(self.positive)
        if shots is None or isinstance(self.run.model.model, host.SoraModel):
            return self.positive
        rows = shots.rows[self.plan.lattice.shots[p.make[0]]]
        return [[rows, {name: value for name, value in extra.items() if name != KEY}] for _, extra in self.positive]


def _rest(extra: dict) -> list:
    return [{name: value for name, value in extra.items() if name != KEY}]


def resumed(solver: comfy.samplers.KSAMPLER, progress: Progress) -> comfy.samplers.KSAMPLER:
    """The solver, saving where it is and beginning where it was."""

    def go_on(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        saved = progress.load()
        done = int(saved["done"]) if saved else 0

        def told(state: dict) -> None:
            step = done + state["i"]
            progress.save({"done": torch.tensor(step), "x": state["x"]})
            if callback:
                callback({**state, "i": step})

        x = saved["x"].to(x) if saved else x
        return solver.sampler_function(model, x, sigmas[done:], extra_args=extra_args, callback=told, disable=disable, **options)

    return comfy.samplers.KSAMPLER(go_on, solver.extra_options, solver.inpaint_options)


# -- the job -------------------------------------------------------------------------------------------------------------------------


def job_for(passes: PassSampler, hidden, links: tuple[str, ...], settings: list) -> Job | None:
    """The job of a run; None, said in the log, where it cannot be told by what the run is determined.

    Args:
        hidden: of the node: the prompt and its own number in it; None without a graph.
        links: inputs that are known by the graph above them.
        settings: values that count for all passes.
    """
    node = hidden and (hidden.prompt or {}).get(hidden.unique_id)
    if node is None:  # called by a program, or part of a graph that grows while it runs
        return None
    try:
        graph = [facts_above(hidden.prompt, node["inputs"][name]) for name in links if name in node["inputs"]]
        negative = [[rows, *_rest(extra)] for rows, extra in passes.negative]
        common = [graph, settings, negative, passes.guidance, passes.sigmas]
        content_hash([common, *(passes.facts(p) for p in passes.plan.passes[:1])])
    except (FactsError, TypeError) as error:
        logging.info(f"Sora: this run is not kept for a restart: {error}")
        return None
    shape = passes.given.canvas.shape if passes.given else None
    size = f"{shape.width}x{shape.height}, {shape.seconds:g} s, " if shape else ""
    # A short run in one pass is made again faster than it is found.
    least = 0.0 if len(passes.plan.passes) > 1 else SAVE_SECONDS
    return Job(jobs_folder(), passes.plan, common, f"{size}seed {passes.seed}", least=least)
