"""Models in and out of safetensors files. Nothing is built before the file's keys, shapes and types are known to be right.

Other formats are refused: a PyTorch pickle can run code when it is opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .config import ModelHeader, TextConfig, TransformerConfig, UserError, VAEConfig
from .files import atomic_path
from .text import OVERLAP, ByteTextEncoder
from .transformer import SpacetimeTransformer

HEADER_KEY = "sora"
"""Not `config`: the host would merge that into the model's arguments."""

TEXT_HEAD_DIM = 64
"""Of the text encoder: a file stores the width only."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""Under which public single-file checkpoints keep the transformer."""

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
"""Of the format's types; of one that is newer the size is not checked."""

MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# How files begin that are no safetensors, and what to say.
FOREIGN_STARTS = (
    (b"PK\x03\x04", "is a PyTorch pickle (.pt, .pth or .ckpt), which can run code when it is opened: get or make the safetensors version"),
    (b"\x80", "is a PyTorch pickle (.pt, .pth or .ckpt), which can run code when it is opened: get or make the safetensors version"),
    (b"GGUF", "is a GGUF file: open it with a GGUF loader node, whose MODEL works here"),
    (b"version https://git-lfs", "is only a Git LFS pointer, not the model itself: run 'git lfs pull' in its repository"),
    (b"<", "is a web page, not a model: the download went wrong, fetch the file again"),
)

# Keys that name another model, first match first, and what it is.
FOREIGN_TRANSFORMERS = (
    ("vace_blocks.", "is a Wan 2.1 VACE model"),
    ("img_emb.", "is a Wan 2.1 image-to-video model"),
    (".k_img.", "is a Wan 2.1 image-to-video model"),
    ("control_adapter.", "is a Wan camera-control model"),
    ("ref_conv.", "is a Wan reference-image model"),
    (".attn1.to_q.", "is in diffusers' layout: get the file in the original Wan 2.1 layout"),
    ("lora_", "is a LoRA: open it with ComfyUI's LoRA loader"),
    (".scale_weight", "holds scaled fp8 weights: open it with ComfyUI's 'Load Diffusion Model', whose MODEL works here"),
    ("scaled_fp8", "holds scaled fp8 weights: open it with ComfyUI's 'Load Diffusion Model', whose MODEL works here"),
    ("decoder.upsamples.", "is a VAE"),
    ("piece_embedding.", "is a text encoder of this pack"),
    ("shared.weight", "is a T5 text encoder"),
)


class CheckpointError(UserError):
    """What is wrong with a file, in one sentence for the user."""


class TensorInfo(NamedTuple):
    """Type and shape of a tensor in a file, and where its bytes end."""

    dtype: str
    shape: tuple[int, ...]
    end: int


# -- the file itself -------------------------------------------------------------------------------------------------------------


def read_layout(path: str | Path) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Header strings and the type and shape of every tensor, without reading any tensor.

    Raises:
        CheckpointError: no such file, not safetensors, or torn.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path.name} does not exist in {path.parent}")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES or start[8:9] != b"{":
            says = next((says for magic, says in FOREIGN_STARTS if start.startswith(magic)), f"is not a safetensors file ({size:,} bytes)")
            raise CheckpointError(f"{path.name} {says}")
        file.seek(8)
        header = file.read(length)
    if len(header) < length:
        raise CheckpointError(f"{path.name} is torn: it ends inside its header, after {size:,} bytes; fetch it again")
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", None) or {}
        tensors = {k: TensorInfo(e["dtype"], tuple(e["shape"]), e["data_offsets"][1]) for k, e in entries.items()}
        broken = next((k for k, e in entries.items() if not _fits(e)), None)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path.name} has a damaged safetensors header ({error}); fetch it again") from None
    if broken is not None:
        raise CheckpointError(f"{path.name} has a damaged safetensors header ('{broken}' has not the bytes of its shape); fetch it again")
    needed = 8 + length + max((t.end for t in tensors.values()), default=0)
    if size != needed:
        raise CheckpointError(f"{path.name} is torn: it has {size:,} bytes, its header says {needed:,}; fetch it again")
    return metadata, tensors


def _fits(entry: dict) -> bool:
    begin, end = entry["data_offsets"]
    bits = BITS.get(entry["dtype"])
    return bits is None or (end - begin) * 8 == math.prod(entry["shape"]) * bits


def read_header(path: str | Path) -> dict[str, str]:
    """The header strings of a file; ours is under `sora`. Raises CheckpointError as read_layout does."""
    return read_layout(path)[0]


def model_header(path: str | Path) -> ModelHeader:
    """What the file says of its model; the defaults for a file without our header key. Raises CheckpointError."""
    try:
        return ModelHeader.from_json(read_header(path).get(HEADER_KEY))
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{Path(path).name} has a damaged header key '{HEADER_KEY}' ({error})") from None


