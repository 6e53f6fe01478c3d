"""Low-rank adapters (LoRA, arXiv 2106.09685) in the key names that the host's LoRA loader takes.

A weight W [out, in] becomes W + B A with A [rank, in] and B [out, rank]. B begins as zero, so training begins at the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import save_model

# Where the host has our two models (its MODEL and the text encoder of its CLIP).
PREFIXES = {"transformer.": "diffusion_model.", "text.": "text_encoders.sora.transformer."}


class Adapter(nn.Module):
    """Adapters of every linear layer inside the blocks of a student.

    Args:
        student: module with the parts `transformer` and `text`.
        rank: of each adapter.
    """

    def __init__(self, student: nn.Module, rank: int):
        super().__init__()
        linear = {name: m for name, m in student.named_modules() if isinstance(m, nn.Linear) and ".blocks." in name}
        self.names = list(linear)
        device = next(student.parameters()).device
        self.a = nn.ParameterList(torch.randn(rank, m.in_features, device=device) * m.in_features**-0.5 for m in linear.values())
        self.b = nn.ParameterList(torch.zeros(m.out_features, rank, device=device) for m in linear.values())

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` of the student by name, those with an adapter with it added."""
        added = {f"{name}.weight": weights[f"{name}.weight"] + b @ a for name, a, b in zip(self.names, self.a, self.b)}
        return {**weights, **added}

    def file_tensors(self) -> dict[str, Tensor]:
        """Tensors as the host names them."""
        tensors = {}
        for name, a, b in zip(self.names, self.a, self.b):
            part = next(p for p in PREFIXES if name.startswith(p))
            key = PREFIXES[part] + name.removeprefix(part)
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        return {key: t.detach().to(torch.bfloat16) for key, t in tensors.items()}

    def save(self, path: str | Path) -> None:
        """Writes the file for the host's folder models/loras."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, self.file_tensors())
