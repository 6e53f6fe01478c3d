"""Batches some steps ahead of the training: their captions are written by other processes while the device computes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import torch

AHEAD = 3  # for each worker: captions of a full step take it about as long as the device takes for so many


def _begin() -> None:
    torch.set_num_threads(1)


def workers(count: int) -> Executor:
    """Processes that sample scenes and write captions; with a count of 0 the caller's own one does it, when asked."""
    if not count:
        return SerialExecutor()
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)


def to_async(x: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Copies x to a device through pinned memory, without waiting for it: a plain copy would first let the device finish all it has."""
    if torch.device(device).type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class SerialExecutor(Executor):
    """Runs every job in the caller's process, at once."""

    def submit(self, work: Callable, /, *args, **kwargs) -> Future:
        done = Future()
        done.set_result(work(*args, **kwargs))
        return done


class Prefetcher:
    """Prefetches batches and their CPU jobs, some steps ahead.

    Args:
        draw: step -> (a batch and what else belongs to the step, a function, its arguments).
        pool: does the functions.
        ahead: how many steps.
    """

    def __init__(self, draw: Callable[[int], tuple], pool: Executor, ahead: int):
        self.draw, self.pool, self.ahead = draw, pool, ahead
        self.waiting: deque[tuple[int, object, Future]] = deque()

    def next(self, step: int) -> tuple[object, object]:
        """The batch of `step` and its answer."""
        while not self.waiting or self.waiting[-1][0] < step + self.ahead:
            at = self.waiting[-1][0] + 1 if self.waiting else step
            made, work, *args = self.draw(at)
            self.waiting.append((at, made, self.pool.submit(work, *args)))
        _, made, answer = self.waiting.popleft()
        return made, answer.result()
