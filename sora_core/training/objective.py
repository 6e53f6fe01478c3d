"""The whole objective of the design in one function: which cells a model sees, what is known of them, how noisy the rest is.

Every verb of the pack is a choice of known cells, so one training step is one random such choice: prefixes, windows and strided
subsets of a clip; nothing, the beginning, the end or any cells known; guide cells; boxes in space; noise levels shared or
independent; shots. All samples of a batch share the cells, and differ in noise and (mostly) in what is known; a few in a row share
their scene and its caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..flow import logit_normal_sigma, shift_sigma
from ..plan import BESIDE, DISTANCE
from ..shapes import PATCH, Strides
from ..world import Scene, caption, introduce
from .bank import Shard

SIGMA_MEAN, SIGMA_STD = 0.9, 1.0  # of the logit: sampling with a shifted schedule spends its steps at high noise
REPEATS_STILL, REPEATS_CLIP = 4, 2  # of a record in a batch: reading a caption costs more than a still, so it serves several noises
EVERYWHERE = 0.2  # share of levels that are as sampling has them: the normal ones hardly reach its first steps, where all is noise
INDEPENDENT = 0.15  # share of batches with an own noise level for every cell
TEXT_DROPOUT = 0.1
TAILS = 0.5  # share of whole clips that lead to a known end, where their shard has some
WORDS_ALONE = 0.38  # of the other clips, share of which everything is to be made
GIVEN = {"first": 0.17, "beginning": 0.17, "end": 0.12, "both": 0.1, "any": 0.06}  # what the rest know, and their shares beside it
WINDOWS = (0.35, 0.35, 0.12, 0.18)  # shares of `choose_cells`: all, a prefix, a window, a subset
WINDOWS_OF_STORIES = (0.7, 0.12, 0.06, 0.12)  # what happens first and then is seen in the whole alone
GAPS, LONG = 0.3, 4 * DISTANCE  # share of the batches of a video of more cells than this that are a gap of its sketch
LONG_CAPTIONS, MEDIUM_CAPTIONS = 0.9, 0.04  # the rest are short, as people type
CHINESE = 0.25
TYPOS = 0.1  # of short English captions
STILL_SECONDS = 2.0


@dataclass
class TrainingBatch:
    """One batch: clean cells, where they stand, what is known, how noisy the rest is."""

    latents: Tensor  # B C F h w, normalised
    positions: Tensor  # F
    unknown: Tensor  # B F, 1 where the cell is to be made
    sigma: Tensor  # B F, 0 where known
    records: list[int]  # b distinct ones; B is a multiple of b, each record repeated in a row
    cells: list[int]  # which cells of the clips, without guides
    shots: list[int] | None = None  # F; None where there is one
    box: Tensor | None = None  # B F h/2 w/2 tokens, 1 where to be made; None for everywhere
    guides: tuple[int, ...] = ()  # frames of the guide cells, which stand behind all others
    bodies: Tensor | None = None  # b F h/2 w/2 FIELDS of bodies.py; None where nobody is asked for

    @property
    def tokens(self) -> int:
        batch, _, cells, h, w = self.latents.shape
        return batch * cells * (h // PATCH) * (w // PATCH)

    @property
    def token_sigma(self) -> Tensor:
        """Noise level of every token [B, F, h/2, w/2]."""
        return self.sigma[:, :, None, None] * self.box

    @property
    def timestep(self) -> Tensor:
        """1000 sigma, [B, F] or, with a box, [B, N]."""
        return 1000 * (self.sigma if self.box is None else self.token_sigma.flatten(1))

    @property
    def pixel_sigma(self) -> Tensor:
        """Noise level of every latent value, [B, 1, F, 1, 1] or [B, 1, F, h, w]."""
        if self.box is None:
            return self.sigma[:, None, :, None, None]
        return self.token_sigma.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3).unsqueeze(1)

    @property
    def repeats(self) -> int:
        return len(self.latents) // len(self.records)

    def part(self, first: int, last: int) -> TrainingBatch:
        """The records from `first` to before `last`, which may be none."""
        rows = slice(first * self.repeats, last * self.repeats)
        rest = {"unknown": self.unknown[rows], "sigma": self.sigma[rows], "box": None if self.box is None else self.box[rows]}
        bodies = None if self.bodies is None else self.bodies[first:last]
        return replace(self, latents=self.latents[rows], records=self.records[first:last], bodies=bodies, **rest)


def detail(latents: Tensor) -> Tensor:
    """How much is to be seen at each place of latents [B, C, F, h, w]: [B, 1, F, h, w], 0 for plain sky or ground, about 2 for a body.

    The mean square distance from the median of the row, over a token: a world lies in layers, what stands in it does not.
    """
    b, _, f, h, w = latents.shape
    distance = (latents - latents.median(-1, keepdim=True).values).square().mean(1).flatten(0, 1).unsqueeze(1)  # (B F) 1 h w
    return F.interpolate(F.avg_pool2d(distance, PATCH), scale_factor=PATCH).clamp(max=2).view(b, 1, f, h, w)


def choose_cells(shard: Shard, rng: np.random.Generator, most: int = 1000) -> list[int]:
    """Which cells of the clips a batch sees, in order: all, a prefix, a window further in, or a strided subset with cell 0 (WINDOWS).

    Of a video of more than `most` cells it sees that many at most, and instead of all cells such as are equally far apart.
    """
    cells = shard.latents.shape[2]
    most = min(cells, max(2, most))
    if cells < 3:
        return list(range(cells))
    kind = rng.choice(4, p=WINDOWS_OF_STORIES if shard.has_story else WINDOWS)
    if kind == 0:
        return np.linspace(0, cells - 1, most).round().astype(int).tolist()
    if kind == 1:
        return list(range(rng.choice([n for n in (1, 3, 5, 7, 9) if n <= most])))
    if kind == 2:
        length = int(rng.integers(2, most)) if most > 2 else 2
        start = int(rng.integers(1, cells - length + 1))
        return list(range(start, start + length))
    count = int(rng.integers(2, most + 1))
    return [0, *sorted(1 + rng.choice(cells - 1, count - 1, replace=False))]


def choose_gap(shard: Shard, rng: np.random.Generator) -> tuple[list[int], Tensor]:
    """The cells of a gap as the second passes of foresight see one (plan.py), and what of them is to be made [F]. Behind an opening, or
    a given video, it also sees the cell next to its first."""
    cells = shard.latents.shape[2]
    before = int(rng.integers(cells - DISTANCE))
    step = DISTANCE if rng.random() < 0.75 else 1
    beside = [before - i * step for i in range(BESIDE)] + [before + i * DISTANCE for i in range(1, BESIDE + 1)]
    seen = sorted(cell for cell in beside if 0 <= cell < cells)
    chosen = sorted({*seen, *range(before, before + DISTANCE)})
    return chosen, torch.tensor([cell not in seen for cell in chosen]).float()


def choose_unknown(batch: int, cells: list[int], rng: np.random.Generator, words_alone: float = WORDS_ALONE) -> Tensor:
    """What is to be made [B, F]: everything, with the probability `words_alone`; else what GIVEN leaves.

    The leftmost cell of a window that does not begin with cell 0 is always known: a one-frame cell looks like no other.
    """
    unknown, length = torch.ones(batch, len(cells)), len(cells)
    kinds = [words_alone, *(share * given_scale(words_alone) for share in GIVEN.values())]
    for row in unknown if length > 1 else ():
        kind = ("none", *GIVEN)[rng.choice(len(kinds), p=kinds)]
        a, b = rng.integers(1, length), rng.integers(1, length)
        if kind in ("first", "beginning"):
            row[: 1 if kind == "first" else a] = 0
        elif kind == "end":
            row[b:] = 0
        elif kind == "both":
            row[: min(a, b)] = 0
            row[max(a, b) + (a == b) :] = 0
        elif kind == "any":
            row[torch.from_numpy(rng.random(length) < 0.5)] = 0
        if cells[0] > 0:
            row[0] = 0
        if not row.any():
            row[-1] = 1
    return unknown


def given_scale(words_alone: float) -> float:
    """How much likelier given cells are than where WORDS_ALONE of the clips have none."""
    return (1 - words_alone) / (1 - WORDS_ALONE)


def draw_batch(shard: Shard, tokens: int, native_fps: float, rng: np.random.Generator, sigma_mean: float = SIGMA_MEAN,
               words_alone: float = WORDS_ALONE) -> TrainingBatch:  # fmt: skip
    """Draws one batch of about `tokens` tokens at most from a shard.

    A shard of few records serves each of them more often, so that a step is as full as its budget allows.

    Args:
        sigma_mean: of the noise levels' logit. words_alone: share of clips without given cells.
    """
    per_cell = shard.latents.shape[3] // PATCH * (shard.latents.shape[4] // PATCH)
    most, gap = tokens // per_cell, None
    if shard.latents.shape[2] > LONG and most >= DISTANCE + 2 * BESIDE and rng.random() < GAPS:
        cells, gap = choose_gap(shard, rng)
    else:
        cells = choose_cells(shard, rng, most)
    repeats = REPEATS_STILL if len(cells) == 1 else REPEATS_CLIP
    room = tokens // (per_cell * len(cells))  # videos
    count, repeats = fill(room, len(shard.scenes), repeats)
    records = rng.choice(len(shard.scenes), count, replace=False).tolist()
    rows = [record for record in records for _ in range(repeats)]
    # One cell is one step of position at the native rate; a clip at half the rate has its cells twice as far apart.
    spacing = native_fps / shard.shape.fps
    latents = shard.latents[rows][:, :, cells].float()
    positions = torch.tensor(cells, dtype=torch.float32) * spacing
    unknown = choose_unknown(len(rows), cells, rng, words_alone) if gap is None else gap.repeat(len(rows), 1)
    if shard.tail is not None and len(cells) == shard.latents.shape[2] and rng.random() < TAILS * given_scale(words_alone):
        latents, unknown = join_tail(shard, latents, rows, unknown, rng)
    shots = [shard.shape.shot_of(cell) for cell in cells] if shard.shape.cuts else None
    made = TrainingBatch(latents, positions, unknown, draw_sigma(unknown, rng, sigma_mean), records, cells, shots)
    if shard.guides is not None and rng.random() < 0.2:
        made = add_guides(made, shard, spacing / Strides.time, rng)
    if rng.random() < 0.05:
        made.box = draw_boxes(made, rng)
    return made


def fill(room: int, records: int, repeats: int) -> tuple[int, int]:
    """How many of `records` a batch with room for so many videos takes, and how often each, `repeats` times or more."""
    count = max(1, min(records, room // repeats))
    return count, max(1, room // count)


def join_tail(shard: Shard, latents: Tensor, rows: list[int], unknown: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A gap before a known end: the clip's second half as `encode_span` sees it, which knows nothing of the frames in the gap."""
    start = latents.shape[2] - shard.tail.shape[2]
    latents = torch.cat([latents[:, :, :start], shard.tail[rows].float()], 2)
    unknown = unknown.clone()
    unknown[:, start:] = 0
    for row in unknown:
        row[:start] = 1
        row[: rng.choice([0, rng.integers(1, start)])] = 0  # backward extension, or a fill that also knows a beginning
    return latents, unknown


