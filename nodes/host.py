"""The host's MODEL around our transformer, and what our sampler asks of any host MODEL.

What the model must know beside latents and words travels in `transformer_options["sora"]`: the host's samplers pass on nothing else of a
LATENT. Every wrapper here is stateless: it reads what one run of a sampler hands it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ..sora_core.canvas import token_mask
from ..sora_core.checkpoint import HEADER_KEY, CheckpointError, model_header, read_header, read_transformer
from ..sora_core.config import TEXT_ROW_MULTIPLE, ModelHeader, TransformerConfig
from ..sora_core.denoise import more_motion
from ..sora_core.flow import mix
from ..sora_core.shapes import PATCH
from ..sora_core.speed import fast_dtype
from ..sora_core.storyboard import shots_at
from ..sora_core.transformer import SpacetimeTransformer
from .given import KEY
from .shots import shots_in

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype for "auto", "float32" or "bfloat16". Auto is bfloat16 wherever the processor multiplies it in hardware."""
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if comfy.model_management.is_device_cpu(device):
        # The host itself runs float32 on every CPU.
        return torch.float32 if comfy.model_management.FORCE_FP32 else fast_dtype(device)
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32


# -- the model -----------------------------------------------------------------------------------------------------------------------


class HostTransformer(SpacetimeTransformer):
    """SpacetimeTransformer with the attribute and the call that the host expects of a diffusion model."""

    def __init__(self, config: TransformerConfig, *, operations, dtype=None, device=None):
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.dtype = dtype

    def forward(self, x, timestep, context=None, transformer_options=None, **keywords):
        options = {} if transformer_options is None else transformer_options
        positions = options.get(KEY, {}).get("positions")
        if positions is not None:
            window = options.get("context_window")
            keywords["positions"] = positions if window is None else window.get_tensor(positions, dim=0)
        if starts := keywords.pop("shot_starts", None):
            keywords["shots"] = shots_of_cells(x, keywords.get("positions"), starts)
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        return WrapperExecutor.new_class_executor(self._forward, self, wrappers).execute(x, timestep, context, options, **keywords)


def shots_of_cells(x: Tensor, positions: Tensor | None, starts: tuple[float, ...]) -> list[int]:
    """The shot of each cell of x [B, C, F, h, w]; the starts are in steps of position."""
    return shots_at(range(x.shape[2]) if positions is None else positions.tolist(), starts)


class SoraLatentFormat(comfy.latent_formats.Wan21):
    """Wan 2.1's mean and deviation, with preview colours fitted to the VAE of the file."""

    def __init__(self, preview_factors=()):
        super().__init__()
        if preview_factors:
            self.latent_rgb_factors = [list(row) for row in preview_factors[:-1]]
            self.latent_rgb_factors_bias = list(preview_factors[-1])
            self.taesd_decoder_name = None  # the host's small Wan decoder reads other latents


class SoraConfig(comfy.supported_models.WAN21_T2V):
    unet_config = {}

    def __init__(self, config: TransformerConfig, header: ModelHeader):
        super().__init__({"config": config, "dim": config.dim})
        self.unet_config = {"config": config}
        self.latent_format = SoraLatentFormat(header.preview_factors)
        self.sampling_settings = {"shift": header.shift}
        self.header = header

    def get_model(self, state_dict, prefix="", device=None):
        return SoraModel(self, device=device)


