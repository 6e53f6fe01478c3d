"""Words to latents without the host: the core's own loop over the passes of a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import check_whole_tokens
from .config import TEXT_ROW_MULTIPLE, ModelHeader
from .denoise import Callback, Solver, State, guided, renoise, solver_of
from .flow import cell_noise, schedule
from .jobs import SAVE_SECONDS, Job, Progress, content_hash
from .passes import at_once_on, known_cells, mask_of, run_plan, stacked
from .plan import Lattice, Pass, Plan, single
from .shapes import VideoShape
from .transformer import PreparedText, SpacetimeTransformer

STEPS, GUIDANCE, SOLVER = 20, 3.5, "ancestral"  # of the shipped model
GIVEN_GUIDANCE = 2.0  # where it goes on from a given video: higher ones leave it further behind (docs/training.md)


@torch.inference_mode()
def generate(
    transformer: SpacetimeTransformer,
    header: ModelHeader,
    words: Tensor,
    shape: VideoShape,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
    negative: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    solver: str = SOLVER,
    denoise: float = 1.0,
    callback: Callback | None = None,
    plan: Plan | None = None,
    shot_words: list[Tensor] | None = None,
    jobs: Path | None = None,
    save_seconds: float = SAVE_SECONDS,
    at_once: int | None = None,
    guides: Sequence[tuple[int, Tensor]] = (),
    seconds: list[float] | None = None,
) -> Tensor:
    """Latents of a video of `shape`.

    Args:
        transformer, header: of one file (checkpoint.load_transformer).
        words: text states [B, L, 4096]; B videos are made.
        shape: size, cells and frames a second.
        steps, guidance, denoise: as everywhere; guidance 1 is one forward a step.
        seed: of the noise of every cell, which depends on neither length nor batch.
        negative: text states to move away from; default the empty prompt.
        known: normalised latents [B or 1, C, F, H, W]; what `mask` keeps of them comes back bit for bit.
        mask: [B or 1, 1, F, H, W] or with 1 for H and W, 0 = keep, 1 = make, by whole tokens; default everything is made.
        solver: a name in denoise.SOLVERS.
        callback: after each step of each pass; what it raises ends the run.
        plan: in which passes; default all at once. Its known cells must be those that `mask` keeps whole.
        shot_words: text states [B, L_i, 4096] of the shots that the plan's lattice names; each cell listens to those of its own and to
            `words`.
        jobs: a folder that keeps what every pass made, and inside a pass how far it came every `save_seconds`.
        at_once: see run_plan; default what suits the device. Of more than one video passes are made one by one. Together they make the
            same but for rounding (below 1e-4 in float32).
        guides: (frame, normalised latents [1, C, 1, H, W]) of pictures that steer the passes around them and are not part of the result.
        seconds: when each cell ends, for its noise; default counted from cell 0.

    Returns:
        normalised latents [B, C, F, H, W], float32.

    Raises:
        ValueError: an unknown solver, or words, shape, `known`, `mask`, `plan` and `shot_words` that do not fit each other.
    """
    solve = solver_of(solver)
    if mask is not None and known is None:
        raise ValueError("mask: it says what to keep, so `known` must be given too")
    if known is not None and len(known) == 1:
        known = known.expand(len(words), -1, -1, -1, -1)
    if guides and mask is None:
        mask = torch.ones(1, 1, shape.cells, 1, 1)
    plan = plan or single(Lattice(shape.cells, known_cells(mask)))
    _check_fit(shape, len(words), known, mask, plan)
    shots = set(plan.lattice.shots)
    if shot_words and not (shots and shots <= set(range(len(shot_words)))):
        raise ValueError(f"shot_words: {len(shot_words)} texts, and the plan has the shots {sorted(shots)}: give one text for each shot")
    beside = [frame / shape.strides.time * (header.native_fps / shape.fps) for frame, _ in guides]
    away = words.new_zeros(1, TEXT_ROW_MULTIPLE, words.shape[-1]) if negative is None else negative.to(words.dtype)
    passes = CorePasses(
        transformer=transformer,
        text=transformer.prepare_text(words, shot_words),
        empty=transformer.prepare_text(away) if guidance != 1 else None,
        guidance=guidance,
        motion=header.motion,
        positions=torch.tensor(shape.positions(header.native_fps) + beside, device=words.device),
        seconds=seconds or shape.seconds_of_cells,
        lattice=plan.lattice,
        guides=[(frame / shape.strides.time, latents.to(words.device)) for frame, latents in guides],
        sigmas=schedule(steps, header.shift, denoise),
        solve=solve,
        seed=seed,
        mask=mask,
        shots=plan.lattice.shots if shot_words else (),
        shot_words=shot_words or [],
        callback=callback,
    )
    start = torch.zeros(len(words), *shape.latent, device=words.device) if known is None else known.float().to(words.device)
    job = None
    if jobs is not None:
        # Not the length: the first passes of a longer video are the same.
        form = [shape.latent[0], *shape.latent[2:], shape.fps, str(shape.strides)]
        facts = [content_hash(transformer.state_dict()), str(header), form, words, away, guidance, passes.sigmas, solver, seed]
        each = [passes.facts(p) for p in plan.passes]
        job = Job(jobs, plan, facts, each, start, f"{shape.width}x{shape.height}, {shape.seconds:g} s, seed {seed}", every=save_seconds)
    if guides:
        at_once = 0  # passes around a guide look like no others
    elif at_once is None or len(words) > 1:
        at_once = at_once_on(words.device, shape.tokens_per_cell, len(words))
    return run_plan(plan, start, passes.make, job, at_once=at_once)


def _check_fit(shape: VideoShape, batch: int, known: Tensor | None, mask: Tensor | None, plan: Plan) -> None:
    """Raises ValueError naming what does not fit."""
    if known is not None and tuple(known.shape) != (batch, *shape.latent):
        raise ValueError(f"known: it is {tuple(known.shape)}, for these words and this shape it must be {(batch, *shape.latent)}")
    if mask is not None:
        whole = (1, *shape.latent[1:])
        if mask.ndim != 5 or mask.shape[0] not in (1, batch) or tuple(mask.shape[1:]) not in (whole, (*whole[:2], 1, 1)):
            raise ValueError(
                f"mask: it is {tuple(mask.shape)}, must be [1 or {batch}, {', '.join(map(str, whole))}], or with 1 for the sides"
            )
        check_whole_tokens(mask.float().expand(-1, -1, -1, *whole[-2:]))
    if plan.lattice.cells != shape.cells or not plan.lattice.known <= known_cells(mask):
        cells = f"{plan.lattice.cells} cells, of which {sorted(plan.lattice.known)} are known"
        raise ValueError(f"plan: it is for {cells}, the shape has {shape.cells} and the mask keeps {sorted(known_cells(mask))}")


def beginning(cells: Tensor, shape: VideoShape) -> dict[str, Tensor]:
    """`known` and `mask` for `generate` of a video whose first cells are given: normalised latents [1, C, k, h, w]."""
    first = cells.shape[2]
    known, mask = cells.new_zeros(1, *shape.latent), cells.new_ones(1, 1, shape.cells, 1, 1)
    known[:, :, :first], mask[:, :, :first] = cells, 0
    return {"known": known, "mask": mask}


@dataclass
class CorePasses:
    """The work of each pass, for `run_plan`; fields as the arguments of `generate`, prepared."""

    transformer: SpacetimeTransformer
    text: PreparedText
    empty: PreparedText | None
    guidance: float
    motion: float
    positions: Tensor
    seconds: list[float]
    lattice: Lattice
    guides: list[tuple[float, Tensor]]  # in cells from cell 0
    sigmas: list[float]
    solve: Solver
    seed: int
    mask: Tensor | None
    shots: tuple[int, ...]
    shot_words: list[Tensor]
    callback: Callback | None

    def make(self, group: list[Pass], cells: list[Tensor], progress: Progress | None) -> list[Tensor]:
        first, batch = group[0], len(cells[0])  # all others look as the first does
        guides = self._guides_of(first)
        start = torch.cat([torch.cat(cells), *(self.guides[i][1].expand(batch, -1, -1, -1, -1) for i in guides)], 2)
        behind = (0, 0, 0, 0, 0, len(guides))  # guides stand behind the cells, without noise

        def noise(level: float) -> Tensor:
            return F.pad(torch.cat([self._noise(p, cells[0].shape, level) for p in group]), behind)

        kept = stacked([mask_of(p, self.mask) for p in group], batch)
        kept = F.pad(kept, behind) if guides else kept
        x = renoise(start, noise(1.0).to(start), self.sigmas[0], kept)
        positions = self.positions[first.cells + [len(self.seconds) + i for i in guides]]
        shots = self._shots_of(first) or None
        velocity = guided(self.transformer, self.text, self.empty, self.guidance, self.motion, positions=positions, shots=shots)
        saved = progress and progress.load()
        state = State(int(saved["done"]), saved["x"], saved["velocity"]) if saved else None

        def after_step(done: dict) -> None:
            if progress:
                at = done["state"]
                progress.save({"done": torch.tensor(at.done), "x": at.x, "velocity": at.velocity})
            if self.callback:
                self.callback(done)

        told = after_step if self.callback or progress else None
        return list(self.solve(velocity, x, self.sigmas, kept, told, state, noise)[:, :, : len(first.cells)].split(batch))

    def facts(self, p: Pass) -> list:
        """What determines a pass beside the latents of its cells and what all passes have in common."""
        shots, guides = self._shots_of(p), [self.guides[i] for i in self._guides_of(p)]
        return [shots, [self.shot_words[i] for i in sorted(set(shots))], mask_of(p, self.mask), [self.seconds[k] for k in p.cells], guides]

    def _guides_of(self, p: Pass) -> list[int]:
        """Numbers of those that a pass sees."""
        return self.lattice.guides_of(p, [at for at, _ in self.guides])

    def _shots_of(self, p: Pass) -> list[int]:
        """The shots of its cells, and of the guides behind them; none where there are no words of shots."""
        return [self.shots[k] for k in p.cells + [math.ceil(self.guides[i][0]) for i in self._guides_of(p)]] if self.shots else []

    def _noise(self, p: Pass, size: tuple[int, ...], level: float) -> Tensor:
        """[B, C, f, h, w]."""
        batch, c, _, h, w = size
        seed, times = self.seed if p.seed is None else p.seed, [self.seconds[k] for k in p.cells]
        return torch.stack([cell_noise(seed, b, times, (c, h, w), level) for b in range(batch)])
