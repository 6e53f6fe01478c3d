"""A plan on the host's samplers: what one pass is there, where it can go on, and by what a job knows it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import comfy.clip_vision
import comfy.model_base
import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..sora_core.denoise import Noise, renewed
from ..sora_core.jobs import SAVE_SECONDS, Job, Progress
from ..sora_core.passes import mask_of, run_plan, stacked
from ..sora_core.plan import Pass, Plan, PlanSettings, window_of
from ..sora_core.storyboard import lattice_of
from . import host
from .given import KEY, Given
from .graph_facts import FactsError, facts_of
from .host_models import continued
from .shots import heard_in, shots_of

ANCESTRAL = "sora_ancestral"
"""Our own solver among the host's: what it draws on the way belongs to moments, as all our noise does."""

RESUMABLE = (ANCESTRAL, "euler", "heun")
"""Solvers whose next step depends on nothing but the latents and the noise level: these go on inside a pass."""


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
    header, ours = host.header_of(model), isinstance(model.model, host.SoraModel)
    settings, shape, shots = given.plan or PlanSettings(), given.canvas.shape, shots_of(positive)
    if settings.kind == "foresight" and not ours:
        raise ValueError("plan: foresight sees cells that are far apart, which this MODEL was not made for: use rollout")
    starts, cuts = (shots.starts, shots.cuts) if shots else ((0.0,), (False,))
    if settings.seeds and settings.starts not in ((), starts):
        raise ValueError(
            "latent: 'redo' of Sora Plan numbers the passes of other shots: connect the same CONDITIONING to its 'positive' as here"
        )
    lattice = lattice_of(shape.seconds_of_cells, known, starts, cuts)
    windowed = "context_handler" in model.model_options  # the host's context windows cut the video themselves
    if settings.kind == "auto" and not ours and len(lattice.runs) > 1:
        settings = replace(settings, kind="rollout")  # another MODEL hears one shot in a pass, and no window crosses a border
    elif settings.kind == "auto" and (windowed or not isinstance(model.model, comfy.model_base.WAN21)):
        settings = replace(settings, kind="single")  # how long a video of other families may be is not known
    return settings.plan(lattice, window_of(header, shape.strides), header.foresight and ours)


# -- one pass ------------------------------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """One MODEL's part of a run: the whole lattice as its sampler gets it (run.Run), noise levels, words."""

    run: object
    sigmas: Tensor
    positive: list
    negative: list


class Layout(NamedTuple):
    """What of a Run belongs to a pass: its cells, then the guides that stand between them."""

    noise: Tensor
    guides: Tensor
    mask: Tensor | None
    positions: Tensor | None

    @classmethod
    def of_group(cls, layouts: list[Layout]) -> Layout:
        """That of passes which look alike, in a row."""
        noise, guides, masks, positions = zip(*layouts, strict=True)
        return cls(torch.cat(noise), torch.cat(guides), stacked([*masks], len(noise[0])), positions[0])