class SoraModel(comfy.model_base.WAN21):
    """Wan 2.1's conditions and latents; known cells are shown clean, with their own noise level, to a model trained for that."""

    def __init__(self, model_config: SoraConfig, device=None):
        super(comfy.model_base.WAN21, self).__init__(
            model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=HostTransformer
        )
        self.image_to_video = False
        self.header = model_config.header

    def concat_cond(self, **kwargs):
        return None

    def extra_conds(self, **kwargs):
        out = super().extra_conds(**kwargs)
        if kwargs.get("denoise_mask") is not None and self.header.noise == "frame":
            out["denoise_mask"] = comfy.conds.CONDRegular(kwargs["denoise_mask"])
        if (shots := shots_in(kwargs.get("cross_attn"), kwargs)) is not None:
            if shots.pictures:
                # Sora Sampler has put them on the canvas before it comes here.
                raise ValueError("positive: only 'Sora Sampler' puts the pictures of shots on the canvas: use it, or 'Sora Place Image'")
            # A storyboard: each cell listens to the words of its shot, which hold those for all.
            step = self.header.native_fps / self.latent_format.temporal_downscale_ratio
            out["c_crossattn"] = comfy.conds.CONDRegular(torch.zeros_like(kwargs["cross_attn"][:, :TEXT_ROW_MULTIPLE]))
            out["shot_context"] = comfy.conds.CONDList(list(shots.rows))
            out["shot_starts"] = comfy.conds.CONDConstant(tuple(start * step for start in shots.starts))
        return out

    def process_timestep(self, timestep, x, denoise_mask=None, **kwargs):
        return timestep if denoise_mask is None else levels(timestep, denoise_mask)

    def scale_latent_inpaint(self, sigma, noise, latent_image, **kwargs):
        if self.header.noise == "frame":
            return latent_image
        return super().scale_latent_inpaint(sigma=sigma, noise=noise, latent_image=latent_image, **kwargs)

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):  # noqa: B006 (the host's)
        x = renoise_mixed_tokens(x, t, transformer_options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def levels(timestep: Tensor, mask: Tensor) -> Tensor:
    """1000 sigma for every cell [B, F] or, where the mask [B, C, F, H, W] varies in space, for every token [B, N].

    A token is known only if all its cells are (canvas.token_mask), so its level is the highest of its cells.
    """
    mask = mask[:, :1].float()
    per_cell = mask.amax((-1, -2))  # B 1 F
    share = per_cell[:, 0] if torch.equal(per_cell, mask.amin((-1, -2))) else token_mask(mask).flatten(1)
    return share * timestep[:, None]


def load_model(path: str, model_options: dict | None = None, disable_dynamic: bool = False):
    """A file of our format as the host's MODEL.

    Args:
        path: a safetensors file.
        model_options: the host's, and "sora_precision": auto, float32 or bfloat16.

    Raises:
        CheckpointError: what is wrong with the file, in one sentence.
    """
    options = model_options or {}
    tensors, config, header = read_transformer(path)
    load_device = options.get("load_device", comfy.model_management.get_torch_device())
    offload_device = options.get("offload_device", comfy.model_management.unet_offload_device())
    dtype = options.get("dtype") or compute_dtype(options.get("sora_precision", "auto"), load_device)
    sora = SoraConfig(config, header)
    sora.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, load_device) if dtype.itemsize == 1 else None)
    sora.custom_operations = options.get("custom_operations")
    model = sora.get_model(tensors)
    # Looked up now, not imported: on NVIDIA the host exchanges it at its start.
    patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(
        {k: t if k.startswith("patch_embedding") else t.to(dtype) for k, t in tensors.items()}, "", assign=patcher.is_dynamic()
    )
    patcher.cached_patcher_init = (load_model, (path, options))
    return guide_motion(keep_known_cells(patcher), header.motion)


# -- any MODEL -----------------------------------------------------------------------------------------------------------------------


def header_of(model) -> ModelHeader:
    """What the file of a host MODEL says of itself; the defaults for a public file, or when the host does not know the file."""
    if isinstance(model.model, SoraModel):
        return model.model.header
    public = ModelHeader(native_fps=24.0) if isinstance(model.model, comfy.model_base.WAN22) else ModelHeader()
    origin = model.cached_patcher_init
    path = origin[1][0] if origin and origin[1] else None
    if not isinstance(path, str) or not path.endswith(".safetensors"):
        return public
    try:
        return model_header(path) if HEADER_KEY in read_header(path) else public
    except (CheckpointError, OSError):
        return public


def keep_known_cells(model):
    """Adds to a MODEL, in place, what returns known cells exactly as they were. Harmless when it is there already."""
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _restore_known)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _hand_on_given)
    return model


def show_known_cells(model):
    """For a host MODEL of a file trained with noise per cell: adds in place what SoraModel does by itself."""
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _known_cells_clean)
    return model


def guides_itself(model) -> bool:
    """Whether a patch, such as RescaleCFG's, guides a MODEL in a way of its own."""
    return not isinstance(model.model_options.get("sampler_cfg_function", MotionGuidance(1.0)), MotionGuidance)