def draw_sigma(unknown: Tensor, rng: np.random.Generator, mean: float = SIGMA_MEAN) -> Tensor:
    """Noise levels [B, F]: one for all unknown cells of a sample, or an own one for each; 0 for known ones.

    Most are logit-normal. The rest are evenly among those of a schedule that is shifted to the same mean, up to 1, where each sample
    begins.
    """
    batch, cells = unknown.shape
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    columns = cells if rng.random() < INDEPENDENT else 1
    sigma = logit_normal_sigma(batch * columns, mean, SIGMA_STD, generator)
    even, everywhere = 1 - torch.rand(2, batch * columns, generator=generator)
    sigma = torch.where(everywhere <= EVERYWHERE, shift_sigma(even, math.exp(mean)), sigma)
    return sigma.view(batch, columns).expand(batch, cells) * unknown


def add_guides(made: TrainingBatch, shard: Shard, position_per_frame: float, rng: np.random.Generator) -> TrainingBatch:
    """Appends stills of some moments as known cells at the positions of their frames."""
    count = int(rng.integers(1, shard.guides.shape[1] + 1))
    chosen = sorted(rng.choice(shard.guides.shape[1], count, replace=False).tolist())
    batch = len(made.latents)
    guides = shard.guides[made.records][:, chosen, :, 0].transpose(1, 2).float()  # b C g h w
    guides = guides.repeat_interleave(made.repeats, 0)
    at = torch.tensor([shard.guide_frames[i] * position_per_frame for i in chosen])
    zeros = torch.zeros(batch, count)
    shots = made.shots and made.shots + [shard.shape.shot_of(Strides().cell_of_frame(shard.guide_frames[i])) for i in chosen]
    return replace(
        made,
        latents=torch.cat([made.latents, guides], 2),
        positions=torch.cat([made.positions, at]),
        unknown=torch.cat([made.unknown, zeros], 1),
        sigma=torch.cat([made.sigma, zeros], 1),
        shots=shots,
        guides=tuple(shard.guide_frames[i] for i in chosen),
    )


