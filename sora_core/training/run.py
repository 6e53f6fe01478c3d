"""What every training run shares: its folder, exact resume, and a log that people and TensorBoard read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from .optim import Average, Optimizer


def atomic_save(data: object, path: Path) -> None:
    """torch.save that never leaves a torn file: written beside, flushed to the disk, then renamed."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as f:
        torch.save(data, f)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


class Run:
    """A training run in `folder`: `state.pt` to resume from, `log.jsonl` with one line a report, and TensorBoard events if installed.

    The log is cut back to the resumed step, so that a killed and resumed run leaves the same file as an uninterrupted one.
    """

    def __init__(self, folder: str | Path, steps: int, save_every: float = 60.0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.save_every = steps, save_every
        self.started = self.saved = time.monotonic()
        self.board = None
        self.values: dict[str, list[float]] = {}

    def resume(self, model: nn.Module, optimizer: Optimizer, average: Average) -> int:
        """Brings all three to where the run was saved last; returns the number of steps done, 0 at the first start."""
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = [w.to(live.device) for w, live in zip(state["average"], average.live, strict=True)]
        log = self.folder / "log.jsonl"
        if log.exists():
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= state["step"]]
            log.write_text("".join(line + "\n" for line in kept))
        return state["step"]

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, average: Average) -> None:
        """Saves when it is time, and after the last step."""
        if step < self.steps and time.monotonic() - self.saved < self.save_every:
            return
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights, "step": step}
        atomic_save(state, self.folder / "state.pt")
        self.saved = time.monotonic()

    def record(self, step: int, every: int, **values: float) -> None:
        """Adds the values of one step; every `every` steps their means are printed and logged."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        if step % every and step != self.steps:
            return
        means = {name: sum(seen) / len(seen) for name, seen in self.values.items()}
        seconds = time.monotonic() - self.started
        line = {"step": step, "seconds": round(seconds, 1), **{name: round(value, 5) for name, value in means.items()}}
        with (self.folder / "log.jsonl").open("a") as f:
            f.write(json.dumps(line) + "\n")
        print(f"step {step}/{self.steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()), flush=True)
        self._write_board(step, means)
        self.values = {}

    def _write_board(self, step: int, means: dict[str, float]) -> None:
        if self.board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # an optional extra; log.jsonl has the same numbers
                self.board = False
            else:
                self.board = SummaryWriter(str(self.folder))
        if self.board:
            for name, value in means.items():
                self.board.add_scalar(name, value, step)