def guide_motion(model, factor: float):
    """Adds to a MODEL, in place, guidance that counts more where cells differ; nothing where it `guides_itself`."""
    plain = factor == 1 and "sampler_cfg_function" not in model.model_options  # as the host guides, to the last bit
    if not plain and not guides_itself(model):
        model.set_model_sampler_cfg_function(MotionGuidance(factor))
    return model


@dataclass(frozen=True)
class MotionGuidance:
    """Guidance with `denoise.more_motion`, for the host's samplers."""

    factor: float

    def __call__(self, args: dict) -> Tensor:
        if math.isclose(args["cond_scale"], 1.0):  # the host made one forward only
            return args["cond"]
        towards = args["cond"] - args["uncond"]
        if towards.ndim == 5:  # LTX-2 packs video and sound into one row
            options, sigma = args["model_options"].get("transformer_options", {}), args["sigma"]
            if not is_flow(args["model"].model_sampling):
                sigma = sigma / (1 + sigma)  # the share of noise, where noise is added to the whole of the latents
            given, starts = _given(options, args["input"]), _shot_starts(args["input_cond"])
            made = None if given is None else given[0].amax((1, 3, 4)) > 0
            shots = starts and shots_of_cells(towards, options.get(KEY, {}).get("positions"), starts)
            towards = more_motion(towards, self.factor, sigma, made, sigma.view(-1, 1, 1, 1, 1), shots)
        return args["uncond"] + args["cond_scale"] * towards


def is_flow(model_sampling) -> bool:
    """Whether a MODEL mixes latents with noise, at levels 0 to 1, and does not add it."""
    return isinstance(model_sampling, comfy.model_sampling.CONST)


def _shot_starts(words: list[dict] | None) -> tuple[float, ...] | None:
    """Those of SoraModel.extra_conds."""
    found = (entry["model_conds"].get("shot_starts") for entry in words or () if "model_conds" in entry)
    return next((cond.cond for cond in found if cond), None)


def _restore_known(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
    """Around a whole run: the samplers' arithmetic moves known cells by 1e-6, and by 0.012 with uni_pc."""
    made = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
    if denoise_mask is None:
        return made
    return torch.where(denoise_mask.to(made.device) == 0, latent_image.to(made), made)


def _hand_on_given(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *args, **kwargs):
    """Around the sampler: what is given, in the model's own latents, goes to where the model finds it."""
    if denoise_mask is not None:
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options[KEY] = {**options.get(KEY, {}), "mask": denoise_mask[:, :1], "noise": noise, "latent": latent_image}
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)


def _given(options: dict, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(mask, noise, latent) in the batch of x; None when nothing is given or the host shows the model a part of the lattice only."""
    given = options.get(KEY, {})
    if "mask" not in given or given["latent"].shape[1:] != x.shape[1:] or x.shape[0] % given["latent"].shape[0]:
        return None
    times = x.shape[0] // given["latent"].shape[0]
    return tuple(given[name].to(x.device).repeat(times, 1, 1, 1, 1) for name in ("mask", "noise", "latent"))


def renoise_mixed_tokens(x: Tensor, sigma: Tensor, options: dict) -> Tensor:
    """Tokens that are only partly known have the noise level of their unknown cells, so their known cells need its noise."""
    given = _given(options, x)
    if given is None:
        return x
    mask, noise, latent = given
    whole = token_mask(mask).repeat_interleave(PATCH, -1).repeat_interleave(PATCH, -2)[..., : x.shape[-2], : x.shape[-1]].unsqueeze(1)
    mixed = (whole > 0) & (mask == 0)
    if not mixed.any():
        return x
    return torch.where(mixed, mix(latent, noise, sigma.view(-1, 1, 1, 1, 1) * whole), x)


def _known_cells_clean(executor, x, timestep, *args, **kwargs):
    """Around the host's WanModel: known tokens clean and at level 0, as its public files are not trained for, but ours are."""
    options = next((a for a in reversed(args) if isinstance(a, dict)), kwargs.get("transformer_options", {}))
    given = _given(options, x)
    if given is not None and timestep.ndim == 1:
        mask, _, latent = given
        x = torch.where(mask == 0, latent.to(x), x)
        timestep = levels(timestep, mask)
    return executor(x, timestep, *args, **kwargs)
