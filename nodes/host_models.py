"""What the sampler asks of the host's own video models, beyond what is in host.py: conditions that they take, and pairs of them.

Known cells go to every model by the host's in-paint, which shows them clean to those with a noise level for each cell (Wan 2.2 5B,
LTX-Video), clean too to HunyuanVideo, which is not told which they are, and as noisy as the rest to the others (Wan 2.1). Image-to-video
models of Wan and HunyuanVideo 1.5 were trained on more: see `image_to_video` and `given_cells`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.model_base
import torch
from torch import Tensor

from ..sora_core.canvas import Canvas, Guide
from ..sora_core.checkpoint import CheckpointError, detect_vae, read_layout
from ..sora_core.config import TEXT_DIM, TEXT_ROW_MULTIPLE, preset
from ..sora_core.plan import Plan, window_of
from .costs import check_room
from .given import KEY, Given
from .host import SoraModel, header_of
from .host_vae import VideoCoder, kind_of
from .known import COPIES, frames_as_pixels
from .load_model import companion

PUBLIC_WIDTH, PUBLIC_VAE_WIDTH = preset("wan-1.3b").dim, 96
"""Of the narrowest public Wan 2.1 model and of its VAE."""

LTX = comfy.model_base.LTXV | comfy.model_base.LTXAV  # to the host LTX-2, which makes sound as well, is no LTX-Video
FAMILIES = (
    (comfy.model_base.WAN21, "Wan"),
    (comfy.model_base.LTXV, "LTX-Video"),
    (comfy.model_base.LTXAV, "LTX-2"),
    (comfy.model_base.HunyuanVideo, "HunyuanVideo"),
)
HUNYUAN_FPS = 24.0


def empty_prompt(model, positive: list) -> list:
    """CONDITIONING of no words: zero rows, for the host's models as many as the positive ones, with all else that they need."""
    if isinstance(model.model, SoraModel):
        return [[torch.zeros(1, TEXT_ROW_MULTIPLE, TEXT_DIM), {"pooled_output": None}]]
    rows, facts = positive[0]
    facts = {name: fact for name, fact in facts.items() if name != KEY}  # no shots either
    pooled = facts.get("pooled_output")
    return [[torch.zeros_like(rows), {**facts, "pooled_output": None if pooled is None else torch.zeros_like(pooled)}]]


def fits_vae(model, vae) -> bool:
    """Whether a canvas' VAE can be that of a MODEL, as far as files tell: those of Wan 2.1 and of this pack have latents of one shape,
    and other widths."""
    width = kind_of(vae)
    if not isinstance(model.model, comfy.model_base.WAN21) or not isinstance(width, int):
        return True
    named = header_of(model).vae
    if not named:
        return width >= PUBLIC_VAE_WIDTH or model.model.model_config.unet_config.get("dim", 0) < PUBLIC_WIDTH
    try:
        file = companion(Path(model.cached_patcher_init[1][0]), "vae", named)
        return width == detect_vae({name: info.shape for name, info in read_layout(file)[1].items()}, file.name).dim
    except CheckpointError:
        return True


def family(model) -> str:
    """What a MODEL is called in sentences."""
    named = (name for kind, name in FAMILIES if isinstance(model.model, kind))
    return header_of(model).name or next(named, type(model.model).__name__)


def limits(model, given: Given | None, plan: Plan) -> list[str]:
    """What a MODEL cannot do of what its canvas asks for, though it runs: a sentence each."""
    if given is None:
        return []
    name, canvas, shape, lines = family(model), given.canvas, given.canvas.shape, []
    wan = isinstance(model.model, comfy.model_base.WAN21)
    at_its_rate = isinstance(model.model, comfy.model_base.HunyuanVideo) and shape.fps == HUNYUAN_FPS
    if shape.cells > 1 and not (wan or isinstance(model.model, LTX) or at_its_rate):
        lines.append(f"{name} is told no frame rate: things move as at the rate that it was trained on, not as at {shape.fps:g} a second")
    if not takes_guides(model) and not takes_pictures(model):
        hidden = [canvas.offset + guide.frame for guide in canvas.guides if beside_known(canvas, guide)]
        if hidden:
            frames = f"frame{'s' if len(hidden) > 1 else ''} {', '.join(map(str, hidden))}"
            lines.append(f"{name} is not shown the given {frames}: it takes whole latent cells, and the one beside is given")
    windowed = "context_handler" in model.model_options
    asked = given.plan.kind if given.plan else "auto"
    long = shape.cells > window_of(header_of(model), shape.strides)
    if asked == "auto" and plan.kind == "single" and long and not wan and not windowed:
        lines.append(f"{name} made all in one pass, for how long it can be is not known: 'Sora Plan' with rollout makes it in several")
    if not isinstance(model.model, SoraModel) and any(len({*map(plan.lattice.shot_of, p.make)}) > 1 for p in plan.passes):
        lines.append(f"{name} hears one shot in a pass, here the first: 'Sora Plan' with auto or rollout makes each shot by itself")
    return lines


