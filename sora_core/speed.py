"""What a model costs: FLOPs of a forward, share of the machine's peak (MFU), memory, and whether a video fits.

MFU is the useful FLOPs a second over the peak of the device (Chowdhery et al., arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from .attention import cpu_bfloat16
from .autoencoder import DEFAULT_CHUNK, VideoVAE
from .config import TEXT_ROW_MULTIPLE, TextConfig, TransformerConfig, UserError, VAEConfig, preset
from .shapes import PATCH, VideoShape
from .text import ByteTextEncoder
from .transformer import SpacetimeTransformer

Clock = Callable[[], float]
"""perf_counter; on a CPU with one thread also process_time, where the machine has other work."""

DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 5090": 210e12}
"""By part of the device's name, from the makers' data sheets, without sparsity."""

PROCESS_BYTES = 580 * 10**6
"""Resident memory of Python with torch before any model: 535 MB once all is imported, and what the first products load."""

# Fitted to peak resident memory at widths 256 to 768, 2,000 to 8,000 tokens, bfloat16 and float32 (tests/unit/test_speed.py).
LAYERS_ALIVE = 18  # [tokens, width] tensors in the compute dtype, and for the MLP a third of [tokens, ffn]
FLOAT32_ALIVE = 6  # [tokens, width] tensors of the rotary embedding
SAMPLER_ALIVE = 8  # latents in float32: state, velocities, noise, what is known, preview
DECODER_ALIVE = 8.5  # times the largest layer of the decoder for one chunk: 11 at 128x128, 7 to 8 at 256x256
DECODER_CACHE = 80 * 10**6  # bytes for each byte of a number, from the second whole chunk on: 90 MB in bfloat16, 200 to 350 in float32


# -- FLOPs ---------------------------------------------------------------------------------------------------------------------------


def transformer_flops(config: TransformerConfig, shape: VideoShape, text_rows: int = TEXT_ROW_MULTIPLE) -> int:
    """FLOPs of one forward for one video: two for each multiplication of a matrix product or of attention, all else left out.

    A step of training costs three times as much, a step with guidance twice.
    """
    return sum(_flops(config, shape.tokens, shape.cells, text_rows))


def _flops(config: TransformerConfig, n: int, levels: int, text_rows: int = TEXT_ROW_MULTIPLE) -> tuple[int, int]:
    """FLOPs of the matrix products and of attention among n tokens."""
    d, patch = config.dim, math.prod(config.patch_size)
    linear = 4 * n * d * d + 2 * n * d * d + 2 * text_rows * d * d + 2 * n * d * config.ffn_dim  # self q k v o, cross q o, k v, MLP
    attention = 2 * n * n * d + 2 * n * text_rows * d
    ends = n * d * patch * (config.in_dim + config.out_dim)
    words = text_rows * d * (config.text_dim + d)
    time = levels * d * (config.freq_dim + 7 * d)
    return 2 * (config.num_layers * linear + ends + words + time), 2 * config.num_layers * attention


def peak_flops(device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOPs a second of matrix products: of the data sheet for a known GPU in a 16-bit type, else measured here (a second)."""
    device = torch.device(device)
    if device.type == "cuda" and dtype.itemsize == 2:
        name = torch.cuda.get_device_name(device)
        if known := next((peak for part, peak in DENSE_BF16_FLOPS.items() if part in name), None):
            return known
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(_seconds(lambda: a @ a, device) for _ in range(5))


def _seconds(work, device: torch.device, clock: Clock = time.perf_counter) -> float:
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def mfu(flops: float, seconds: float, peak: float) -> float:
    """Share of the peak (FLOPs a second) that `flops` in `seconds` are, 0 to 1."""
    return flops / seconds / peak


PROBES = ((1, 2), (4, 16), (32, 16))
"""Cells, and side of the latent grid, of the forwards that are timed: of 1, 256 and 2,048 tokens."""

PROBE_PARAMETERS = 200_000_000
"""Most that the blocks of what is timed have: a second copy of a large model might not fit, so a few of its blocks tell."""


