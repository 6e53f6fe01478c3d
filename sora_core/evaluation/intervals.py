"""95 % intervals: of shares by Wilson's formula, of everything else by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Z = 1.959964  # normal quantile of 97.5 %
RESAMPLES = 5000


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); (0, 1) when nothing was counted. Never empty, also at 0 and n hits."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = hits / n, Z * Z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half


def independent(hits: Sequence[bool], clips: Sequence[int]) -> float:
    """How many independent ones a count is worth in which some are of one clip, and so are often right or wrong together: by how much the
    clips differ (the design effect of cluster samples: Kish, Survey Sampling, 1965). With one a clip, and at most, as many as there are;
    where all are right or all are wrong and nothing differs, as many as there are clips.

    Args:
        clips: of each, any number for its clip.
    """
    n, of_clip = len(hits), np.unique(clips, return_inverse=True)[1]
    counted, right = np.bincount(of_clip), np.bincount(of_clip, np.asarray(hits, dtype=float))
    p = right.sum() / n
    if p in (0, 1):
        return float(len(counted))
    variance = np.square(right - p * counted).sum() / n**2
    return min(float(n), p * (1 - p) / variance) if variance else float(n)


def means(values: Sequence[float], clips: Sequence[int]) -> list[float]:
    """Of each clip, in their order."""
    of_clip = np.unique(clips, return_inverse=True)[1]
    return (np.bincount(of_clip, np.asarray(values, dtype=float)) / np.bincount(of_clip)).tolist()


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def geometric_mean(values: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(values))))


def bootstrap(values: Sequence[float], statistic: Callable[[np.ndarray], float] = mean, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a statistic (Efron 1979), of two or more independent values, one a clip. A few values hold less than their
    spread: the percentiles stand as much farther out as Student's interval is wider (Hesterberg, arXiv 1411.5279)."""
    rng, data, n = np.random.default_rng(seed), np.asarray(values, dtype=float), len(values)
    drawn = sorted(statistic(data[rng.integers(n, size=n)]) for _ in range(RESAMPLES))
    beyond = int(RESAMPLES * math.erfc(math.sqrt(n / (n - 1) / 2) * _student(n - 1)) / 2)
    return drawn[beyond], drawn[-1 - beyond]


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, by its expansion about the normal one (Abramowitz & Stegun 26.7.5)."""
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