def draw_boxes(made: TrainingBatch, rng: np.random.Generator) -> Tensor:
    """A box of tokens for every sample, the same in all cells, [B, F, h/2, w/2]; only inside it there is anything to make."""
    batch, _, cells, h, w = made.latents.shape
    h, w = h // PATCH, w // PATCH
    box = torch.zeros(batch, cells, h, w)
    for sample in box:
        top, left = rng.integers(h - 1), rng.integers(w - 1)
        sample[:, top : rng.integers(top + 2, h + 1), left : rng.integers(left + 2, w + 1)] = 1
    return box


def draw_captions(shard: Shard, made: TrainingBatch, rng: np.random.Generator, long_share: float = LONG_CAPTIONS) -> list[list[str]]:
    """Fresh words for a batch: for every record the global ones, and where there are several shots those of each."""
    return tell(*to_tell(shard, made), rng, long_share)


def to_tell(shard: Shard, made: TrainingBatch) -> tuple[list[list[Scene | tuple[str, ...]]], list[tuple[float, float]]]:
    """The shots of every record of a batch, and which seconds of each shot its cells cover: all that `tell` needs, and no tensor."""
    return [shard.scenes[i] for i in made.records], [shard.shape.span(made.cells, shot) for shot in range(1 + len(shard.shape.cuts))]