def save_model(path: str | Path, tensors: Mapping[str, Tensor], header: ModelHeader | None = None) -> None:
    """Writes a file whole or not at all.

    Raises:
        FullDisk.
    """
    metadata = {"format": "pt"} | ({HEADER_KEY: header.to_json()} if header else {})
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    with atomic_path(Path(path)) as part:
        part.write_bytes(data)  # safetensors' save_file makes files that only their owner can read, and does not say that a disk is full


# -- what a file must hold -------------------------------------------------------------------------------------------------------


def check_state(state: Mapping[str, Tensor | tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compares tensors, or their shapes, with the shapes that a model expects.

    Args:
        what: begins the sentence, such as a file name.

    Raises:
        CheckpointError: keys missing, keys that do not belong, or other shapes; the first of each kind by name.
    """
    if missing := [name for name in expected if name not in state]:
        raise CheckpointError(f"{what} lacks {_listed(missing)} of the {len(expected)} tensors that its model needs")
    if foreign := [name for name in state if name not in expected]:
        raise CheckpointError(f"{what} has {_listed(foreign)} that its model does not know: it is of another model")
    for name, shape in expected.items():
        found = tuple(getattr(state[name], "shape", state[name]))
        if found != tuple(shape):
            raise CheckpointError(f"{what}: '{name}' has the shape {list(found)} where {list(shape)} is right")


def _listed(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> int:
    names = (name.split(".") for name in shapes if name.startswith("blocks."))
    return 1 + max(int(name[1]) for name in names if name[1].isdigit())


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _read(path: Path, layout: dict[str, TensorInfo], prefix: str, model: nn.Module) -> dict[str, Tensor]:
    """Checks layout against a model on the meta device, then reads and checks the values."""
    own = {name.removeprefix(prefix): info for name, info in layout.items() if name.startswith(prefix)}
    check_state({name: info.shape for name, info in own.items()}, _shapes(model), path.name)
    for name, info in own.items():
        if info.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise CheckpointError(f"{path.name}: '{name}' is stored as {info.dtype}; this pack reads {known}, ComfyUI's own loader more")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(prefix + name) for name in own}
    for name, tensor in tensors.items():
        # One pass and no copy: both ends are NaN if any value is.
        if tensor.numel() and not all(map(math.isfinite, (end.item() for end in tensor.aminmax()))):
            raise CheckpointError(f"{path.name}: '{name}' holds values that are not finite (NaN or infinity): the file is damaged")
    return tensors


# -- transformer -----------------------------------------------------------------------------------------------------------------


def detect_transformer(shapes: Mapping[str, tuple[int, ...]], what: str) -> TransformerConfig:
    """Sizes of a Wan 2.1 text-to-video transformer from the shapes of its tensors (names without prefix).

    Raises:
        CheckpointError: it is another model, which is named where it is known.
    """
    for part, says in FOREIGN_TRANSFORMERS:
        if any(part in name for name in shapes):
            raise CheckpointError(f"{what} {says}; this pack's loader reads Wan 2.1 text-to-video transformers")
    needed = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "blocks.0.ffn.0.weight", "head.head.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise CheckpointError(f"{what} is no Wan 2.1 text-to-video transformer: it lacks {_listed(missing)}")
    patch, text, time, ffn, head = (shapes[name] for name in needed)
    if len(patch) != 5 or patch[2] != 1 or any(len(s) != 2 for s in (text, time, ffn, head)) or head[0] % math.prod(patch[2:]):
        raise CheckpointError(f"{what} is no Wan 2.1 text-to-video transformer: 'patch_embedding.weight' has the shape {list(patch)}")
    out = head[0] // math.prod(patch[2:])
    if patch[1] != out:
        raise CheckpointError(f"{what} takes {patch[1]} channels and gives {out}: it is an image-to-video or control model")
    try:
        return TransformerConfig(
            dim=patch[0], ffn_dim=ffn[0], num_layers=_count_blocks(shapes), in_dim=patch[1], out_dim=out,
            text_dim=text[1], freq_dim=time[1], patch_size=tuple(patch[2:]),
        )  # fmt: skip
    except ValueError as error:
        raise CheckpointError(f"{what} is no Wan 2.1 text-to-video transformer: {error}") from None


def read_transformer(path: str | Path) -> tuple[dict[str, Tensor], TransformerConfig, ModelHeader]:
    """Tensors as they are stored (names without prefix), sizes and header of a transformer file; all checked.

    Raises:
        CheckpointError: what is wrong, in one sentence.
    """
    path = Path(path)
    layout = read_layout(path)[1]
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in layout)), "")
    config = detect_transformer({n.removeprefix(prefix): t.shape for n, t in layout.items() if n.startswith(prefix)}, path.name)
    header = model_header(path)
    return _read(path, layout, prefix, SpacetimeTransformer(config, device="meta")), config, header


def load_transformer(path: str | Path, dtype: torch.dtype | None = None, device="cpu") -> tuple[SpacetimeTransformer, ModelHeader]:
    """A transformer ready to run, and what its file says of it.

    Args:
        dtype: of all parameters but the patch embedding, which is float32; None for that of the file's matrices.

    Raises:
        CheckpointError: as read_transformer.
    """
    tensors, config, header = read_transformer(path)
    dtype = dtype or tensors["blocks.0.self_attn.q.weight"].dtype
    model = SpacetimeTransformer(config, device="meta")
    tensors = {n: t.to(device, torch.float32 if n.startswith("patch_embedding.") else dtype) for n, t in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval(), header


# -- VAE -------------------------------------------------------------------------------------------------------------------------


def detect_vae(shapes: Mapping[str, tuple[int, ...]], what: str) -> VAEConfig:
    """Sizes of a Wan 2.1 VAE from the shapes of its tensors. Raises CheckpointError if it is none."""
    first, latent = shapes.get("encoder.conv1.weight"), shapes.get("conv2.weight")
    if first is None or latent is None or len(first) != 5 or len(latent) != 5:
        raise CheckpointError(f"{what} is no Wan 2.1 VAE: it lacks 'encoder.conv1.weight' or 'conv2.weight'")
    if first[1] != 3:
        raise CheckpointError(f"{what} takes {first[1]} channels where 3 is right: it is the VAE of another model, such as Wan 2.2 5B")
    # Walk the encoder: residual blocks of one width, then the step that halves the grid.
    widths, time, blocks, here = [], [], 0, 0
    for i in range(1 + max((int(n.split(".")[2]) for n in shapes if n.startswith("encoder.downsamples.")), default=-1)):
        name = f"encoder.downsamples.{i}"
        if residual := shapes.get(f"{name}.residual.6.weight"):
            here, blocks = residual[0], blocks + 1
        else:
            widths.append(here)
            time.append(f"{name}.time_conv.weight" in shapes)
    widths.append(here)
    if not all(widths) or any(w % first[0] for w in widths) or blocks % len(widths):
        raise CheckpointError(f"{what} is no Wan 2.1 VAE: its encoder has the widths {widths} on a first layer of {first[0]}")
    mult = tuple(w // first[0] for w in widths)
    return VAEConfig(dim=first[0], z_dim=latent[0], dim_mult=mult, num_res_blocks=blocks // len(widths), temporal_downsample=tuple(time))


def read_vae(path: str | Path) -> tuple[dict[str, Tensor], VAEConfig]:
    """Tensors as they are stored, and sizes of a VAE file; all checked. Raises CheckpointError."""
    from .autoencoder import VideoVAE

    path = Path(path)
    layout = read_layout(path)[1]
    config = detect_vae({name: t.shape for name, t in layout.items()}, path.name)
    return _read(path, layout, "", VideoVAE(config, device="meta")), config


def load_vae(path: str | Path, dtype: torch.dtype | None = None, device="cpu"):
    """A VideoVAE ready to run, in `dtype`; None for float32, as the layers that touch the latents need it. Raises CheckpointError."""
    from .autoencoder import VideoVAE

    tensors, config = read_vae(path)
    model = VideoVAE(config, device="meta")
    model.load_state_dict({name: t.to(device, dtype or torch.float32) for name, t in tensors.items()}, assign=True)
    return model.eval()


def save_vae(path: str | Path, vae: nn.Module, header: ModelHeader | None = None) -> None:
    """Writes a VideoVAE as it is (float32 after training)."""
    save_model(path, vae.state_dict(), header)


# -- text encoder ----------------------------------------------------------------------------------------------------------------


def detect_text(shapes: Mapping[str, tuple[int, ...]], what: str) -> TextConfig:
    """Sizes of a ByteTextEncoder from the shapes of its tensors. Raises CheckpointError if it is none."""
    needed = ("stem.weight", "piece_embedding.weight", "blocks.0.qkv.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise CheckpointError(f"{what} is no text encoder of this pack: it lacks {_listed(missing)}")
    stem, pieces, _ = (shapes[name] for name in needed)
    stride = stem[-1] - 2 * OVERLAP
    return TextConfig(stem[0], _count_blocks(shapes), max(1, stem[0] // TEXT_HEAD_DIM), stride, pieces[0])


def read_text(path: str | Path) -> tuple[dict[str, Tensor], TextConfig, ModelHeader]:
    """Tensors as they are stored, sizes and header of a text encoder file; all checked. Raises CheckpointError."""
    path = Path(path)
    layout = read_layout(path)[1]
    config = detect_text({name: t.shape for name, t in layout.items()}, path.name)
    return _read(path, layout, "", ByteTextEncoder(config, device="meta")), config, model_header(path)


def load_text(path: str | Path, dtype: torch.dtype | None = None, device="cpu") -> ByteTextEncoder:
    """A ByteTextEncoder ready to run, in `dtype`; None for that of the file's matrices. Raises CheckpointError."""
    tensors, config, _ = read_text(path)
    dtype = dtype or tensors["stem.weight"].dtype
    model = ByteTextEncoder(config, device="meta")
    model.load_state_dict({name: t.to(device, dtype) for name, t in tensors.items()}, assign=True)
    return model.eval()