@dataclass
class PassSampler:
    """The work of each pass, for `run_plan`.

    Args:
        stages: one, or those of a pair of MODELs.
        given: what the LATENT carries; None for a foreign one.
        solver: the host's SAMPLER; None for our own.
        resumable: whether the solver can go on inside a pass.
        noise_of: (seed, level, cells) -> noise [B, C, f, h, w] of some cells, for passes that are made anew and for our own solver.
        told: the callback of the host's samplers, for the steps of all passes.
        at_once: as run_plan has it.
    """

    stages: list[Stage]
    plan: Plan
    given: Given | None
    guidance: float
    seed: int
    solver: comfy.samplers.KSAMPLER | None
    resumable: bool
    noise_of: Callable[[int, float, list[int]], Tensor]
    told: Callable
    at_once: int = 0

    def sample(self, job: Job | None) -> Tensor:
        """The latents [B, C, F, h, w] of the whole lattice."""
        stop = comfy.model_management.throw_exception_if_processing_interrupted
        return run_plan(self.plan, self.start, self.make, job, stop, self.at_once)

    @property
    def start(self) -> Tensor:
        run = self.stages[0].run
        return run.samples[:, :, : run.cells]

    def make(self, group: list[Pass], cells: list[Tensor], progress: Progress | None) -> list[Tensor]:
        made, done, first, batch = None, 0, group[0], len(cells[0])
        progress = progress if self.resumable else None
        saved = progress and progress.load()
        begun = int(saved["stage"]) if saved and "stage" in saved else 0
        for number, stage in enumerate(self.stages):
            if number < begun:  # a MODEL whose steps were all done before
                done += len(stage.sigmas) - 1
                continue
            layouts = [self._layout(stage, p) for p in group]
            layout = Layout.of_group(layouts)
            samples = torch.cat([torch.cat(cells), layout.guides], 2)

            def noise(level: float, layouts=layouts) -> Tensor:
                return torch.cat([self._noise(p, of_pass.guides, level) for p, of_pass in zip(group, layouts, strict=True)])

            solver = self.solver or ancestral(noise)
            if made is not None:
                samples = continued(stage.run.model.model, made, layout.noise, samples, layout.mask, float(stage.sigmas[0]))
            guider = comfy.samplers.CFGGuider(_placed(stage.run.model, layout.positions))
            guider.set_conds(self._heard(stage, stage.positive, first, cells[0]), self._heard(stage, stage.negative, first, cells[0]))
            guider.set_cfg(self.guidance)
            made = guider.sample(
                layout.noise,
                samples,
                resumed(solver, progress, number, saved if number == begun else None) if progress else solver,
                stage.sigmas,
                denoise_mask=layout.mask,
                callback=self._told_in(group, done),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=self._seed(first),
            )
            done += len(stage.sigmas) - 1
        return list(made[:, :, : len(first.cells)].split(batch))

    def facts(self, p: Pass) -> list:
        """What determines a pass beside the latents of its cells and what all passes have in common."""
        shots = [self.plan.lattice.shot_of(k) for k in p.cells + [math.ceil(place) for _, place in self._guides_of(p)]]
        said = [[_said(words, set(shots)) for words in (stage.positive, stage.negative)] for stage in self.stages]
        return [said, shots, *([*self._layout(stage, p)] for stage in self.stages), self._seed(p)]

    def _layout(self, stage: Stage, p: Pass) -> Layout:
        run = stage.run
        guides = [run.cells + i for i, _ in self._guides_of(p)] if run.samples.shape[2] > run.cells else []
        index, shown = p.cells + guides, run.samples[:, :, guides]
        noise = run.noise[:, :, index]
        if p.seed is not None:
            noise = self._noise(p, shown)
        mask = mask_of(p, run.mask)
        if mask is not None:
            mask = mask.expand(-1, -1, -1, *run.samples.shape[3:])
            mask = torch.cat([mask.expand(len(shown), -1, -1, -1, -1), torch.zeros_like(shown[:, :1]).to(mask)], 2) if guides else mask
        positions = run.model.model_options["transformer_options"].get(KEY, {}).get("positions")
        return Layout(noise, shown, mask, None if positions is None else positions[index])

    def _guides_of(self, p: Pass) -> list[tuple[int, float]]:
        """Number and place, in cells, of those that a pass sees."""
        if self.given is None:
            return []
        places = [guide.frame / self.given.canvas.shape.strides.time for guide in self.given.canvas.guides]
        return [(i, places[i]) for i in self.plan.lattice.guides_of(p, places)]

    def _noise(self, p: Pass, guides: Tensor, level: float = 1.0) -> Tensor:
        """Of the cells of a pass; the guides behind them have none."""
        seed = self.seed if p.seed is None else p.seed
        return torch.cat([self.noise_of(seed, level, p.cells), torch.zeros_like(guides)], 2)

    def _seed(self, p: Pass) -> int:
        """For solvers that draw noise themselves: not the same in every pass."""
        seed = self.seed if p.seed is None else p.seed
        return seed if len(self.plan.passes) == 1 else (seed + p.make[0]) % 2**64

    def _told_in(self, group: list[Pass], before: int) -> Callable:
        """Of a group every step counts for all its passes, the last of which is told."""
        steps, count, cells = sum(len(stage.sigmas) - 1 for stage in self.stages), len(group), len(group[0].cells)
        done = steps * self._order.index(self.plan.passes.index(group[0])) + count * before
        return lambda i, x0, x, _: self.told(done + count * (i + 1) - 1, x0[:, :, :cells], x, steps * len(self._order))

    @cached_property
    def _order(self) -> list[int]:
        """Numbers of the passes as they run."""
        return [number for numbers in self.plan.groups(self.at_once) for number in numbers]

    def _heard(self, stage: Stage, words: list, p: Pass, cells: Tensor) -> list:
        """The words of a pass. Our MODEL finds those of each cell itself; another hears those of the shot that the pass begins."""
        if isinstance(stage.run.model.model, host.SoraModel):
            return words
        heard = []
        for rows, extra in words:
            rows, extra = heard_in(rows, extra, self.plan.lattice.shot_of(p.make[0]))
            heard.append([rows, _of_cells(extra, p, cells, self.plan.lattice.cells)])
        return heard


