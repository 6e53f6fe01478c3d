"""MODEL + CONDITIONING + LATENT -> LATENT: SoraSampler, SoraNoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..sora_core.canvas import Canvas
from ..sora_core.config import ModelHeader
from ..sora_core.flow import cell_noise
from ..sora_core.generate import GUIDANCE, STEPS
from ..sora_core.passes import at_once_on
from ..sora_core.plan import Lattice, single, summary
from ..sora_core.shapes import Strides
from . import host
from .checks import check, check_sigmas, check_solver
from .costs import check_memory
from .given import Given, given_of, restored, sampled, samples_of, without_stale_mask
from .host_models import (
    conditions,
    empty_prompt,
    image_to_video,
    limits,
    with_entries,
)
from .known import enlarged, to_host
from .passes import ANCESTRAL, RESUMABLE, PassSampler, Stage, job_for, plan_for
from .place import shots_on, with_shots
from .run import prepare
from .shots import disagreement, shots_in, shots_of
from .show import show_on_node

MAX_SEED = 0xFFFFFFFFFFFFFFFF
PREVIEW_CELLS = 4


def model_input():
    said = "From Sora Load Model; or from Load Diffusion Model: Wan 2.1 and 2.2, LTX-Video, HunyuanVideo and others."
    return io.Model.Input("model", tooltip=said)


def seed_input(tooltip: str):
    fixed = io.ControlAfterGenerate.fixed
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=fixed, tooltip=tooltip)


class SoraSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraSampler",
            display_name="Sora Sampler",
            category="Sora/sampling",
            description="Turns noise into video latents that follow the words and keep what the canvas gives. Takes every video model.",
            search_aliases=["sora sampler", "KSampler", "generate video", "denoise", "sample"],
            inputs=[
                model_input(),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Latent.Input("latent", tooltip="The canvas."),
                seed_input("Chooses the noise. The same seed gives the same video, and each moment of a longer one the same noise."),
                io.Int.Input(
                    "steps",
                    default=STEPS,
                    min=1,
                    max=1000,
                    tooltip="Number of denoising steps. More take longer and add detail, up to about 30.",
                ),
                io.Float.Input(
                    "guidance",
                    default=GUIDANCE,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip=(
                        "How strongly the words count, as a factor. 1 follows them as trained and takes half the time; 3.5 suits the "
                        "shipped model, 2 where it goes on from a given video, 5 to 7 the public Wan models."
                    ),
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[ANCESTRAL, *comfy.samplers.SAMPLER_NAMES],
                    default=ANCESTRAL,
                    tooltip=(
                        "The solver. sora_ancestral renews a part of the noise at every step, so early mistakes are mended: "
                        "euler_ancestral, with noise that belongs to moments. The others are ComfyUI's."
                    ),
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", tooltip="How the noise levels are spaced."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Share of the noise that is put on and taken off, 0 to 1. Below 1 the latent's own content is kept in part; Sora "
                        "Remix sets a limit of its own."
                    ),
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="What the video does not show. Left open: the empty prompt."),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Noise levels in place of steps, scheduler, denoise and the strength of Sora Remix."
                ),
                io.Sampler.Input("sampler", optional=True, tooltip="A solver in place of sampler_name."),
                io.Noise.Input("noise", optional=True, tooltip="Noise in place of that of the seed."),
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip="The second MODEL of a pair, as Wan 2.2 A14B is one: takes over below switch_sigma.",
                ),
                io.Float.Input(
                    "switch_sigma",
                    default=0.875,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Noise level, 0 to 1, below which low_noise_model works. Wan 2.2: 0.875 for text, 0.9 for image to video.",
                ),
                io.Float.Input(
                    "motion",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.1,
                    optional=True,
                    tooltip=(
                        "How strongly the words count for what moves, and for the camera, beside all else they say, as a factor: a part of "
                        "guidance. 1 suits the model, with more it moves more. Takes no time; does nothing where guidance is 1."
                    ),
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The video as latents, for Sora Decode.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent,
        seed,
        steps,
        guidance,
        sampler_name,
        scheduler,
        denoise,
        negative=None,
        sigmas=None,
        sampler=None,
        noise=None,
        low_noise_model=None,
        switch_sigma=0.875,
        motion=1.0,
    ) -> io.NodeOutput:
        latent, remarks = without_stale_mask(restored(latent, cls.hidden))
        models = [m for m in (model, low_noise_model) if m is not None]
        for m in models:
            check(m, positive, negative, latent)
            if sampler is None:
                check_solver(m, sampler_name)
            if sigmas is not None:
                check_sigmas(m, sigmas, sampler is None and sampler_name == ANCESTRAL)
        latent, positive = with_shots(enlarged(latent), positive)
        given, negative = given_of(latent), shots_on(latent, negative)
        remarks += disagreement(given and given.canvas, shots_of(positive))
        if sigmas is None:
            denoise = min(denoise, given.strength) if given else denoise
            solver_name = "euler" if sampler_name == ANCESTRAL else sampler_name
            sigmas = comfy.samplers.KSampler(model, steps, model.load_device, solver_name, scheduler, denoise).sigmas
        elif len(sigmas) < 2:
            note = "sigmas hold no step: nothing is made"
            show_on_node(cls, note)
            return io.NodeOutput(latent, ui=ui.PreviewText(note))
        elif given and given.strength < 1:
            remarks.append(f"begins where the given sigmas do, not at {given.strength:g} of the noise, as Sora Remix says")
        if any(host.header_of(m).motion * motion != 1 and host.guides_itself(m) for m in models):
            remarks.append("the MODEL is guided by a patch, such as RescaleCFG: motion, and what suits the MODEL of it, does nothing here")
        words = positive, empty_prompt(model, positive) if negative is None else negative
        noise = CellNoise(seed, given) if noise is None else noise
        pictures = cache(lambda: image_to_video(given))  # encoded once, for both of a pair
        stages = [stage(m, levels, latent, noise, motion, words, pictures) for m, levels in parts(models, sigmas, switch_sigma)]
        run = stages[0].run
        plan = plan_for(model, positive, given, run.known) if given else single(Lattice(run.cells, run.known))
        check_memory(model, given, plan, len(run.samples))
        resumable = sampler is None and sampler_name in RESUMABLE
        passes = PassSampler(
            stages=stages,
            plan=plan,
            given=given,
            guidance=guidance,
            seed=seed,
            solver=sampler or (None if sampler_name == ANCESTRAL else comfy.samplers.sampler_object(sampler_name)),
            resumable=resumable,
            noise_of=lambda other, level, cells: CellNoise(other, given).of_cells(latent, cells, level),
            told=progress(run.model, (len(sigmas) - 1) * len(plan.passes)),
            at_once=at_once_for(model, latent, words) if resumable else 0,
        )
        through = {"model": model, "low_noise_model": low_noise_model, "sampler": sampler}
        job, unkept = job_for(passes, cls.hidden, through, [sampler_name, switch_sigma, motion])
        lines = [summary(plan) if len(plan.passes) > 1 else "", unkept, *remarks, *limits(model, given, plan)]
        show_on_node(cls, "\n".join(filter(None, lines)))  # some may want to stop here
        made = to_host(passes.sample(job))
        note = "\n".join(filter(None, [*lines, job.note if job else ""]))
        show_on_node(cls, note)
        return io.NodeOutput(sampled(latent, made), ui=ui.PreviewText(note) if note else None)


class SoraNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraNoise",
            display_name="Sora Noise",
            category="Sora/sampling",
            description=(
                "The noise of Sora Sampler for ComfyUI's own samplers (SamplerCustomAdvanced): each moment has its own, whatever the "
                "length."
            ),
            search_aliases=["sora noise", "random noise", "seed"],
            inputs=[
                io.Latent.Input("latent", tooltip="The canvas; its frames a second say which moment a latent cell is."),
                seed_input("Chooses the noise. Sora Sampler draws the same from the same seed."),
            ],
            outputs=[io.Noise.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, latent, seed) -> io.NodeOutput:
        return io.NodeOutput(CellNoise(seed, given_of(latent)))


@dataclass
class CellNoise:
    """The host's NOISE. Each cell has noise of its own, from seed, place in the batch and moment."""

    seed: int
    given: Given | None = None

    def generate_noise(self, latent: dict) -> Tensor:
        """float32 [B, C, F, h, w] for the samples of a LATENT; an other one than at the node keeps the node's rate, if it has none."""
        return self.of_cells(latent, range(latent["samples"].shape[2]))

    def of_cells(self, latent: dict, chosen: Sequence[int], level: float = 1.0) -> Tensor:
        """The noise of some of its cells, as it is put on at a level."""
        batch, channels, cells, height, width = latent["samples"].shape
        canvas = _canvas(given_of(latent)) or _canvas(self.given)
        if canvas is None or canvas.shape.cells != cells:
            fps, s = (canvas.shape.fps, canvas.shape.strides.time) if canvas else (ModelHeader.native_fps, Strides.time)
            times = [s * k / fps for k in range(cells)]
        else:
            times = canvas.seconds_of_cells
        times, numbers = [times[k] for k in chosen], latent.get("batch_index") or range(batch)
        return torch.stack([cell_noise(self.seed, number, times, (channels, height, width), level) for number in numbers])


