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
from ..world import (
    CAMERAS,
    COLOURS,
    EVENTS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    STORY_CAMERAS,
    STORY_MOTIONS,
    STORY_SHAPES,
    TIMES_OF_DAY,
    Scene,
    caption,
    facts,
)
from .feed import Prefetcher, workers
from .optim import Optimizer

BATCH = {"short": 64, "long": 24}
"""Captions a step. A short one has an eighth of the rows and names the bodies just as well, so reading begins with those."""

SHORT_SHARE = (0.9, 0.3)
"""Of the steps, at the start and at the end."""

ASKED = 400
"""Scenes whose captions are asked of now and then, to see how far reading has come."""

MOST_BODIES = 6
TRUE_WEIGHT = 4.0
"""A scene has one in twenty facts; without this the answer no to all is a place to rest."""


def fact_names() -> list[str]:
    """All facts that a scene can have, as names: the columns of what the rows are asked for.

    Single words are asked for too: what is red *and* a ball is found much later by an encoder that does not yet know red.
    """
    words = (*SHAPES, *STORY_SHAPES, *SIZES, *MOTIONS, *STORY_MOTIONS, *(f"{first}{event}" for event in EVENTS for first in ("", "first ")))
    words = tuple(dict.fromkeys(words))  # a fall is a motion and an event
    of_bodies = [f"{c} {word}" for c in COLOURS for word in words]
    places = [f"{a} left of {b}" for a in COLOURS for b in COLOURS]
    cameras = [word for kind in (*CAMERAS, *STORY_CAMERAS) for word in (kind, f"then {kind}")]
    return [*COLOURS, *words, *of_bodies, *places, *PLACES, *TIMES_OF_DAY, *cameras, *(f"{n} bodies" for n in range(MOST_BODIES + 1))]


COLUMN = {name: i for i, name in enumerate(fact_names())}


def fact_vector(scene: Scene) -> Tensor:
    """1 for every fact of a scene, float32 [facts]."""
    colours, told = [body.colour for body in scene.objects], facts(scene)
    shown = [scene.objects[fact.value[0]] for fact in told if fact.kind == "colour"]
    names = [f"{len(shown)} bodies", scene.place, scene.time_of_day, scene.camera.kind]
    for body in shown:
        words = (body.shape, body.size, body.motion)
        names += [body.colour, *words, *(f"{body.colour} {word}" for word in words)]
    names += [f"{colours[i]} left of {colours[j]}" for kind, (i, j) in (f for f in told if f.kind == "left of")]
    for first, events in (("", [f.value for f in told if f.kind == "event"]), ("first ", [f.value[0] for f in told if f.kind == "order"])):
        names += [name for event in events for name in (f"{first}{event.kind}", f"{colours[event.body]} {first}{event.kind}")]
    names += [f"then {fact.value}" for fact in told if fact.kind == "camera then"]
    vector = torch.zeros(len(COLUMN))
    vector[[COLUMN[name] for name in names]] = 1
    return vector


class Reader(nn.Module):
    """The encoder with a question for every fact behind every row."""

    def __init__(self, text: ByteTextEncoder):
        super().__init__()
        self.text, self.head = text, nn.Linear(text.config.dim, len(COLUMN)).to(text.device)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Answers [B, L, facts] as logits."""
        return self.head(self.text.states(tokens, lengths))


def reading_loss(reader: Reader, prompts: list[str], targets: Tensor) -> Tensor:
    """Mean cross-entropy of all facts over all rows of all prompts."""
    tokens, lengths = reader.text.tokenize(prompts)
    halves = {name: p.to(torch.bfloat16) for name, p in reader.named_parameters()}  # twice as fast as autocast on a CPU
    answers = torch.func.functional_call(reader, halves, (tokens.to(reader.text.device), lengths)).float()
    rows = torch.arange(answers.shape[1]) < torch.tensor([-(-n // reader.text.config.stride) for n in lengths])[:, None]
    wanted = targets[:, None].expand_as(answers).to(answers.device)
    return F.binary_cross_entropy_with_logits(answers[rows], wanted[rows], pos_weight=wanted.new_tensor(TRUE_WEIGHT))


def write(scenes: list[Scene], kinds: list[tuple[str, str, int]]) -> list[str]:
    """A caption of each scene, of the length, language and phrasing asked for."""
    return [caption(scene, *kind) for scene, kind in zip(scenes, kinds, strict=True)]


def teach_reading(text: ByteTextEncoder, scenes: list[Scene], steps: int, seed: int = 0, log=print, pool: Executor | None = None,
                  ahead: int = 0) -> None:  # fmt: skip
    """Trains the encoder in place on captions of `scenes`, short and long, in both languages; `pool` writes them `ahead` of it."""
    torch.manual_seed(seed)
    reader = Reader(text)
    optimizer = Optimizer(reader, muon_lr=2e-3, adam_lr=3e-3, steps=steps, warmup=20, adam_names=("embedding", "head"))
    targets = torch.stack([fact_vector(scene) for scene in scenes])

    def draw(step: int) -> tuple:
        rng = np.random.default_rng((seed, step))
        begin, end = SHORT_SHARE
        length = "short" if rng.random() < begin + (end - begin) * step / steps else "long"
        chosen = rng.choice(len(scenes), min(BATCH[length], len(scenes)), replace=False)
        kinds = [(length, "zh" if rng.random() < 0.4 else "en", int(rng.integers(2**31))) for _ in chosen]
        return chosen, write, [scenes[i] for i in chosen], kinds

    feed = Prefetcher(draw, pool or workers(0), ahead)
    for step in range(steps):
        chosen, prompts = feed.next(step)
        loss = reading_loss(reader, prompts, targets[torch.from_numpy(chosen)])
        loss.backward()
        optimizer.step(step)
        if (step + 1) % 50 == 0:
            log(f"reading: step {step + 1}/{steps}  loss {loss.item():.4f}", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            told = "  ".join(f"{kind} {share:.2f}" for kind, share in right_answers(reader, scenes[:ASKED]).items())
            log(f"reading: right answers: {told}", flush=True)


@torch.no_grad()
def right_answers(reader: Reader, scenes: list[Scene]) -> dict[str, float]:
    """Share of scenes with one body of which the rows of a long caption, together, tell the right word of each kind."""
    bodies = [(scene, scene.objects[0]) for scene in scenes if len(scene.objects) == 1]
    alone = [scene for scene, body in bodies if body.shape in SHAPES and body.motion in MOTIONS]
    if not alone:
        return {}
    prompts = write(alone, [("long", "zh" if i % 4 == 0 else "en", i) for i in range(len(alone))])
    read = (reader.text.tokenize([prompt], reader.text.device) for prompt in prompts)
    answers = torch.cat([reader(tokens, lengths).float().mean(1) for tokens, lengths in read])
    asked = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "motion": MOTIONS}
    right = {}
    for kind, words in asked.items():
        told = answers[:, [COLUMN[word] for word in words]].argmax(1).tolist()
        right[kind] = sum(words[i] == getattr(scene.objects[0], kind) for i, scene in zip(told, alone)) / len(alone)
    return right