def bodies_in(shard: Shard, made: TrainingBatch) -> Tensor | None:
    """Of what Shard.who_is_where tells the records, cells and guides of a batch, in its order: [b, F, h/2, w/2, FIELDS]."""
    told, cells = shard.who_is_where(), shard.latents.shape[2]
    if told is None:
        return None
    return told[made.records][:, [*made.cells, *(cells + shard.guide_frames.index(frame) for frame in made.guides)]]


def tell(records: Sequence[Sequence[Scene | tuple[str, ...]]], spans: list[tuple[float, float]], rng: np.random.Generator,
         long_share: float = LONG_CAPTIONS) -> list[list[str]]:  # fmt: skip
    """Captions of some records, true for the seconds that the cells of a shot cover; some are empty, for guidance.

    A scene of the world is told mostly in long captions, seldom in medium or short ones, a quarter in Chinese, and a still as the
    beginning of its video, because a picture is what people animate. Of a shot with written captions one is drawn.
    """
    told: list[list[str]] = [[] for _ in spans]
    common = []  # who the named characters are
    for shots in records:
        kind = rng.random()
        length = "long" if kind < long_share else "medium" if kind < long_share + MEDIUM_CAPTIONS else "short"
        language = "zh" if rng.random() < CHINESE else "en"
        silent = rng.random() < TEXT_DROPOUT
        who = introduce(shots, language, int(rng.integers(2**31))) if len(spans) > 1 else ""
        common.append("" if silent else who)
        for texts, shot, (first, last) in zip(told, shots, spans, strict=True):
            draw = int(rng.integers(2**31))
            if isinstance(shot, Scene):
                text = caption(shot, length, language, draw, start=first, seconds=last - first or STILL_SECONDS,
                               typos=TYPOS, introduced=bool(who))  # fmt: skip
            else:
                text = shot[draw % len(shot)]
            texts.append("" if silent else text)
    return told if len(told) == 1 else [common, *told]