def conditions(model, given: Given | None, run, pictures: Callable[[], dict]) -> dict:
    """What this MODEL takes as entries of CONDITIONING, beside the words.

    Args:
        run: what its sampler gets (run.Run).
        pictures: gives `image_to_video` of the canvas, which both of a pair are shown.
    """
    if type(model.model) is comfy.model_base.HunyuanVideo15 and run.mask is not None:  # the host's one for super-resolution takes others
        return given_cells(run.samples, run.mask)
    if given is not None and isinstance(model.model, LTX):
        return {"frame_rate": given.canvas.shape.fps}
    if given is not None and takes_pictures(model) and (given.canvas.spans or given.canvas.guides):
        return pictures()
    return {}


def with_entries(conditioning: list, more: dict) -> list:
    """CONDITIONING with more entries; those that the user's nodes have given stay."""
    return [[rows, {**more, **facts}] for rows, facts in conditioning]


def takes_pictures(model) -> bool:
    """Whether it is an image-to-video model of Wan: its input has the latents of what is given and a mask beside the noise."""
    channels = model.get_model_object("latent_format").latent_channels
    taken = model.model.model_config.unet_config.get("in_dim", channels)
    return isinstance(model.model, comfy.model_base.WAN21) and taken == 2 * channels + 4


def takes_guides(model) -> bool:
    """Whether it was trained with pictures beside the lattice."""
    return isinstance(model.model, SoraModel) and model.model.header.noise == "frame"


def takes_odd_sides(model) -> bool:
    """Whether sides of an odd number of cells are no question: a token of LTX-Video or of HunyuanVideo 1.5 is one cell, the host's Wan
    fills up its last ones."""
    if isinstance(model.model, LTX | comfy.model_base.WAN21):
        return not isinstance(model.model, SoraModel)
    patch = getattr(model.model.diffusion_model, "patch_size", None)  # of HunyuanVideo [time, height, width]
    return isinstance(patch, list | tuple) and set(patch[-2:]) == {1}


def beside_known(canvas: Canvas, guide: Guide) -> bool:
    """Whether a cell beside that of a guide is known: a model without guides is then not shown the guide, whose cell would stand still."""
    cell = canvas.shape.strides.cell_of_frame(guide.frame)
    return not {cell - 1, cell + 1}.isdisjoint(canvas.known)


def image_to_video(given: Given) -> dict:
    """What those models were trained on: the given frames on grey, encoded as one video, and which frames are not given."""
    shape, s = given.canvas.shape, given.canvas.shape.strides.time
    batch = max((media.batch for media in given.sources), default=1)
    check_room(
        (batch + COPIES) * shape.frames * shape.width * shape.height * 12,
        f"latent: this model is shown its canvas as a video: {shape.frames} frames of {shape.width}x{shape.height} take {{needed}} while "
        "they are encoded, this machine has {there}: make the canvas smaller or shorter",
    )
    pixels = torch.zeros(batch, 3, shape.frames, shape.height, shape.width)
    missing = torch.ones(shape.frames)
    runs = [(s * (n.cell - 1) + 1 if n.cell else 0, n.frames(shape.strides), n.source, n.start) for n in given.canvas.spans]
    runs += [(g.frame, 1, g.source, g.start) for g in given.canvas.guides]
    for first, count, source, start in runs:
        pixels[:, :, first : first + count] = frames_as_pixels(given.sources[source], start, count)
        missing[first : first + count] = 0
    cells = torch.cat([missing[:1].repeat(s), missing[1:]]).unflatten(0, (shape.cells, s)).T  # s F: the frames of every cell
    mask = cells[None, :, :, None, None].expand(-1, -1, -1, *shape.latent[2:])
    return {"concat_latent_image": VideoCoder(given.vae).encode(pixels), "concat_mask": mask}


def given_cells(samples: Tensor, mask: Tensor) -> dict:
    """What HunyuanVideo 1.5 was trained on: the given cells, zero in place of the others, and which are not given. Of a noise mask alone
    the host would tell it that zeros are given."""
    made = (mask > 0).to(samples)
    return {"concat_latent_image": samples * (1 - made), "concat_mask": made}


def continued(model, made: Tensor, noise: Tensor, known: Tensor, mask: Tensor | None, sigma: float) -> Tensor:
    """Where one model stopped at noise level `sigma`, as the latents that the next one mixes the same noise into.

    The host divides by 1 - sigma at the end of a run, and mixes x = sigma noise + (1 - sigma) latents at the start of one.
    """
    latents = model.process_latent_in(made.float()) - sigma / (1 - sigma) * noise.to(made.device)
    latents = model.process_latent_out(latents)
    return latents if mask is None else torch.where(mask.to(made.device) == 0, known.to(latents), latents)
