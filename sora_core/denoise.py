"""Solvers from noise to latents, and guidance. Every solver has one signature; progress and cancelling come in as a callback.

velocity = guided(model, text, negative, scale=4.0, positions=positions)
latents = second_order(velocity, noise, schedule(20, shift=3.0), mask, callback)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .canvas import token_mask
from .flow import mix, x0_from_velocity
from .transformer import PreparedText

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, F, H, W], sigma [B], [B, F] or [B, N]) -> velocity of the shape of x."""

Callback = Callable[[dict], None]
"""Gets {step, steps, sigma, x, x0, state} after each step: `step` from 0, `sigma` before it, `x0` the clean latents it foresees, `state`
from where a solver can go on. What it raises ends the run, so cancelling is an exception."""


Noise = Callable[[float], Tensor]
"""Noise [B, C, F, H, W] to add at a level; level 1 is that of the start. It is a function of the level, so that a resumed solver draws
what it would have drawn."""

MOTION_ABOVE = 0.25
"""Noise level above which `more_motion` counts: below it what differs between cells is detail, which would fray."""

FAST = 0.12
"""Root mean square over channels, in normalised latents: the ground under a camera that moves differs by a third of it, a ball that
bounces by twice as much."""


@dataclass(frozen=True)
class State:
    """Where a solver stands: `done` steps are done, which led to x; `velocity` is that of the last one."""

    done: int
    x: Tensor
    velocity: Tensor