def _canvas(given: Given | None) -> Canvas | None:
    return given and given.canvas


# -- one run -------------------------------------------------------------------------------------------------------------------------


def parts(models: list, sigmas: Tensor, switch: float) -> list[tuple]:
    """(MODEL, its noise levels) in the order of a run; of a pair the second takes over at the first level below `switch`."""
    if len(models) == 1 or len(sigmas) < 2:
        return [(models[0], sigmas)]
    at = min(int((sigmas >= switch).sum()), len(sigmas) - 1)  # the steps that the first one makes
    return [part for part in ((models[0], sigmas[: at + 1]), (models[1], sigmas[at:])) if len(part[1]) > 1]


def at_once_for(model, latent: dict, words: tuple[list, list]) -> int:
    """See run_plan, for solvers that draw no noise by themselves. Passes share a forward on our own models only, without guides, and where
    no words change but where those of the plan do."""
    given, planned = given_of(latent), shots_of(words[0])
    starts = {shots.starts for conditioning in words for entry in conditioning if (shots := shots_in(*entry))}
    others = starts - ({planned.starts} if planned else set())
    if given is None or given.guides or others or not isinstance(model.model, host.SoraModel):
        return 0
    return at_once_on(model.load_device, given.canvas.shape.tokens_per_cell, len(samples_of(latent)))


