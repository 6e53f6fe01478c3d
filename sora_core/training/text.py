"""Teaches the text encoder to read, before it meets the transformer.

Every row of its output is asked for every fact of the scene that the caption tells of. Captions cost nothing, so this takes minutes;
without it the transformer learns to ignore the words, because its attention over a hundred random rows begins as their mean and says
next to nothing (measured: after 1,100 steps the loss was the same to four digits with right, wrong and no captions).
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..text import ByteTextEncoder
from ..world import CAMERAS, COLOURS, MOTIONS, PLACES, SHAPES, SIZES, TIMES_OF_DAY, Scene, caption, facts
from .feed import Feed, workers
from .optim import Optimizer

BATCH = 48


def fact_names() -> list[str]:
    """All facts that a scene can have, as names: the columns of what the rows are asked for."""
    of_bodies = [f"{c} {word}" for c in COLOURS for word in (*SHAPES, *SIZES, *MOTIONS)]
    places = [f"{a} left of {b}" for a in COLOURS for b in COLOURS]
    return [*of_bodies, *places, *PLACES, *TIMES_OF_DAY, *CAMERAS, "1 bodies", "2 bodies", "3 bodies"]


COLUMN = {name: i for i, name in enumerate(fact_names())}


def fact_vector(scene: Scene) -> Tensor:
    """1 for every fact of a scene, float32 [facts]."""
    colours = [body.colour for body in scene.objects]
    names = [f"{len(colours)} bodies", scene.place, scene.time_of_day, scene.camera.kind]
    names += [f"{body.colour} {word}" for body in scene.objects for word in (body.shape, body.size, body.motion)]
    names += [f"{colours[i]} left of {colours[j]}" for kind, (i, j) in (f for f in facts(scene) if f.kind == "left of")]
    vector = torch.zeros(len(COLUMN))
    vector[[COLUMN[name] for name in names]] = 1
    return vector


def reading_loss(text: ByteTextEncoder, head: nn.Linear, prompts: list[str], targets: Tensor) -> Tensor:
    """Mean cross-entropy of all facts over all rows of all prompts."""
    tokens, lengths = text.tokenize(prompts)
    with torch.autocast(text.device.type, torch.bfloat16):
        answers = head(text.states(tokens.to(text.device), lengths)).float()  # B L facts
    rows = torch.arange(answers.shape[1]) < torch.tensor([-(-n // text.config.stride) for n in lengths])[:, None]
    wanted = targets[:, None].expand_as(answers).to(answers.device)
    return F.binary_cross_entropy_with_logits(answers[rows], wanted[rows])


def write(scenes: list[Scene], kinds: list[tuple[str, str, int]]) -> list[str]:
    """A caption of each scene, of the length, language and phrasing asked for."""
    return [caption(scene, *kind) for scene, kind in zip(scenes, kinds, strict=True)]


def teach_reading(text: ByteTextEncoder, scenes: list[Scene], steps: int, seed: int = 0, log=print, pool: Executor | None = None,
                  ahead: int = 0) -> None:  # fmt: skip
    """Trains the encoder in place on captions of `scenes`, long and short, in both languages; `pool` writes them `ahead` of it."""
    torch.manual_seed(seed)
    head = nn.Linear(text.config.dim, len(COLUMN)).to(text.device)
    both = nn.ModuleDict({"text": text, "head": head})
    optimizer = Optimizer(both, muon_lr=2e-3, adam_lr=3e-3, steps=steps, warmup=20, adam_names=("embedding", "head"))
    targets = torch.stack([fact_vector(scene) for scene in scenes])

    def draw(step: int) -> tuple:
        rng = np.random.default_rng((seed, step))
        chosen = rng.choice(len(scenes), min(BATCH, len(scenes)), replace=False)
        kinds = [("long" if rng.random() < 0.6 else "short", "zh" if rng.random() < 0.4 else "en") for _ in chosen]
        kinds = [(*kind, int(rng.integers(2**31))) for kind in kinds]
        return chosen, write, [scenes[i] for i in chosen], kinds

    feed = Feed(draw, pool or workers(0), ahead)
    for step in range(steps):
        chosen, prompts = feed.next(step)
        loss = reading_loss(text, head, prompts, targets[torch.from_numpy(chosen)])
        loss.backward()
        optimizer.step(step)
        if (step + 1) % 50 == 0:
            log(f"reading: step {step + 1}/{steps}  loss {loss.item():.4f}", flush=True)
