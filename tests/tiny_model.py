"""A model of the shipped format with random weights, small enough that a video takes a second."""

from pathlib import Path

import torch

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.checkpoint import save_model
from sora_pack.sora_core.config import ModelHeader, TextConfig, TransformerConfig, VAEConfig
from sora_pack.sora_core.text import ByteTextEncoder
from sora_pack.sora_core.transformer import SpacetimeTransformer

NAME = "tiny"
WORDS = ("a", "red", "ball", "rolls", "左")
HEADER = ModelHeader(
    name=NAME, noise="frame", shift=3.0, motion=2.0, native_fps=8.0, vae=f"{NAME}_vae.safetensors", text=f"{NAME}_text.safetensors",
    words=WORDS, preview_factors=((0.1, 0.0, 0.0),) * 16 + ((0.0, 0.1, 0.2),),
)  # fmt: skip


def write_tiny_model(models: Path, name: str = NAME, **header) -> Path:
    """Writes transformer, VAE and text encoder below the host's models folder; returns the transformer's path."""
    torch.manual_seed(0)
    facts = ModelHeader(**{**HEADER.__dict__, **header})
    transformer = SpacetimeTransformer(TransformerConfig(dim=128, ffn_dim=256, num_layers=2))
    # The zero head of a fresh model would make every video the same.
    torch.nn.init.normal_(transformer.head.head.weight, std=0.02)
    files = {
        f"diffusion_models/{name}.safetensors": transformer,
        f"vae/{facts.vae}": VideoVAE(VAEConfig(dim=16)),
        f"text_encoders/{facts.text}": ByteTextEncoder(TextConfig(dim=64, num_layers=1, num_heads=1)),
    }
    for relative, model in files.items():
        path = models / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, model.state_dict(), facts)
    return models / f"diffusion_models/{name}.safetensors"
