"""Turns a training run into the files of the pack: bf16 weights, headers, preview factors, known words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder import VideoVAE, normalise, pixels_of
from ..checkpoint import load_vae, save_model
from ..config import ModelHeader, UserError
from ..pipeline import Pipeline
from ..world import render, sample_scene, vocabulary
from .transformer import Student, averaged_student, fit_preview, header

# In bfloat16 these cost 0.01 in normalised latents: the layers that touch the latents, and everything with one axis.
FLOAT32_VAE = ("conv1.", "conv2.", "encoder.conv1.", "decoder.head.")


def half_precision(tensors: dict[str, Tensor], keep: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """bfloat16, except biases, norms and names that begin with one of `keep`."""
    return {
        name: t.float() if t.squeeze().ndim < 2 or name.startswith(keep) else t.to(torch.bfloat16)
        for name, t in ((name, t.detach().contiguous()) for name, t in tensors.items())
    }


@torch.inference_mode()
def preview_factors(vae: VideoVAE, scenes: int = 24) -> list[list[float]]:
    """Fits the live preview: latent cells of rendered stills against their mean colours."""
    latents, pixels = [], []
    for seed in range(scenes):
        x = pixels_of(render(sample_scene(seed), [0.0], 128, 128)[None])
        latents.append(normalise(vae.encode(x))[0, :, 0].flatten(1).T)
        pixels.append(F.avg_pool2d(x[:, :, 0], vae.strides.space)[0].flatten(1).T)
    return fit_preview(torch.cat(latents), torch.cat(pixels))


@torch.no_grad()
def blend(student: Student, earlier: str, share: float) -> None:
    """Turns the weights into `share` of their own and the rest of the model file `earlier`, from which they were trained: the mean of both
    is often better than either (model soups, arXiv 2203.05482). Raises as Pipeline.load does, and UserError for a model of another size."""
    before = Pipeline.load(earlier, torch.float32)
    if (before.transformer.config, before.text.config) != (student.transformer.config, student.text.config):
        raise UserError(f"earlier: {earlier} is of another size: name the model file from which the run was trained")
    for own, other in ((student.transformer, before.transformer), (student.text, before.text)):
        theirs = other.state_dict()
        for name, weight in own.state_dict().items():
            weight.lerp_(theirs[name], 1 - share)


def ship(
    folder: str, vae: str, out: str, *, name: str, stage: str = "S2", foresight: bool = False, earlier: str = "", share: float = 1.0
) -> list[Path]:
    """Writes diffusion_models/NAME.safetensors, vae/NAME_vae.safetensors and text_encoders/NAME_text.safetensors below `out`.

    Args:
        folder: of the run. vae: file of its VAE.
        stage: a name in bank.STAGES, whose words the model has met.
        foresight: whether it has seen parts of a minute, so that it foresees long videos (plan.kind_for); in stage S4 it has.
        earlier, share: see `blend`.
    """
    student, step = averaged_student(folder)
    if earlier:
        blend(student, earlier, share)
    codec = load_vae(vae)
    facts = header(name, tuple(sorted(vocabulary(stage))), preview_factors(codec), foresight=foresight or stage == "S4")
    plain = ModelHeader(name=name, native_fps=facts.native_fps)
    files = {
        f"diffusion_models/{name}.safetensors": (half_precision(student.transformer.state_dict()), facts),
        f"vae/{name}_vae.safetensors": (half_precision(codec.state_dict(), FLOAT32_VAE), plain),
        f"text_encoders/{name}_text.safetensors": (half_precision(student.text.state_dict()), replace(plain, words=facts.words)),
    }
    paths = []
    for relative, (tensors, facts_of_file) in files.items():
        path = Path(out) / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, tensors, facts_of_file)
        paths.append(path)
    print(f"step {step} of {folder}")
    return paths
