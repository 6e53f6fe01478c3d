"""What every training run shares: its folder, its budget, exact resume, and a log that people and TensorBoard read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .group import ALONE, Group
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

    Args:
        steps: length of the run, or 0 if `minutes` say it.
        minutes: of training, counted over all starts of the run. Such a run depends on the machine, one of `steps` does not.
        save_every: seconds between two savings.
        group: of several processes the first one writes, and its clock counts.
        peak: FLOPs a second of the device, for the share of it that is used (speed.mfu); 0 if unknown.
        facts: what the run is, by names of settings; it cannot be resumed as another.
    """

    def __init__(self, folder: str | Path, steps: int = 0, minutes: float = 0.0, *, save_every: float = 60.0, group: Group | None = None,
                 peak: float = 0.0, facts: dict[str, str | int] | None = None):  # fmt: skip
        if not steps and not minutes:
            raise ValueError("steps: 0 with no minutes: give one of the two, the length of the run")
        self.folder, self.group = Path(folder), group or ALONE
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.seconds, self.save_every, self.peak, self.facts = steps, 60 * minutes, save_every, peak, facts or {}
        self.started = self.saved = self.reported = time.monotonic()
        self.before, self.step, self.saved_step = 0.0, 0, -1
        self.clock, self.board = 0.0, None
        self._forget()

    # -- budget --------------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of this run, those before a resume included."""
        return self.before + time.monotonic() - self.started

    def share(self, step: int) -> float:
        """How much of the budget is used before `step`, from 0 to 1; in a run of minutes as the last step began."""
        return min(1.0, step / self.steps if self.steps else self.clock / self.seconds)

    def budget(self, first: int) -> Iterator[tuple[int, float]]:
        """(step, share of the budget) from step `first` on, until all is used."""
        self.step, self.reported = first, time.monotonic()
        while True:
            self.clock = self.elapsed if self.steps else self.group.agree(self.elapsed)
            if (share := self.share(self.step)) >= 1:
                return
            yield self.step, share
            self.step += 1

    # -- resume --------------------------------------------------------------------------------------------------------------

    def resume(self, model: nn.Module, optimizer: Optimizer, average: Average) -> int:
        """Brings all three to where the run was saved last; returns the number of steps done, 0 at the first start.

        Raises:
            ValueError: the folder holds a run of something else.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, value in self.facts.items():
            if (before := state.get("facts", {}).get(name, value)) != value:
                raise ValueError(f"folder: {self.folder} holds a run with {name} {before!r}, not {value!r}: choose another folder for it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = [w.to(live.device) for w, live in zip(state["average"], average.live, strict=True)]
        self.step, self.before = state["step"], state.get("seconds", 0.0)
        self.clock = self.before
        log = self.folder / "log.jsonl"
        if log.exists() and self.group.leads:
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= state["step"]]
            log.write_text("".join(line + "\n" for line in kept))
        return self.step

    @staticmethod
    def seconds_done(folder: str | Path) -> float:
        """Seconds that the run in `folder` had taken when it was saved last."""
        path = Path(folder) / "state.pt"
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True).get("seconds", 0.0) if path.exists() else 0.0

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, average: Average, *, last: bool = False) -> None:
        """Saves when it is time."""
        last = last or step == self.steps
        if not self.group.leads or step == self.saved_step or not last and time.monotonic() - self.saved < self.save_every:
            return
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
        atomic_save(state | {"step": step, "seconds": self.elapsed, "facts": self.facts}, self.folder / "state.pt")
        self.saved, self.saved_step = time.monotonic(), step

    def finish(self, model: nn.Module, optimizer: Optimizer, average: Average) -> None:
        """After the last step: reports what is left, and saves."""
        if self.values:
            self._report(self.step)
        self.save(self.step, model, optimizer, average, last=True)

    # -- log -----------------------------------------------------------------------------------------------------------------

    def record(self, step: int, every: int, *, tokens: int = 0, flops: float = 0.0, **values: float | Tensor) -> None:
        """Adds the values of one step; every `every` steps their means are printed and logged.

        Tensors stay on their device until then. `tokens` and `flops` of the step are reported as rates.
        """
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops
        if step % every == 0 or step == self.steps:
            self._report(step)

    def _report(self, step: int) -> None:
        means = {name: float(torch.stack([torch.as_tensor(v) for v in seen]).float().mean()) for name, seen in self.values.items()}
        now = time.monotonic()
        if self.tokens:
            means["tokens_per_second"] = self.tokens / (now - self.reported)
        if self.flops and self.peak:
            means["mfu"] = self.flops / (now - self.reported) / self.peak
        self.reported = now
        spent = {"flops": self.flops} if self.flops else {}
        if self.group.leads:
            line = {"step": step, "seconds": round(self.elapsed, 1), **spent, **{name: round(value, 5) for name, value in means.items()}}
            with (self.folder / "log.jsonl").open("a") as f:
                f.write(json.dumps(line) + "\n")
            whole = f"step {step}/{self.steps}" if self.steps else f"step {step}  {self.elapsed / 60:.1f} of {self.seconds / 60:g} minutes"
            print(whole + "  " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()), flush=True)
            self._write_board(step, means)
        self._forget()

    def _forget(self) -> None:
        self.values: dict[str, list[float | Tensor]] = {}
        self.tokens, self.flops = 0, 0.0

    def _write_board(self, step: int, means: dict[str, float]) -> None:
        if self.board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # an optional extra; log.jsonl has the same numbers
                self.board = False
            else:
                self.board = SummaryWriter(str(self.folder), purge_step=step)  # what a kill left of later steps is not shown
        if self.board:
            for name, value in means.items():
                self.board.add_scalar(name, value, step)
