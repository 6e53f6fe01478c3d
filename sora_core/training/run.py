"""What every training run shares: its folder, exact resume, and a log that people and TensorBoard read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch


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

    def resume(self) -> dict | None:
        """The saved state, or None at the first start. A file torn by a full disk is named, not silently replaced."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        state = torch.load(path, weights_only=True, map_location="cpu")
        log = self.folder / "log.jsonl"
        if log.exists():
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= state["step"]]
            log.write_text("".join(line + "\n" for line in kept))
        return state

    def save(self, state: dict, force: bool = False) -> bool:
        if not force and time.monotonic() - self.saved < self.save_every:
            return False
        atomic_save(state, self.folder / "state.pt")
        self.saved = time.monotonic()
        return True

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
