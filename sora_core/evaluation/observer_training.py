"""Trains the observer on renders, and measures it on renders that it never saw.

    python -m sora_core.evaluation observer --folder runs/observer        # the same command resumes

The clips are rendered once into the folder; held-out combinations are among them, because the observer must read those too.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import atomic_path
from ..training.optim import Average, Optimizer
from ..training.run import Run
from ..world import COLOURS, Scene, facts, render, render_batch, sample_scene
from ..world.camera import picture_paths
from ..world.scene import away
from .adherence import KINDS, found, told_apart, visible
from .observer import BODY, FRAMES, GRID, MIRRORED, SEEN_CAMERAS, SEEN_MOTIONS, SIDE, WEIGHTS, WHOLE, Observer, save_observer

FIRST_SEED, HELD_OUT_SEED = 3_000_000, 4_000_000
SHARD = 256
EMPTY_SHARE = 0.04  # of the clips show nobody, so that a video without bodies is read as one
LATER_SHARE = 0.15  # begin at 10 to 55 seconds, where bodies come back and turn
IGNORED = -1  # of a colour that is absent, or that two bodies have


def window(seed: int) -> tuple[Scene, float, float]:
    """(scene, start, seconds) of one clip."""
    rng = random.Random(f"observer-{seed}")
    seconds = rng.uniform(1.5, 5.0)
    start = rng.uniform(10.0, 55.0) if rng.random() < LATER_SHARE else 0.0
    scene = sample_scene(seed)
    if rng.random() < EMPTY_SHARE:
        scene = replace(scene, objects=(away(scene.objects[0]),))
    return scene, start, seconds


def moments(start: float, seconds: float) -> list[float]:
    return [start + seconds * k / (FRAMES - 1) for k in range(FRAMES)]


def targets(scene: Scene, start: float, seconds: float) -> dict[str, Tensor]:
    """What the observer should answer: indices into the words of BODY and WHOLE, and `path` [colours, FRAMES, 2]."""
    bodies = [] if abs(scene.objects[0].x) > 100 else list(scene.objects)
    told = facts(scene, start, seconds)
    words = {(fact.kind, fact.value[0]): fact.value[1] for fact in told if fact.kind in BODY}
    one = {fact.kind: fact.value for fact in told if not isinstance(fact.value, tuple)}
    camera = " ".join(filter(None, (one["camera"], one.get("camera direction"))))
    whole = {"place": scene.place, "time of day": scene.time_of_day, "camera": camera, "count": len(bodies)}
    made = {name: torch.tensor(WHOLE[name].index(value)) for name, value in whole.items()}
    made |= {name: torch.full((len(COLOURS),), IGNORED) for name in BODY}
    made |= {"presence": torch.zeros(len(COLOURS)), "path": torch.zeros(len(COLOURS), FRAMES, 2)}
    seen = picture_paths(scene, moments(start, seconds))
    colours = [body.colour for body in bodies]
    for i, colour in enumerate(colours):
        made["presence"][COLOURS.index(colour)] = 1
        if colours.count(colour) == 1:
            made["path"][COLOURS.index(colour)] = seen[i]
            for name, values in BODY.items():
                made[name][COLOURS.index(colour)] = values.index(words[name, i])
    return made


@torch.inference_mode()
def make_pool(folder: Path, shards: int, device: str = "cpu") -> None:
    """Renders what is missing of `shards` files of SHARD clips: frames uint8 [n, FRAMES, SIDE, SIDE, 3] and their targets."""
    folder.mkdir(parents=True, exist_ok=True)
    started, made = time.monotonic(), 0
    for index in range(shards):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            continue
        clips = [window(FIRST_SEED + index * SHARD + i) for i in range(SHARD)]
        frames = render_batch([scene for scene, _, _ in clips], [moments(*when) for _, *when in clips], SIDE, SIDE, device)
        answers = [targets(*clip) for clip in clips]
        tensors = {name: torch.stack([a[name] for a in answers]) for name in answers[0]} | {"frames": torch.stack(frames).cpu()}
        data = save(tensors)
        with atomic_path(path) as part:
            part.write_bytes(data)
        made += SHARD
        print(f"clips {index + 1}/{shards} of {SHARD}  {made / (time.monotonic() - started):.0f} a second", flush=True)


def batch(pool: list[dict[str, Tensor]], size: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Random clips of one file, [B, FRAMES, 3, SIDE, SIDE] in -1..1 under `frames`, half of them mirrored, a little disturbed."""
    shard = pool[rng.integers(len(pool))]
    rows = torch.from_numpy(rng.choice(len(shard["frames"]), size, replace=False))
    drawn = {name: t[rows] for name, t in shard.items()}
    drawn["frames"] = disturb(drawn["frames"].movedim(-1, 2).float() / 127.5 - 1, rng)
    flip = torch.from_numpy(rng.random(size) < 0.5)
    return mirror(drawn, flip)


