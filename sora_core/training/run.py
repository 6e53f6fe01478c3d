"""What every training run shares: its folder, its budget, exact resume, and a log that people and TensorBoard read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import UserError
from ..files import atomic_path
from .group import ALONE, Group
from .optim import Average, Optimizer


def read_reports(folder: str | Path) -> list[dict]:
    """The lines of a run's log; without the last one if a kill tore it."""
    reports, lines = [], (Path(folder) / "log.jsonl").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            reports.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
    return reports


def check_same(folder: str | Path, facts: dict, before: dict) -> None:
    """Raises UserError where `folder` holds a run with other `facts`, by names of settings; those that it does not know do not count."""
    for name, value in facts.items():
        if before.get(name, value) != value:
            raise UserError(f"folder: {folder} holds a run with {name} {before[name]!r}, not {value!r}: choose another folder for it")


class Run:
    """A training run in `folder`: `state.pt` to resume from, `log.jsonl` with one line a report, and TensorBoard events if installed.

    The log is cut back to the resumed step, and what was not yet reported then is in `state.pt`: but for times and rates, a killed and
    resumed run leaves the same file as an uninterrupted one.

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
        if steps <= 0 and minutes <= 0:
            raise UserError(f"steps: {steps} with no minutes: give one of the two, the length of the run")
        self.folder, self.group = Path(folder), group or ALONE
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.seconds, self.save_every, self.peak, self.facts = steps, 60 * minutes, save_every, peak, facts or {}
        self.started = self.saved = self.reported = time.monotonic()
        self.before, self.step, self.saved_step = 0.0, 0, -1
        self.waited = 0.0  # seconds since the last report, before a resume
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
        self.step, self.reported = first, time.monotonic() - self.waited
        while True:
            self.clock = self.elapsed if self.steps else self.group.broadcast(self.elapsed)
            if (share := self.share(self.step)) >= 1:
                return
            yield self.step, share
            self.step += 1

    # -- resume --------------------------------------------------------------------------------------------------------------

    def resume(self, model: nn.Module, optimizer: Optimizer, average: Average) -> int:
        """Brings all three to where the run was saved last; returns the number of steps done, 0 at the first start.

        Raises:
            UserError: the folder holds a run of something else.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        check_same(self.folder, self.facts, state.get("facts", {}))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = [w.to(live.device) for w, live in zip(state["average"], average.live, strict=True)]
        self.step, self.before = state["step"], state.get("seconds", 0.0)
        self.clock = self.before
        if "pending" in state:
            self.sums, self.tokens, self.flops, self.waited = state["pending"]
        log = self.folder / "log.jsonl"
        if log.exists() and self.group.is_main:
            kept = [report for report in read_reports(self.folder) if report["step"] <= state["step"]]
            with atomic_path(log) as part:
                part.write_text("".join(json.dumps(report) + "\n" for report in kept))
        return self.step

    @staticmethod
    def seconds_done(folder: str | Path) -> float:
        """Seconds that the run in `folder` had taken when it was saved last."""
        path = Path(folder) / "state.pt"
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True).get("seconds", 0.0) if path.exists() else 0.0

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, average: Average, *, last: bool = False) -> None:
        """Saves when it is time."""
        last = last or step == self.steps
        if not self.group.is_main or step == self.saved_step or not last and time.monotonic() - self.saved < self.save_every:
            return
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
        state |= {"step": step, "seconds": self.elapsed, "facts": self.facts}
        state["pending"] = (self.sums, self.tokens, self.flops, time.monotonic() - self.reported)
        with atomic_path(self.folder / "state.pt") as part, part.open("wb") as file:
            torch.save(state, file)  # to a name, it would not say that the disk is full
        self.saved, self.saved_step = time.monotonic(), step

    def finish(self, model: nn.Module, optimizer: Optimizer, average: Average) -> None:
        """After the last step: reports what is left, and saves."""
        if self.sums:
            self._report(self.step)
            self.saved_step = -1  # what was saved at this step had it still to report
        self.save(self.step, model, optimizer, average, last=True)

    # -- log -----------------------------------------------------------------------------------------------------------------

    def record(self, step: int, every: int, *, tokens: int = 0, flops: float = 0.0, **values: float | Tensor) -> None:
        """Adds the values of one step; every `every` steps their means are printed and logged.

        Tensors stay on their device until then. `tokens` and `flops` of the step are reported as rates.
        """
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + (value.detach() if isinstance(value, Tensor) else value), count + 1)
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops
        if step % every == 0 or step == self.steps:
            self._report(step)

    def _report(self, step: int) -> None:
        means = {name: float(total) / count for name, (total, count) in self.sums.items()}
        now = time.monotonic()
        if self.tokens:
            means["tokens_per_second"] = self.tokens / (now - self.reported)
        if self.flops and self.peak:
            means["mfu"] = self.flops / (now - self.reported) / self.peak
        self.reported = now
        spent = {"flops": self.flops} if self.flops else {}
        if self.group.is_main:
            line = {"step": step, "seconds": round(self.elapsed, 1), **spent, **{name: round(value, 5) for name, value in means.items()}}
            with (self.folder / "log.jsonl").open("a") as f:
                f.write(json.dumps(line) + "\n")
            whole = f"step {step}/{self.steps}" if self.steps else f"step {step}  {self.elapsed / 60:.1f} of {self.seconds / 60:g} minutes"
            print(whole + "  " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()), flush=True)
            self._write_board(step, means)
        self._forget()

    def _forget(self) -> None:
        self.sums: dict[str, tuple[float | Tensor, int]] = {}
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
