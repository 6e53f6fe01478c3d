"""What a plan costs on a MODEL of ours, before anything runs. Of the host's own models the host takes care, by parts if it must."""

from __future__ import annotations

import math

import comfy.model_management
import psutil
import torch

from ..sora_core.generate import STEPS
from ..sora_core.plan import SMALLEST_PASS, Plan
from ..sora_core.shapes import VideoShape
from ..sora_core.speed import PROCESS_BYTES, check_fits, memory_estimate, seconds_a_step
from ..sora_core.transformer import SpacetimeTransformer
from .given import Given
from .host_vae import HostVAE


def check_canvas(shape: VideoShape, batch: int, vae) -> None:
    """Refuses what does not fit even with the smallest model of the VAE in the smallest passes. The sampler knows its own.

    Of a VAE of the host only the latents count: its models it loads in parts, and its VAEs it walks in tiles, where memory is short.
    """
    if isinstance(vae.first_stage_model, HostVAE):
        check_fits(shape, batch=batch, at_once=SMALLEST_PASS, device=comfy.model_management.get_torch_device())
    else:
        what = f"{shape.width}x{shape.height} and {shape.seconds:g} s" + (f", {batch} at once" if batch > 1 else "")
        check_room(
            4 * batch * math.prod(shape.latent),
            f"{what} are latents of {{needed}}, this machine has {{there}}: choose a smaller size, or fewer seconds",
        )


def check_room(needed: float, sentence: str, share: float = 1.0) -> None:
    """Raises ValueError where so many bytes are more than a share of the machine's memory: the sentence, with {needed} and {there}."""
    there = comfy.model_management.get_total_memory(torch.device("cpu"))
    if needed > share * there:
        raise ValueError(sentence.format(needed=f"{needed / 2**30:,.1f} GB", there=f"{there / 2**30:,.1f} GB"))


def check_memory(model, given: Given | None, plan: Plan, batch: int) -> None:
    """Refuses a video whose largest pass cannot fit. Raises ValueError with the largest that does."""
    if given and (facts := _facts(model)):
        check_fits(given.canvas.shape, batch=batch, at_once=_at_once(given, plan), device=model.load_device, **facts)


def costs(model, plan: Plan, given: Given, batch: int) -> list[str]:
    """Tokens, memory in its parts, and time, for people; memory and time of our own models only."""
    shape, at_once = given.canvas.shape, _at_once(given, plan)
    lines = [f"{at_once * shape.tokens_per_cell:,} tokens at once, {shape.frames} frames"]
    if (facts := _facts(model)) and plan.passes:
        memory = memory_estimate(shape=shape, batch=batch, at_once=at_once, guidance=2.0, **facts)
        cells = [len(p.cells) for p in plan.passes]
        seconds = seconds_a_step(facts["config"], shape, cells, facts["dtype"], str(model.load_device)) * batch
        program = PROCESS_BYTES
        if model.load_device.type == "cpu":  # there the host and all that it has loaded count too
            program = max(program, psutil.Process().memory_info().rss - model.model_size())
        total = memory.peak - PROCESS_BYTES + program
        parts = {"program": program, "weights": memory.weights, "activations": memory.denoise, "decode": memory.decode}
        lines.append(f"about {total / 2**30:.1f} GB: " + ", ".join(f"{name} {size / 2**30:.2g}" for name, size in parts.items()))
        lines.append(f"about {seconds:.2g} s for each step of the sampler, {_duration(2 * STEPS * seconds)} for {STEPS} with guidance")
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _facts(model) -> dict:
    """What sora_core.speed asks of a MODEL; empty for one that is not ours."""
    network = model.model.diffusion_model
    return {"config": network.config, "dtype": model.model.get_dtype()} if isinstance(network, SpacetimeTransformer) else {}


def _at_once(given: Given, plan: Plan) -> int:
    """Cells of the largest pass, and the guides beside them."""
    return plan.largest + len(given.canvas.guides)