@lru_cache(maxsize=8)
def _rates(config: TransformerConfig, dtype: torch.dtype, device: str, clock: Clock) -> tuple[float, float, float]:
    """Seconds of a forward of next to nothing, and for each FLOP of the matrix products and of attention (some seconds to measure)."""
    a_block = 8 * config.dim**2 + 2 * config.dim * config.ffn_dim
    blocks = min(config.num_layers, max(2, PROBE_PARAMETERS // a_block))
    whole, config = config, replace(config, num_layers=blocks)
    model = SpacetimeTransformer(config, dtype=dtype, device=device).eval()
    times, flops = [], []
    with torch.inference_mode():
        text = model.prepare_text(torch.zeros(1, TEXT_ROW_MULTIPLE, config.text_dim, dtype=dtype, device=device))
        for cells, side in PROBES:
            x = torch.zeros(1, config.in_dim, cells, side, side, dtype=dtype, device=device)
            t = torch.zeros(1, device=device)
            times.append(min(_seconds(lambda: model(x, t, text=text), torch.device(device), clock) for _ in range(3)))  # noqa: B023
            flops.append(_flops(config, cells * (side // PATCH) ** 2, cells))
    least = times[0]
    (a, b), (c, d) = flops[1:]
    s, t = (max(seconds - least, 0.0) for seconds in times[1:])
    attention = max((t * a - s * c) / (d * a - b * c), 0.0)
    return least * whole.num_layers / blocks, max((s - attention * b) / a, 0.0), attention


def seconds_a_step(
    config: TransformerConfig,
    shape: VideoShape,
    passes: list[int],
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    clock: Clock = time.perf_counter,
) -> float:
    """Time of one forward in every pass, for passes of so many cells. Measured once for each model and device in a process, then
    predicted: a machine may be busier tomorrow."""
    least, linear, attention = _rates(config, dtype, device, clock)
    parts = [_flops(config, cells * shape.tokens_per_cell, cells) for cells in passes]
    return sum(least + linear * a + attention * b for a, b in parts)


def fast_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16, but float32 on a CPU without instructions for it, where bfloat16 takes 4 to 20 times as long."""
    return torch.bfloat16 if torch.device(device).type != "cpu" or any(cpu_bfloat16()) else torch.float32


# -- memory --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes of a generation. Denoising and decoding come one after the other."""

    weights: int
    denoise: int
    decode: int

    @property
    def peak(self) -> int:
        """Highest resident memory of a process that does nothing else, within about a quarter."""
        return PROCESS_BYTES + self.weights + max(self.denoise, self.decode)


def memory_estimate(
    config: TransformerConfig,
    shape: VideoShape,
    *,
    batch: int = 1,
    at_once: int | None = None,
    guidance: float = 1.0,
    dtype: torch.dtype = torch.bfloat16,
    vae: VAEConfig | None = None,
    text: TextConfig | None = None,
) -> Memory:
    """Memory of making `batch` videos of `shape`, with the frames streamed to a file.

    Args:
        at_once: cells that the model holds at once; default all.
        guidance: other than 1 keeps the prepared words of two prompts; its two forwards come one after the other.
        dtype: of weights and activations.
    """
    vae, text, size = vae or VAEConfig(), text or TextConfig(), dtype.itemsize
    weights = size * _parameters(config, vae, text)
    tokens = batch * shape.tokens_per_cell * min(at_once or shape.cells, shape.cells)
    width = config.dim * (LAYERS_ALIVE * size + FLOAT32_ALIVE * 4) + config.ffn_dim * size / 3
    words = (1 if guidance == 1 else 2) * config.num_layers * 2 * batch * TEXT_ROW_MULTIPLE * config.dim * size
    latents = SAMPLER_ALIVE * 4 * batch * math.prod(shape.latent)
    frames = min(shape.frames, shape.strides.frames(1 + DEFAULT_CHUNK))
    decode = int(DECODER_ALIVE * vae.dim * size * frames * shape.width * shape.height)
    decode += DECODER_CACHE * size if shape.cells > 2 * DEFAULT_CHUNK else 0
    return Memory(weights, int(tokens * width + words + latents), decode + latents)


@lru_cache(maxsize=64)
def _parameters(config: TransformerConfig, vae: VAEConfig, text: TextConfig) -> int:
    models = (SpacetimeTransformer(config, device="meta"), VideoVAE(vae, device="meta"), ByteTextEncoder(text, device="meta"))
    return sum(p.numel() for model in models for p in model.parameters())


def peak_memory() -> int:
    """The most resident bytes that this process ever had.

    Linux has a count of this program's own; getrusage's begins with what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_memory(device: str | torch.device = "cpu") -> int:
    """Bytes of memory of a CUDA device, or of this machine; on Linux not more than its control group may use."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if sys.platform == "win32":
        return _windows_memory()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def _windows_memory() -> int:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), *((f"field{i}", ctypes.c_ulonglong) for i in range(7))]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.field0  # ullTotalPhys


def check_fits(
    shape: VideoShape, *, batch: int = 1, config: TransformerConfig | None = None, memory: int | None = None, device="cpu", **options
) -> None:
    """Refuses a video that cannot fit, before any work.

    Args:
        config: the transformer's sizes; those of the shipped one by default.
        memory: bytes that there are; by default those of `device`.
        options: for `memory_estimate`.

    Raises:
        ValueError: one sentence with what is needed, what there is, and the longest and the largest video that fit.
    """
    config = config or preset("mini")
    memory = machine_memory(device) if memory is None else memory

    def needed(other: VideoShape, count: int = batch) -> int:
        return memory_estimate(config, other, batch=count, **options).peak

    if needed(shape) <= memory:
        return
    fixes = []
    if cells := _largest(1, shape.cells - 1, lambda n: needed(replace(shape, cells=n)) <= memory):
        shorter = replace(shape, cells=cells)
        fixes.append(f"{shorter.seconds:g} s of this size" if cells > 1 else "one picture of this size")
    m = shape.strides.size_multiple
    steps = max(shape.width, shape.height) // m
    if scale := _largest(1, steps - 1, lambda k: needed(_scaled(shape, k / steps)) <= memory):
        smaller = _scaled(shape, scale / steps)
        fixes.append(f"{smaller.width}x{smaller.height} of this length")
    if count := _largest(1, batch - 1, lambda n: needed(shape, n) <= memory):
        fixes.append(f"{count} at once")
    what = f"{shape.width}x{shape.height} and {shape.seconds:g} s" + (f", {batch} at once," if batch > 1 else "")
    what = f"{what} need about {_gigabytes(needed(shape))}"
    fix = "at most " + ", or ".join(fixes) if fixes else "a machine with more memory, or a smaller model"
    raise UserError(f"{what}, there are {_gigabytes(memory)}: use {fix}")


def _scaled(shape: VideoShape, scale: float) -> VideoShape:
    """The shape with both sides smaller, rounded down to legal sizes."""
    m = shape.strides.size_multiple
    width, height = (max(m, int(side * scale) // m * m) for side in (shape.width, shape.height))
    return replace(shape, width=width, height=height)


def _largest(low: int, high: int, fits) -> int:
    """The largest n in low..high with fits(n), which holds up to some n; 0 if for none."""
    if high < low or not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GB"
