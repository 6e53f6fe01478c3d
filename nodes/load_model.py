"""File -> MODEL, CLIP, VAE: SoraLoadModel."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sora_core.checkpoint import HEADER_KEY, CheckpointError, model_header, read_header
from ..sora_core.config import ModelHeader
from ..sora_core.pipeline import WEIGHTS
from . import host, host_text, host_vae

KIND = "diffusion_models"


class SoraLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SoraLoadModel",
            display_name="Sora Load Model",
            category="Sora/model",
            description="Opens a model of this pack with its text encoder and VAE. The one that comes with the pack is first in the list.",
            search_aliases=["sora", "load sora", "video model", "checkpoint", "text to video"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_files(),
                    tooltip="A model file of this pack's format in models/diffusion_models. Its text encoder and VAE are found by the "
                    "names in it. Public Wan 2.1 files open with ComfyUI's own loaders.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "bfloat16", "float32"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The number format of the arithmetic. auto: bfloat16 where the processor or graphics card is fast with it, else "
                        "float32."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The transformer. Works with Sora Sampler and with every sampler of ComfyUI."),
                io.Clip.Output(tooltip="The text encoder, for Sora Prompt or CLIP Text Encode."),
                io.Vae.Output(tooltip="Turns frames into latents and back."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model=None):
        try:
            if model is not None:
                header_of_file(find(model))
        except CheckpointError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model=None, precision=None):
        if model is None:  # linked: the host knows what is above it
            return precision
        return precision, *((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files_of(find(model)))

    @classmethod
    def execute(cls, model, precision="auto") -> io.NodeOutput:
        transformer, vae, text = files_of(find(model))
        return io.NodeOutput(
            host.load_model(str(transformer), {"sora_precision": precision}),
            host_text.load_clip(str(text)),
            host_vae.load_vae(str(vae), precision),
        )


def model_files() -> list[str]:
    """Names of the files with our header: the shipped ones first."""
    ours = [name for name in folder_paths.get_filename_list(KIND) if _is_ours(name)]
    shipped = [name for name in ours if WEIGHTS in find(name).parents]
    return shipped + [name for name in ours if name not in shipped]


def find(name: str) -> Path:
    """The path of a listed name. Raises CheckpointError."""
    path = folder_paths.get_full_path(KIND, name)
    if path is None:
        raise CheckpointError(
            f"model: there is no file '{name}' in models/{KIND}; there are {', '.join(model_files()) or 'none of this format'}"
        )
    return Path(path)


def header_of_file(path: Path) -> ModelHeader:
    """The header of a model file of our format. Raises CheckpointError: a pickle, torn, or of another model."""
    stat = path.stat()
    found = _header(path, stat.st_mtime_ns, stat.st_size)
    if isinstance(found, str):
        raise CheckpointError(found)
    return found


@lru_cache(maxsize=4096)
def _header(path: Path, time_ns: int, size: int) -> ModelHeader | str:
    """The header, or what is wrong. Both are kept: the host asks for the list of models many times in a run, and most are of others."""
    try:
        if HEADER_KEY not in read_header(path):
            return f"{path.name} is not a model of this pack: open it with 'Load Diffusion Model', or choose another"
        return model_header(path)
    except CheckpointError as error:
        return str(error)


def _is_ours(name: str) -> bool:
    path = folder_paths.get_full_path(KIND, name)  # None of a link to nowhere, which the host lists
    try:
        return path is not None and name.endswith(".safetensors") and bool(header_of_file(Path(path)).text)
    except (CheckpointError, OSError):
        return False


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """A model file with its VAE and its text encoder. Raises CheckpointError."""
    header = header_of_file(path)
    return path, companion(path, "vae", header.vae), companion(path, "text_encoders", header.text)


def companion(path: Path, kind: str, name: str) -> Path:
    """The VAE or text encoder that a model file names: beside it in the same tree, or in the host's folders.

    Raises:
        CheckpointError: it names none, or there is no such file.
    """
    if not name:
        raise CheckpointError(f"{path.name} does not say which file of models/{kind} belongs to it")
    name = Path(name).name  # a file must not send the loader elsewhere
    beside = path.parent.parent / kind / name
    if beside.is_file():
        return beside
    found = folder_paths.get_full_path(kind, name)
    if found is None:
        raise CheckpointError(f"{path.name} needs '{name}', which is not in models/{kind}: put it there")
    return Path(found)