def _placed(model, positions: Tensor | None):
    """The MODEL with the positions of a pass."""
    if positions is None:
        return model
    placed = model.clone()
    # The host looks for the parent of a MODEL whose run has failed; `model` is a clone too, and would be gone with it.
    placed.parent = model.parent
    options = placed.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    options[KEY] = {**options[KEY], "positions": positions}
    return placed


def _of_cells(extra: dict, p: Pass, cells: Tensor, count: int) -> dict:
    """What image-to-video models are told of the whole lattice, for the cells of a pass: those it sees are given too."""
    image, mask = extra.get("concat_latent_image"), extra.get("concat_mask")
    if image is None or mask is None or image.shape[2] != count or mask.shape[2] != count:
        return extra
    seen = p.seen_at
    image, mask = image[:, :, p.cells].expand(len(cells), -1, -1, -1, -1).clone(), mask[:, :, p.cells].clone()
    image[:, :, seen], mask[:, :, seen] = cells[:, :, seen].to(image), 0
    return {**extra, "concat_latent_image": image, "concat_mask": mask}


def _said(words: list, shots: set[int]) -> list:
    """The content of a CONDITIONING for cells of these shots, as a nest for `content_hash`."""
    heard = [[heard_in(rows, extra, shot) for shot in sorted(shots)] for rows, extra in words]
    return [[(rows, {name: _content(value) for name, value in extra.items()}) for rows, extra in entry] for entry in heard]


def _content(value):
    """What CLIP Vision saw is an object of the host around tensors."""
    return vars(value) if isinstance(value, comfy.clip_vision.Output) else value


def ancestral(noise: Noise) -> comfy.samplers.KSAMPLER:
    """`denoise.ancestral` as the host calls its solvers: `model` gives clean latents."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        levels = sigmas.tolist()
        for i, (sigma, to) in enumerate(zip(levels, levels[1:])):
            x0 = model(x, sigmas[i].expand(len(x)), **(extra_args or {}))
            if callback:
                callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": x0})
            x = renewed(x0, (x - (1 - sigma) * x0) / sigma, sigma, to, noise)
        return x

    return comfy.samplers.KSAMPLER(sample)


def resumed(solver: comfy.samplers.KSAMPLER, progress: Progress, stage: int, saved: dict[str, Tensor] | None) -> comfy.samplers.KSAMPLER:
    """The solver of a stage, saving where it is and beginning where it was, `saved`."""

    def go_on(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        done = int(saved["done"]) if saved else 0

        def told(state: dict) -> None:
            step = done + state["i"]
            progress.save({"stage": torch.tensor(stage), "done": torch.tensor(step), "x": state["x"]})
            if callback:
                callback({**state, "i": step})

        x = saved["x"].to(x) if saved else x
        return solver.sampler_function(model, x, sigmas[done:], extra_args=extra_args, callback=told, disable=disable, **options)

    return comfy.samplers.KSAMPLER(go_on, solver.extra_options, solver.inpaint_options)


# -- the job -------------------------------------------------------------------------------------------------------------------------


def job_for(passes: PassSampler, hidden, links: dict[str, object], settings: list) -> tuple[Job | None, str]:
    """The job of a run; or None and, for the node, why it cannot be told by what the run is determined.

    Args:
        hidden: of the node: the prompt and its own number in it; None without a graph.
        links: inputs that are known by the graph above them, with what came through.
        settings: values that count for all passes.
    """
    node = hidden and (hidden.prompt or {}).get(hidden.unique_id)
    if node is None:  # called by a program, or part of a graph that grows while it runs
        return None, ""
    shape = passes.given.canvas.shape if passes.given else None
    size = f"{shape.width}x{shape.height}, {shape.seconds:g} s, " if shape else ""
    # A short run in one pass is made again faster than it is found.
    least = 0.0 if len(passes.plan.passes) > 1 else SAVE_SECONDS
    try:
        graph = [facts_of(thing, hidden.prompt, node["inputs"][name]) for name, thing in links.items() if name in node["inputs"]]
        # The frames a second place the cells of Wan in time, which no tensor of a pass shows.
        common = [graph, settings, passes.guidance, [stage.sigmas for stage in passes.stages], shape and shape.fps]
        each = [passes.facts(p) for p in passes.plan.passes]
        return Job(jobs_folder(), passes.plan, common, each, passes.start, f"{size}seed {passes.seed}", least=least), ""
    except (FactsError, TypeError) as error:
        return None, f"this run is not kept for a restart: {error}"
