"""Trains the text encoder and the transformer together on a latent bank.

    python -m sora_core.training transformer --folder runs/s1 --bank runs/bank --steps 8000

On two cores (no GPU) a step of 5,120 tokens takes one to two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelHeader, TextConfig, TransformerConfig, preset
from ..generate import Pipeline
from ..text import ByteTextEncoder
from ..transformer import PreparedText, SpacetimeTransformer
from .bank import Bank, Shard
from .objective import SIGMA_MEAN, Lesson, detail, draw_captions, lesson
from .optim import Average, Optimizer
from .run import Run
from .text import teach_reading

NATIVE_FPS = 8.0
SHIFT = 3.0  # of the sampling schedule; small latents need less than the public model's 8

# These are no matrices between hidden states: Muon's orthogonal update does not suit tables, inputs and outputs.
ADAM_NAMES = ("embedding", "pieces", "modulation", "time_", "head.head")


@dataclass(frozen=True)
class Settings:
    """One stage of training.

    `still_share`, `sigma_mean` and `detail` go linearly from their first to their second value over the run: pictures before clips; the
    words, which only count at high noise, before the details; bodies, which fill a tenth of a picture and most of a caption, before
    all else. The last `decay` of the run lowers the learning rate.
    `start` is what to go on from: a model file with its companions, or the folder of an earlier run. Before anything else the text
    encoder reads for `reading_steps`.
    """

    size: str = "mini"
    steps: int = 8000
    tokens: int = 5120
    muon_lr: float = 2e-3
    adam_lr: float = 1.5e-3
    still_share: tuple[float, float] = (0.6, 0.2)
    decay: float = 0.5
    sigma_mean: tuple[float, float] = (2.0, SIGMA_MEAN)
    detail: tuple[float, float] = (4.0, 0.0)
    reading_steps: int = 1200
    start: str = ""
    seed: int = 0


class Student(nn.Module):
    """Text encoder and transformer as one module, so that one optimiser and one average hold both."""

    def __init__(self, config: TransformerConfig, text: TextConfig):
        super().__init__()
        self.text, self.transformer = ByteTextEncoder(text), SpacetimeTransformer(config)

    def prepared_text(self, words: list[list[str]]) -> PreparedText:
        """What the transformer's `prepare_text` gives for global words and those of each shot.

        The zero columns of the text states are not multiplied here: that saves a fifth of a step on stills.
        """
        parts = []
        for prompts in words:
            tokens, lengths = self.text.tokenize(prompts)
            states = self.text.states(tokens.to(self.text.device), lengths)
            parts.append(F.pad(states, (0, 0, 0, self.text.rows(lengths) - states.shape[1])))
        states = torch.cat(parts, 1)
        first, activation, second = self.transformer.text_embedding
        rows = second(activation(F.linear(states, first.weight[:, : states.shape[-1]], first.bias)))
        bounds = np.cumsum([part.shape[1] for part in parts]).tolist()
        return PreparedText([block.cross_attn.keys_values(rows) for block in self.transformer.blocks], bounds)

    def forward(self, noisy: Tensor, timestep: Tensor, words: list[list[str]], positions: Tensor, shots: list[int] | None = None) -> Tensor:
        return self.transformer(noisy, timestep, text=self.prepared_text(words), positions=positions, shots=shots)


def velocity_loss(student: Student, made: Lesson, words: list[list[str]], seed: int, weight_of_detail: float = 0.0) -> Tensor:
    """Mean squared error of the velocity n - x0 over the cells that are to be made (rectified flow, arXiv 2209.03003).

    `words` are those of the distinct records of the batch. Where there is more to see (`detail`) the error may weigh more; that bends
    what is learned towards such places, so it should end with 0.
    """
    device = next(student.parameters()).device
    noise = torch.randn(made.latents.shape, generator=torch.Generator().manual_seed(seed))
    sigma = made.pixel_sigma
    noisy = made.latents.lerp(noise, sigma.expand_as(noise))
    # A bfloat16 copy of all weights, made once a step: autocast would keep norms and modulations in float32 and cast at every layer.
    halves = {name: p.to(torch.bfloat16) for name, p in student.named_parameters()}
    inputs = (noisy.to(device, torch.bfloat16), made.timestep.to(device), words, made.positions.to(device), made.shots)
    velocity = torch.func.functional_call(student, halves, inputs)
    error = (velocity.float() - (noise - made.latents).to(device)).square()
    weight = ((sigma > 0) * (1 + weight_of_detail * detail(made.latents))).to(error).expand_as(error)
    return (error * weight).sum() / weight.sum().clamp_min(1)


def choose_shard(bank: Bank, still_share: float, rng: np.random.Generator) -> Shard:
    stills = [s for s in bank.shards if s.latents.shape[2] == 1]
    clips = [s for s in bank.shards if s.latents.shape[2] > 1]
    pool = stills if stills and (not clips or rng.random() < still_share) else clips
    return pool[rng.integers(len(pool))]


def train_transformer(folder: str, bank_folder: str, settings: Settings) -> Student:
    """Trains for `settings.steps`, resuming from `folder` if it was started there; returns the averaged weights on the CPU."""
    run, bank = Run(folder, settings.steps), Bank(bank_folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(settings.seed)
    student = Student(preset(settings.size), TextConfig()).to(device)
    rates = {"muon_lr": settings.muon_lr, "adam_lr": settings.adam_lr}
    optimizer = Optimizer(student, **rates, steps=settings.steps, warmup=50, decay=settings.decay, adam_names=ADAM_NAMES)
    average = Average(student, 0.998)
    first = run.resume(student, optimizer, average)
    if first == 0:
        begin(student, bank, settings)
        average.reset()
    for step in range(first, settings.steps):
        if step % 50 == 0:
            bank.refresh()
        # The lesson of a step is drawn from the step alone, so a resumed run sees what an uninterrupted one would have seen.
        rng = np.random.default_rng((settings.seed, step))
        curves = (settings.still_share, settings.sigma_mean, settings.detail)
        still_share, sigma_mean, weight_of_detail = (a + (b - a) * step / settings.steps for a, b in curves)
        shard = choose_shard(bank, still_share, rng)
        made = lesson(shard, settings.tokens, NATIVE_FPS, rng, sigma_mean)
        loss = velocity_loss(student, made, draw_captions(shard, made, rng), int(rng.integers(2**62)), weight_of_detail)
        loss.backward()
        norm = optimizer.step(step)
        average.update(step)
        kind = "still" if shard.latents.shape[2] == 1 else "clip"
        run.record(step + 1, 50, **{"loss": loss.item(), f"loss_{kind}": loss.item(), "grad": norm, "samples": len(made.latents)})
        run.save(step + 1, student, optimizer, average)
    average.swap()
    return student.cpu().eval()


def begin(student: Student, bank: Bank, settings: Settings) -> None:
    """What a new run starts from: earlier weights, or none; a text encoder that can read, and cross-attention that can hear it."""
    if settings.start.endswith(".safetensors"):
        earlier = Pipeline.load(settings.start, torch.float32)
        if earlier.transformer.config != student.transformer.config:
            raise ValueError(f"start: {settings.start} is not of size {settings.size!r}: choose the size it was trained with")
        student.transformer.load_state_dict(earlier.transformer.state_dict())
        student.text.load_state_dict(earlier.text.state_dict())
    elif settings.start:
        student.load_state_dict(averaged_student(settings.start, settings)[0].state_dict())
    scenes = [shots[0] for shard in bank.shards for shots in shard.scenes]
    teach_reading(student.text, scenes, settings.reading_steps, settings.seed)
    if not settings.start:
        hear_anew(student)


@torch.no_grad()
def hear_anew(student: Student) -> None:
    """Embeds text rows at about their own size, 1, where the public start of 0.02 leaves a whisper, and starts cross-attention afresh.

    A transformer that met words before it could use them has learned to attend to the zero rows, and gets no gradient from any other.
    What is heard counts for nothing at first, so all else of an earlier transformer goes on as it was.
    """
    transformer = student.transformer
    first, _, second = transformer.text_embedding
    nn.init.normal_(first.weight, std=student.text.config.dim**-0.5)
    nn.init.normal_(second.weight, std=(2 / second.in_features) ** 0.5)
    for block in transformer.blocks:
        heard = block.cross_attn
        for layer in (heard.q, heard.k, heard.v):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for norm in (heard.norm_q, heard.norm_k, block.norm3):
            nn.init.ones_(norm.weight)
        for silent in (heard.o.weight, heard.o.bias, block.norm3.bias):
            nn.init.zeros_(silent)


def averaged_student(folder: str | Path, settings: Settings) -> tuple[Student, int]:
    """The averaged weights of a run as they were last saved, and the step; for sheets while the run goes on."""
    state = torch.load(Path(folder) / "state.pt", weights_only=True, map_location="cpu")
    student = Student(preset(settings.size), TextConfig())
    student.load_state_dict(state["model"])
    with torch.no_grad():
        for p, average in zip(student.parameters(), state["average"], strict=True):
            p.copy_(average)
    return student.eval(), state["step"]


def header(name: str, words: tuple[str, ...], preview: list[list[float]]) -> ModelHeader:
    """The facts of a model trained here. Preview factors are fitted by `fit_preview`."""
    return ModelHeader(name=name, noise="frame", shift=SHIFT, native_fps=NATIVE_FPS, max_seconds=5.0, vae=f"{name}_vae.safetensors",
                       text=f"{name}_text.safetensors", preview_factors=tuple(map(tuple, preview)), words=words)  # fmt: skip


def fit_preview(latents: Tensor, pixels: Tensor) -> list[list[float]]:
    """Least-squares map from a latent cell to its mean colour: 16 rows of RGB and one of bias, for latents [n, 16] and pixels [n, 3]
    in -1..1."""
    ones = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    return torch.linalg.lstsq(ones, pixels).solution.tolist()
