"""What Sora Plan says a video costs, against what it costs: memory and processor time of the shipped model, in ten configurations.

    python -m benchmarks.planning               # about two minutes on two quiet cores
    python -m benchmarks.planning --first 3     # a first look

Each configuration has a process of its own with one thread. Memory is its highest resident memory, from the start to the decoded frames;
time is the processor time of sampling, so that a busy machine changes it little. The exit status is 1 if a prediction is further off than
the bar: 25 % of the measured memory, 50 % of the measured time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import NamedTuple

from .host import ROOT, enter_environment

MEMORY_BAR, TIME_BAR = 0.25, 0.5


class Case(NamedTuple):
    """One configuration: `kind` of the plan, `batch` videos at once."""

    width: int = 128
    height: int = 128
    seconds: float = 2.0
    kind: str = "single"
    batch: int = 1
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.seconds:g} s, {self.kind}, {self.batch} at once, {self.dtype}"


CASES = (
    Case(),
    Case(seconds=10.0, kind="foresight"),
    Case(seconds=5.0, dtype="float32"),
    Case(64, 64),
    Case(seconds=5.0),
    Case(seconds=10.0),
    Case(seconds=10.0, kind="rollout"),
    Case(256, 256),
    Case(batch=4),
    Case(176, 96, 5.0),
)

RUN = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from sora_core.autoencoder import denormalise
from sora_core.generate import generate
from sora_core.pipeline import Pipeline
from sora_core.plan import Lattice, make_plan, window_of
from sora_core.shapes import VideoShape, frames_for_seconds
from sora_core.speed import memory_estimate, peak_memory, seconds_a_step
width, height, seconds, kind, batch, dtype = json.loads(sys.argv[2])
STEPS, GUIDANCE, dtype = 2, 3.0, getattr(torch, dtype)
torch.set_num_threads(1)
torch.set_flush_denormal(True)
pipeline = Pipeline.load(dtype=dtype)
strides, fps, config = pipeline.vae.strides, pipeline.header.native_fps, pipeline.transformer.config
shape = VideoShape(width, height, strides.cells(frames_for_seconds(seconds, fps, strides)), fps, strides)
plan = make_plan(kind, Lattice(shape.cells), window=window_of(pipeline.header, strides))
with torch.inference_mode():
    words = pipeline.text.encode(["a red ball"] * batch).to(dtype)
    start = time.process_time()
    made = generate(pipeline.transformer, pipeline.header, words, shape, steps=STEPS, guidance=GUIDANCE, plan=plan)
    took = time.process_time() - start
    for latents in made.split(1):
        for chunk in pipeline.vae.decode_chunks(denormalise(latents).to(dtype)):
            pass
peak = peak_memory()  # before the probe of the machine's speed, which needs memory of its own
memory = memory_estimate(config, shape, batch=batch, at_once=plan.largest, guidance=GUIDANCE, dtype=dtype)
step = seconds_a_step(config, shape, [len(p.cells) for p in plan.passes], dtype, clock=time.process_time)
print(json.dumps([memory.peak, peak, 2 * STEPS * step * batch, took]))
"""


def measure(case: Case) -> tuple[float, float, float, float]:
    """Bytes predicted and measured, seconds predicted and measured."""
    return tuple(json.loads(subprocess.check_output([sys.executable, "-c", RUN, str(ROOT), json.dumps(case)])))


def error(predicted: float, measured: float) -> float:
    """How far off, as a share of what was measured."""
    return predicted / measured - 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--first", type=int, default=len(CASES), help="so many of the configurations")
    args = parser.parse_args()
    enter_environment("benchmarks.planning")
    print(f"{'':52s} {'MB: said':>9s} {'is':>7s} {'':>6s}  {'s: said':>8s} {'is':>7s}")
    within = True
    for case in CASES[: args.first]:
        said_bytes, bytes_, said_seconds, seconds = measure(case)
        memory, time = error(said_bytes, bytes_), error(said_seconds, seconds)
        good = abs(memory) <= MEMORY_BAR and abs(time) <= TIME_BAR
        within &= good
        numbers = f"{said_bytes / 1e6:9.0f} {bytes_ / 1e6:7.0f} {memory:+6.0%}  {said_seconds:8.2f} {seconds:7.2f} {time:+6.0%}"
        print(f"{case!s:52s} {numbers}  {'yes' if good else 'NO'}", flush=True)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
