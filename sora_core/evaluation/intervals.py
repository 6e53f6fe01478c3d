"""95 % intervals: of shares by Wilson's formula, of everything else by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Z = 1.959964  # normal quantile of 97.5 %
RESAMPLES = 2000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); (0, 1) when nothing was counted. Never empty, also at 0 and n hits."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = hits / n, Z * Z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def geometric_mean(values: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(values))))


def bootstrap(values: Sequence[float], statistic: Callable[[np.ndarray], float] = mean, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a statistic (Efron 1979): of independent values, one a clip. Empty for a single value."""
    rng, data = np.random.default_rng(seed), np.asarray(values, dtype=float)
    drawn = sorted(statistic(data[rng.integers(len(data), size=len(data))]) for _ in range(RESAMPLES))
    return drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
