"""Sample sheets while a run goes on: the same few prompts, the same noise, as the weights of the moment make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..autoencoder import VideoVAE, denormalise, frames_of
from ..config import ModelHeader
from ..generate import GUIDANCE, generate
from ..pictures import contact_sheet, evenly
from ..shapes import VideoShape
from ..world import caption, sample_scene

if TYPE_CHECKING:
    from .run import Run
    from .transformer import Student

CELLS, SIDE, SHOWN = 5, 128, 3  # two seconds at 8 frames a second; moments of each video on the sheet
STEPS = 16


def world_prompts(count: int = 6) -> list[str]:
    """Long captions of held-out scenes, every third one Chinese."""
    return [caption(sample_scene(seed, held_out=True), "long", "zh" if seed % 3 == 2 else "en", seed) for seed in range(count)]


@torch.inference_mode()
def videos(student: Student, vae: VideoVAE, prompts: list[str], header: ModelHeader, side: int = 0) -> torch.Tensor:
    """Frames uint8 [n, T, H, W, 3] of two seconds for each prompt, in bfloat16, sampled as `header` says."""
    device = vae.conv2.weight.device
    student = student.to(device, torch.bfloat16)
    shape = VideoShape(side or SIDE, side or SIDE, CELLS, header.native_fps)
    words = student.text.encode(prompts).to(torch.bfloat16)
    z = generate(student.transformer, header, words, shape, steps=STEPS, guidance=GUIDANCE)
    return frames_of(vae.decode(denormalise(z).to(vae.conv2.weight.dtype)))


class Sheets:
    """Draws `count` sheets over a run, the last at its end, into its folder, sampled as `header` says."""

    def __init__(self, run: Run, count: int, vae: VideoVAE, header: ModelHeader):
        self.run, self.count, self.vae, self.header = run, count, vae, header
        self.prompts = world_prompts()
        self.drawn = int(run.share(run.step) * count)

    def draw(self, share: float, model: Callable[[], Student]) -> None:
        """Draws a sheet if one is due; `model` gives what to show."""
        if int(share * self.count) <= self.drawn:
            return
        self.drawn = int(share * self.count)
        made = videos(model(), self.vae, self.prompts, self.header)
        moments = evenly(made.shape[1], SHOWN)
        path = self.run.folder / f"sheet_{round(100 * share):03d}.png"
        contact_sheet([frame for video in made for frame in video[moments]], path, columns=SHOWN, labels=self.prompts)
