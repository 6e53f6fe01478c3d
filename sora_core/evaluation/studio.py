"""Makes the videos that the rows measure, and keeps their latents: a killed scorecard goes on, and rows share clips."""

from __future__ import annotations

import bisect
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..autoencoder import denormalise, frames_of, normalise, pixels_of
from ..checkpoint import save_model
from ..generate import GUIDANCE, SOLVER, STEPS, beginning
from ..jobs import FORMAT
from ..pipeline import Pipeline
from ..plan import Lattice, single
from ..shapes import VideoShape


def digest(pipeline: Pipeline) -> str:
    """Twelve letters that name a model: its weights, and its header, which says how it is sampled; by which plan is said apart."""
    total = hashlib.sha256(repr(replace(pipeline.header, foresight=False)).encode())
    for module in (pipeline.transformer, pipeline.text, pipeline.vae):
        for name, tensor in sorted(module.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:12]


@dataclass
class Studio:
    """A model with the settings of the scorecard. `folder` keeps latents by a hash of all that determines them."""

    pipeline: Pipeline
    folder: Path
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self):
        self.model = digest(self.pipeline)
        self.folder.mkdir(parents=True, exist_ok=True)

    def shape(self, width: int, height: int, frames: int, fps: float | None = None) -> VideoShape:
        strides = self.pipeline.vae.strides
        return VideoShape(width, height, strides.cells(frames), fps or self.pipeline.header.native_fps, strides)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 frames -> normalised latents [1, C, F, h, w], float32 on the CPU."""
        vae = self.pipeline.vae
        return normalise(vae.encode(pixels_of(frames)[None].to(vae.conv2.weight)).float()).cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents -> uint8 frames."""
        vae = self.pipeline.vae
        return frames_of(vae.decode(denormalise(latents).to(vae.conv2.weight))[0])

    def video(self, prompt: str, shape: VideoShape, seed: int, known: Tensor | None = None, guides: dict[int, Tensor] | None = None,
              shots: dict[int, str] | None = None) -> Tensor:  # fmt: skip
        """Frames uint8 [T, H, W, 3] of a prompt, in one pass; a video without any words is made without guidance.

        known: normalised latents [1, C, k, h, w] of the first k cells. guides: frame -> latents [1, C, 1, h, w] of a picture there.
        shots: first cell -> words that its shot hears beside the prompt; the first shot begins at cell 0.
        """
        known = torch.zeros(1, shape.latent[0], 0, *shape.latent[2:]) if known is None else known
        guides, shots = guides or {}, shots or {}
        given = torch.cat([known, *guides.values()], 2)
        name = {"model": self.model, "steps": self.steps, "guidance": self.guidance, "solver": SOLVER, "prompt": prompt, "seed": seed}
        name["format"] = FORMAT
        name |= {"shape": [*shape.latent, shape.fps], "known": known.shape[2], "guides": list(guides)}
        name["given"] = hashlib.sha256(given.numpy().tobytes()).hexdigest()
        if shots:
            name["shots"] = list(shots.items())
        path = self.folder / f"{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:24]}.safetensors"
        if not path.is_file():
            save_model(path, {"latents": self._make(prompt, shape, seed, known, guides, shots)})
        return self.decode(load_file(path)["latents"])

    def _make(self, prompt: str, shape: VideoShape, seed: int, known: Tensor, guides: dict[int, Tensor], shots: dict[int, str]) -> Tensor:
        """Latents of all cells, in one pass; arguments as for `video`."""
        firsts = list(shots)
        numbers = tuple(bisect.bisect_right(firsts, cell) - 1 for cell in range(shape.cells)) if shots else ()
        plan = single(Lattice(shape.cells, frozenset(range(known.shape[2])), numbers))
        options = {"seed": seed, "steps": self.steps, "guidance": self.guidance, "solver": SOLVER, "plan": plan}
        return self.pipeline.cells(prompt, shape, list(shots.values()), guides=list(guides.items()), **beginning(known, shape), **options)