def disturb(clips: Tensor, rng: np.random.Generator) -> Tensor:
    """What a codec and a generator do to frames: other brightness and contrast, softness, grain."""
    size = (len(clips), 1, 1, 1, 1)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, size)).float()

    soft = F.avg_pool2d(clips.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(clips)
    clips = clips.lerp(soft, draw(-0.3, 0.7)) * draw(0.92, 1.08) + draw(-0.05, 0.05)
    grain = torch.randn(clips[:, :, :1].shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
    return clips + grain * draw(0.0, 0.04)


def mirror(drawn: dict[str, Tensor], flip: Tensor) -> dict[str, Tensor]:
    """The clips where `flip` [B] is set are exchanged left and right, and so are the words for it."""
    drawn = dict(drawn)
    wide = flip.view(-1, 1, 1, 1, 1)
    drawn["frames"] = torch.where(wide, drawn["frames"].flip(-1), drawn["frames"])
    drawn["path"] = torch.where(flip.view(-1, 1, 1, 1), drawn["path"] * torch.tensor([-1.0, 1.0]), drawn["path"])
    for name, words in (("motion", SEEN_MOTIONS), ("camera", SEEN_CAMERAS)):
        table = torch.tensor([words.index(MIRRORED.get(word, word)) for word in words] + [IGNORED])  # the last is IGNORED's own
        drawn[name] = torch.where(flip.view(-1, *[1] * (drawn[name].ndim - 1)), table[drawn[name]], drawn[name])
    return drawn


def cell_shares(path: Tensor) -> Tensor:
    """[..., 2] in -1..1 -> [..., GRID * GRID]: shares of the four nearest cells whose mean place is the point itself."""
    at = ((path + 1) * (GRID / 2) - 0.5).clamp(0, GRID - 1 - 1e-3)
    low = at.floor()
    part = at - low
    out = path.new_zeros(*path.shape[:-1], GRID * GRID)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1])
            index = ((low[..., 1] + dy) * GRID + low[..., 0] + dx).long()
            out.scatter_add_(-1, index[..., None], share[..., None])
    return out


def loss(answers: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of every answer, by name."""
    losses = {"presence": 4 * F.binary_cross_entropy_with_logits(answers["presence"], wanted["presence"])}
    for name in BODY:
        losses[name] = F.cross_entropy(answers[name].flatten(0, 1), wanted[name].flatten().long(), ignore_index=IGNORED)
    for name in WHOLE:
        losses[name] = F.cross_entropy(answers[name], wanted[name].long())
    known = wanted["shape"] != IGNORED  # B c
    shares = cell_shares(wanted["path"][known])  # n T GG
    where = answers["where"].transpose(1, 2)[known].log_softmax(-1)
    losses["where"] = -(shares * where).sum(-1).mean()
    return losses


def train_observer(folder: str | Path, steps: int = 3600, size: int = 16, shards: int = 48, seed: int = 0) -> Observer:
    """Makes the pool, trains for `steps` batches of `size` clips, resuming from `folder`; returns the averaged weights."""
    folder, device = Path(folder), "cuda" if torch.cuda.is_available() else "cpu"
    make_pool(folder / "clips", shards, device)
    pool = [load_file(path) for path in sorted((folder / "clips").glob("*.safetensors"))[:shards]]
    torch.manual_seed(seed)
    observer = Observer().to(device)
    optimizer = Optimizer(observer, muon_lr=2e-3, adam_lr=2e-3, steps=steps, warmup=40, decay=0.6, adam_names=("where", "stem", "filmed"))
    average = Average(observer, 0.99)
    run = Run(folder, steps)
    for step in range(run.resume(observer, optimizer, average), steps):
        drawn = {name: t.to(device) for name, t in batch(pool, size, np.random.default_rng((seed, step))).items()}
        with torch.autocast(device, torch.bfloat16):
            answers = observer(drawn["frames"])
        losses = loss(answers, drawn)
        sum(losses.values()).backward()
        optimizer.step(step)
        average.update(step)
        run.record(step + 1, 50, **{name: value.item() for name, value in losses.items()})
        run.save(step + 1, observer, optimizer, average)
    average.swap()
    return observer.cpu().eval()


def measure(observer: Observer, clips: int = 500, first_seed: int = HELD_OUT_SEED) -> dict[str, tuple[int, int]]:
    """(facts found, facts) by kind, on renders that no training had: 128 x 128, half of them 2 s and half 5 s long."""
    counts = {kind: [0, 0] for kind in KINDS}
    for seed in range(first_seed, first_seed + clips):
        scene, seconds = sample_scene(seed), (2.0, 5.0)[seed % 2]
        if not told_apart(scene):
            continue
        [reading] = observer.read([render(scene, moments(0.0, seconds), 128, 128)])
        for fact in visible(scene, seconds):
            counts[fact.kind][0] += found(fact, reading)
            counts[fact.kind][1] += 1
    return {kind: (hits, n) for kind, (hits, n) in counts.items() if n}


def teach(folder: str | Path, steps: int) -> None:
    """Trains, measures and writes the shipped observer."""
    observer = train_observer(folder, steps)
    observer.held_out = measure(observer)
    for kind, (hits, n) in observer.held_out.items():
        print(f"{kind}: {hits / n:.3f} of {n}", flush=True)
    save_observer(observer)
    print(WEIGHTS)
