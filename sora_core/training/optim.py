"""Muon for matrices and kernels, AdamW for the rest, one learning-rate curve for both, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration of Muon (Jordan et al. 2024): coefficients that lift small singular values fastest.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(m: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each matrix in [..., rows, columns], roughly: singular values end near 1."""
    a, b, c = NEWTON_SCHULZ
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()  # the iteration forgives rounding and is most of the step's cost
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(m.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for parameters of two or more dimensions.

    torch.optim.Muon takes matrices only; here a convolution kernel is the matrix of its output channels against the rest. Parameters
    of one shape are updated as one batch. The update is scaled by 0.2 sqrt(max(rows, columns)), which gives it AdamW's usual
    magnitude (Moonlight, arXiv 2502.16982).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            same_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    same_shape.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(p)
            for (rows, columns), params in same_shape.items():
                self._step_batch(params, rows, columns, group)

    def _step_batch(self, params: list[Tensor], rows: int, columns: int, group: dict) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p.grad).reshape(rows, columns)
        grads, buffers = [p.grad.reshape(rows, columns) for p in params], [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = orthogonalise(torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"])))  # Nesterov
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        scale = 0.2 * math.sqrt(max(rows, columns))
        torch._foreach_add_(params, [u.reshape(p.shape) for u, p in zip(updates, params)], alpha=-group["lr"] * scale)


class Optimizer:
    """Muon and AdamW stepped together along one schedule: linear warm-up, flat, then linear decay to zero over the last part.

    Args:
        model: every parameter of two or more dimensions whose name contains none of `adam_names` goes to Muon; frozen ones to none.
        muon_lr, adam_lr: peak learning rates.
        steps: length of the whole run; the curve depends on nothing else, so a resumed run is the same run. 0 when `step` is told how
            much of the run is over.
        warmup: steps of warm-up. decay: last share of the run that decays.
    """

    def __init__(self, model: nn.Module, *, muon_lr: float, adam_lr: float, steps: int = 0, warmup: int = 100, decay: float = 0.5,
                 weight_decay: float = 0.0, adam_names: tuple[str, ...] = ()):  # fmt: skip
        matrices, rest = [], []
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            matrix = p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) > 1 and not any(part in name for part in adam_names)
            (matrices if matrix else rest).append(p)
        adam = torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=all(p.is_cuda for p in rest))
        self.parts = [Muon(matrices, muon_lr, weight_decay=weight_decay), adam] if matrices else [adam]
        self.peaks = [muon_lr, adam_lr][-len(self.parts) :]
        self.parameters = matrices + rest
        self.steps, self.warmup, self.decay = steps, warmup, decay

    def factor(self, step: int, share: float | None = None) -> float:
        """Part of the peak learning rate at `step`, when `share` of the run is over (default by `steps`)."""
        share = step / self.steps if share is None else share
        return min(1.0, (step + 1) / max(1, self.warmup), max(0.0, (1 - share) / max(self.decay, 1e-9)))

    @torch.no_grad()
    def step(self, step: int, share: float | None = None, clip: float = 1.0) -> Tensor:
        """One update; returns the norm of the gradient before clipping, on its device, so that nothing waits for it."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        torch._foreach_mul_(grads, (clip / (norm + 1e-6)).clamp(max=1.0))
        broken = ~norm.isfinite()
        for grad in grads:  # one broken batch must not spoil the momentum of all later ones
            grad.masked_fill_(broken, 0.0)
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * self.factor(step, share)
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Average:
    """Exponential moving average of a model's weights, what is shown and shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.live = list(model.parameters())
        self.weights = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def reset(self) -> None:
        """Forgets the past: the average becomes the live weights."""
        torch._foreach_copy_(self.weights, self.live)

    @torch.no_grad()
    def update(self, step: int) -> None:
        # Early on the average must be short, or it remembers the random start.
        torch._foreach_lerp_(self.weights, self.live, 1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the live weights with the average; call it twice to come back."""
        for p, average in zip(self.live, self.weights, strict=True):
            kept = p.clone()
            p.copy_(average)
            average.copy_(kept)