class Solver(Protocol):
    def __call__(
        self,
        velocity: Velocity,
        x: Tensor,
        sigmas: list[float],
        mask: Tensor | None = None,
        callback: Callback | None = None,
        state: State | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """From latents x at sigmas[0] to latents at sigmas[-1].

        Args:
            velocity: the model.
            x: [B, C, F, H, W]: noise, or latents mixed with noise; the given latents where `mask` is 0.
            sigmas: falling noise levels; the last is usually 0.
            mask: [B or 1, 1, F, H, W], or with 1 for H and W: 1 where latents are to be made, 0 where those of x are to be kept.
                The model sees kept tokens at noise level 0, and what is kept comes back bit for bit.
            callback: called after each step.
            state: goes on from there, bit for bit as if it had never stopped; all else is as it was at the start.
            noise: for solvers that add more on the way.
        """
        ...


class _Known:
    """What is given: levels for the model, and given latents put back."""

    def __init__(self, x: Tensor, mask: Tensor | None):
        self.given, self.mask, self.share = x, mask, None
        if mask is None:
            return
        mask = mask.float()
        per_cell = mask.amax((-1, -2))[:, 0]  # B F
        # A token is known only if all its cells are.
        plain = torch.equal(per_cell, mask.amin((-1, -2))[:, 0])
        self.share = per_cell if plain else token_mask(mask.expand(-1, -1, *x.shape[2:])).flatten(1)

    def levels(self, sigma: float) -> Tensor:
        """The noise level [B], [B, F] or [B, N] that the model is told."""
        batch = self.given.shape[0]
        whole = torch.full((batch,), sigma, device=self.given.device)
        return whole if self.share is None else self.share.to(whole).expand(batch, -1) * sigma

    def restore(self, x: Tensor) -> Tensor:
        return x if self.mask is None else torch.where(self.mask.to(x.device) == 0, self.given, x)


def euler(velocity, x, sigmas, mask=None, callback=None, state=None, noise=None) -> Tensor:
    """Euler's method: one forward and first order a step. Arguments as Solver says."""

    def step(i: int, x: Tensor, v: Tensor, before: Tensor | None) -> Tensor:
        return x + v * (sigmas[i + 1] - sigmas[i])

    return _walk(velocity, x, sigmas, mask, callback, state, step)


def second_order(velocity, x, sigmas, mask=None, callback=None, state=None, noise=None) -> Tensor:
    """The Adams-Bashforth method of second order, for steps of any size: one forward a step, the last velocity extrapolated.

    Multistep methods for diffusion: Liu et al., arXiv 2202.09778. The first step is Euler's, and so is the last one to 0, where
    extrapolation would only sharpen the model's error. Arguments as Solver says.
    """

    def step(i: int, x: Tensor, v: Tensor, before: Tensor | None) -> Tensor:
        sigma, to = sigmas[i : i + 2]
        if before is not None and to > 0:
            v = v + (v - before) * ((to - sigma) / (sigma - sigmas[i - 1]) / 2)
        return x + v * (to - sigma)

    return _walk(velocity, x, sigmas, mask, callback, state, step)


def ancestral(velocity, x, sigmas, mask=None, callback=None, state=None, noise=None) -> Tensor:
    """Euler ancestral: a part of the noise is renewed at every step (`renewed`), so that errors made at high noise can be corrected, where
    a straight path keeps them. Arguments as Solver says.

    Raises:
        ValueError: no `noise`.
    """
    if noise is None:
        raise ValueError("noise: ancestral sampling adds more on the way: say which")

    def step(i: int, x: Tensor, v: Tensor, before: Tensor | None) -> Tensor:
        sigma, to = sigmas[i : i + 2]
        return renewed(x - sigma * v, x + (1 - sigma) * v, sigma, to, noise)

    return _walk(velocity, x, sigmas, mask, callback, state, step)


def renewed(x0: Tensor, old: Tensor, sigma: float, to: float, noise: Noise) -> Tensor:
    """One ancestral step from `sigma` to `to`, given the predicted clean latents x0 and the current noise `old`.

    As the host's ancestral sampling for rectified flow (after k-diffusion): down to to^2 / sigma, then up again with new noise. `kept` is
    the share of the old noise that this leaves; the smaller the step, the more.
    """
    if to == 0:
        return x0
    kept = to * (1 - to) / (sigma - to * to)
    return (1 - to) * x0 + to * (kept * old + (1 - kept * kept) ** 0.5 * noise(to).to(x0))


SOLVERS: dict[str, Solver] = {"ancestral": ancestral, "euler": euler, "second_order": second_order}


def solver_of(name: str) -> Solver:
    """The solver of a name in SOLVERS. Raises ValueError listing them."""
    if name not in SOLVERS:
        raise ValueError(f"solver {name!r} is not known: use one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def _walk(
    velocity: Velocity,
    x: Tensor,
    sigmas: list[float],
    mask: Tensor | None,
    callback: Callback | None,
    state: State | None,
    solve: Callable[[int, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Step by step; `solve` makes step i from x, its velocity, and that of the step before where there was one."""
    known, before, done = _Known(x, mask), None, 0
    if state is not None:
        x, before, done = state.x.to(x), state.velocity.to(x), state.done
    steps = len(sigmas) - 1
    for step in range(done, steps):
        sigma = sigmas[step]
        v = velocity(x, known.levels(sigma)).to(x.dtype)
        foreseen = x0_from_velocity(x, v, sigma) if callback else None
        x, before = known.restore(solve(step, x, v, before)), v
        if callback:
            state = State(step + 1, x, v)
            callback({"step": step, "steps": steps, "sigma": sigma, "x": x, "x0": known.restore(foreseen), "state": state})
    return x


def renoise(x: Tensor, noise: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
    """The point to start from: latents x with noise at `sigma` wherever `mask` is not 0 (see Solver)."""
    mixed = mix(x, noise, sigma)
    return mixed if mask is None else torch.where(mask.to(x.device) == 0, x, mixed)


def guided(model, text: PreparedText, negative: PreparedText | None = None, scale: float = 1.0, motion: float = 1.0,
           **keywords) -> Velocity:  # fmt: skip
    """The model's velocity under classifier-free guidance (Ho & Salimans, arXiv 2207.12598).

    Args:
        model: called as model(x, 1000 sigma, text=..., **keywords); a SpacetimeTransformer or one like it.
        text, negative: results of its `prepare_text`: what to show, and what to move away from in every shot.
        scale: 1 follows the words alone, in one forward a step; more follows them more closely, in two.
        motion: factor of `more_motion`.
        keywords: for the model, such as positions and shots.
    """
    if negative is None or scale == 1:
        return lambda x, sigma: model(x, 1000 * sigma, text=text, **keywords)

    everywhere = {name: value for name, value in keywords.items() if name != "shots"}

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        # Two forwards, not one of both: measured no slower, and half the memory.
        away = model(x, 1000 * sigma, text=negative, **everywhere)
        towards = model(x, 1000 * sigma, text=text, **keywords) - away
        made = sigma.unflatten(1, (x.shape[2], -1)).amax(-1) > 0 if sigma.ndim == 2 else None
        return away + scale * more_motion(towards, motion, sigma, made, shots=keywords.get("shots"))

    return velocity


def more_motion(towards: Tensor, factor: float, sigma: Tensor, made: Tensor | None = None, unit: float | Tensor = 1.0,
                shots: Sequence[int] | None = None) -> Tensor:  # fmt: skip
    """What guidance adds to the velocity [B, C, F, h, w], with what differs between the cells of a shot up to `factor` times as large
    beside what they have in common.

    Who is there and where is the same in all cells of a shot, how it moves and how the camera does is not, and is the smaller part:
    guidance that is strong enough for the one is too weak for the other. What differs by FAST already is half as much in need of it, and
    would be in two places at once. Costs no forward. Below MOTION_ABOVE it is guidance as ever.

    Args:
        sigma: noise levels of any shape, of which the highest counts.
        made: [B, F], which cells are made; guidance means nothing in those that are given. None for all.
        unit: what a velocity of 1 is in `towards`; sigma, where it is a difference of clean latents, as in the host.
        shots: [F], the shot of each cell; None for one.
    """
    if factor == 1 or sigma.max() <= MOTION_ABOVE:
        return towards
    count = torch.ones(towards.shape[0], towards.shape[2], device=towards.device) if made is None else made
    count = count.to(towards)[:, None, :, None, None]
    common = torch.empty_like(towards)
    for shot in set(shots or (0,)):
        cells = [cell for cell, other in enumerate(shots) if other == shot] if shots else slice(None)
        of_shot = count[:, :, cells]
        common[:, :, cells] = (towards[:, :, cells] * of_shot).sum(2, keepdim=True) / of_shot.sum(2, keepdim=True).clamp_min(1)
    apart = towards - common
    fast = (apart / (FAST * unit)).square().mean(1, keepdim=True)
    return common + (1 + (factor - 1) / (1 + fast)) * apart
