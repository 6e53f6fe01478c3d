"""What Sora Sampler refuses before any work: inputs that do not belong together, in sentences that name them."""

from __future__ import annotations

import math

import comfy.model_base
from torch import Tensor

from ..sora_core.config import TEXT_DIM
from ..sora_core.shapes import PATCH
from .given import given_of, samples_of
from .host import is_flow
from .host_models import family, fits_vae, takes_odd_sides, takes_pictures
from .passes import ANCESTRAL
from .shots import has_pictures, shots_in


def check(model, positive, negative, latent: dict) -> None:
    """Refuses, before any work, what does not belong together. Raises ValueError naming the input."""
    samples, form = samples_of(latent), model.get_model_object("latent_format")
    if form.latent_dimensions != 3:
        raise ValueError("model: this MODEL makes pictures, not video: connect 'Sora Load Model', or a video model such as Wan")
    if samples.shape[1] != form.latent_channels:
        raise ValueError(
            f"latent: it has {samples.shape[1]} channels, the MODEL needs {form.latent_channels}: use the VAE that belongs to the MODEL"
        )
    given = given_of(latent)
    strides = given and given.canvas.shape.strides
    if strides and (strides.space, strides.time) != (form.spacial_downscale_ratio, form.temporal_downscale_ratio):
        raise ValueError(
            f"latent: its VAE has strides {strides.space} and {strides.time}, the MODEL needs {form.spacial_downscale_ratio} and "
            f"{form.temporal_downscale_ratio}: use the VAE that belongs to the MODEL"
        )
    if given and not fits_vae(model, given.vae):
        raise ValueError("latent: the VAE of its canvas is that of another model: use the VAE that belongs to the MODEL")
    if (samples.shape[-1] % PATCH or samples.shape[-2] % PATCH) and not takes_odd_sides(model):
        raise ValueError(f"latent: its sides are {samples.shape[-1]} and {samples.shape[-2]} cells, they must be even: use 'Sora Canvas'")
    pictured = given and (given.canvas.spans or given.canvas.guides or has_pictures(positive) or "concat_latent_image" in positive[0][1])
    if given and takes_pictures(model) and not pictured:
        remixed = bool(given.sources)  # given, but nothing of it to be kept
        asked = "do 'Sora Remix'" if remixed else "make a video from words alone"
        right = "load a text-to-video model" if remixed else "add 'Sora Place Image', or load a text-to-video model"
        raise ValueError(
            f"model: {family(model)} image-to-video cannot {asked}: it goes on from pictures, and the canvas has none; {right}"
        )
    if any((shots := shots_in(*entry)) and shots.pictures for entry in negative or ()):
        raise ValueError("negative: its storyboard has pictures, and only those of positive stand in a video: connect one without")
    for name, conditioning in (("positive", positive), ("negative", negative)):
        for rows, *_ in conditioning or ():
            if isinstance(model.model, comfy.model_base.WAN21) and rows.shape[-1] != TEXT_DIM:
                raise ValueError(
                    f"{name}: its words are {rows.shape[-1]} wide, the MODEL needs {TEXT_DIM}: use the CLIP that belongs to the MODEL"
                )


def check_solver(model, name: str) -> None:
    """Raises ValueError where the MODEL's path from noise is not the straight one that our own solver goes."""
    if name == ANCESTRAL and not is_flow(model.get_model_object("model_sampling")):
        raise ValueError(f"sampler_name: {ANCESTRAL} is for flow models, and this MODEL is none: choose euler_ancestral")


def check_sigmas(model, sigmas: Tensor, fall: bool) -> None:
    """Raises ValueError where they are no noise levels of the MODEL, or, if they must `fall`, where they rise."""
    flow = is_flow(model.get_model_object("model_sampling"))
    beyond = next((level for level in sigmas.tolist() if not 0 <= level <= (1 if flow else math.inf)), None)
    if beyond is not None:
        raise ValueError(f"sigmas: {beyond:g} is no noise level of this MODEL: use 'BasicScheduler' with it")
    if fall and sigmas.diff().gt(0).any():
        raise ValueError(f"sigmas: they rise, and {ANCESTRAL} only takes noise off: choose another sampler_name, such as euler")