def stage(model, sigmas: Tensor, latent: dict, noise, motion: float, words: tuple[list, list], pictures: Callable[[], dict]) -> Stage:
    """What one model of a run gets; `pictures` as `conditions` has it."""
    run = prepare(model, latent, noise, motion)
    more = conditions(model, given_of(latent), run, pictures)
    return Stage(run, sigmas, *(with_entries(conditioning, more) for conditioning in words))


def progress(model, steps: int):
    """The callback of the host's samplers: progress, a preview where the user wants previews, and a chance to stop, at every one of so
    many steps."""
    bar = comfy.utils.ProgressBar(steps)
    form = model.model.latent_format
    wanted, size = args.preview_method != LatentPreviewMethod.NoPreviews, args.preview_size

    def step(i: int, x0: Tensor, x: Tensor, _: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        factors = form.latent_rgb_factors or ()
        picture = ("JPEG", preview(x0[0], form, size), size) if wanted and len(factors) == x0.shape[1] else None
        bar.update_absolute(i + 1, steps, picture)

    return step


def preview(x0: Tensor, form, size: int) -> Image.Image:
    """Some cells of [C, F, h, w] from first to last as a square of pictures, `size` pixels at its longer side, by a linear map of the
    latents."""
    count = PREVIEW_CELLS if x0.shape[1] >= PREVIEW_CELLS else 1
    chosen = [round(k * (x0.shape[1] - 1) / max(count - 1, 1)) for k in range(count)] if count > 1 else [x0.shape[1] // 2]
    factors = torch.tensor(form.latent_rgb_factors, dtype=torch.float32)
    bias = torch.tensor(form.latent_rgb_factors_bias or [0.0] * 3, dtype=torch.float32)
    rgb = x0[:, chosen].float().cpu().movedim(0, -1) @ factors + bias  # n h w 3
    rgb = rgb.add(1).mul(127.5).clamp(0, 255).byte()
    side = 2 if count > 1 else 1
    rows = [torch.cat(list(rgb[r * side : (r + 1) * side]), 1) for r in range(side)]
    picture = Image.fromarray(torch.cat(rows, 0).numpy())
    scale = size / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
