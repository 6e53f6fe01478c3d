"""FLOPs against torch's own counter, memory against measured processes, and the sentence for what does not fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sora_pack.sora_core import speed
from sora_pack.sora_core.config import TransformerConfig, VAEConfig, preset
from sora_pack.sora_core.shapes import VideoShape
from sora_pack.sora_core.speed import check_fits, machine_memory, memory_estimate, mfu, peak_flops, seconds_a_step, transformer_flops
from sora_pack.sora_core.transformer import SpacetimeTransformer

ROOT = Path(__file__).resolve().parents[2]
MB = 10**6


@pytest.mark.parametrize("rows", [64, 192])
@pytest.mark.parametrize("shape", [VideoShape(64, 64, 3), VideoShape(96, 32, 1)])
@pytest.mark.parametrize("config", [preset("tiny"), TransformerConfig(dim=256, ffn_dim=640, num_layers=3)])
def test_flops_are_those_that_torch_counts(config, shape, rows):
    model = SpacetimeTransformer(config)
    # Of the kernels for attention on the CPU only plain products are known to the counter.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape.latent), torch.zeros(1, shape.cells), torch.zeros(1, rows, config.text_dim))
    assert transformer_flops(config, shape, rows) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_public_model_costs_what_is_published():
    """Wan 1.3B at 480p, 81 frames, is 32.8k tokens and 0.283 PFLOP without the words."""
    shape = VideoShape(832, 480, 21, 16.0)
    assert shape.tokens == 32760
    assert transformer_flops(preset("wan-1.3b"), shape, 0) == pytest.approx(0.283e15, rel=0.05)


@pytest.mark.parametrize("dot, tiles", [(False, False), (True, False), (False, True)])
def test_a_cpu_without_bfloat16_works_in_float32(monkeypatch, dot, tiles):
    monkeypatch.setattr(speed, "cpu_bfloat16", lambda: (dot, tiles))
    assert speed.fast_dtype("cpu") == (torch.bfloat16 if dot or tiles else torch.float32)
    assert speed.fast_dtype("cuda") == torch.bfloat16


def test_mfu():
    assert mfu(5e11, 2.0, 1e12) == 0.25
    assert peak_flops("cpu", torch.float32) > 1e9


def test_time_of_a_step_is_that_of_its_passes(monkeypatch):
    """On a machine of known speed: a clock that goes on with the FLOPs of each forward."""
    least, linear, attention, now = 1e-3, 1e-12, 3e-12, [0.0]

    class Known:
        def __init__(self, config, **_):
            self.config = config

        def eval(self):
            return self

        def prepare_text(self, states):
            return None

        def __call__(self, x, t, text):
            a, b = speed._flops(self.config, x.shape[2] * x.shape[3] * x.shape[4] // 4, x.shape[2])
            now[0] += least + linear * a + attention * b

    monkeypatch.setattr(speed, "SpacetimeTransformer", Known)
    config, shape = preset("tiny"), VideoShape(128, 128, 121)
    one, two, long = (seconds_a_step(config, shape, passes, torch.float32, clock=lambda: now[0]) for passes in ([11], [11, 11], [121]))
    a, b = speed._flops(config, 121 * shape.tokens_per_cell, 121)
    # The forward of one token is taken for one of none.
    assert long == pytest.approx(least + linear * a + attention * b, rel=0.03)
    assert two == pytest.approx(2 * one) and long > 11 * one, "attention makes a longer pass dearer"


def test_a_pass_needs_memory_for_what_it_holds_at_once():
    shape = VideoShape(128, 128, 121)
    whole, part = (memory_estimate(preset("mini"), shape, at_once=n).denoise for n in (None, 16))
    clip = memory_estimate(preset("mini"), VideoShape(128, 128, 16)).denoise
    assert clip < part < clip + 8 * 4 * 16 * 121 * 16 * 16 + 1 and part < whole / 4


PEAK = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from sora_core.config import TextConfig, TransformerConfig, VAEConfig
from sora_core.pipeline import ByteTextEncoder, SpacetimeTransformer, VideoVAE
from sora_core.speed import peak_memory
torch.set_num_threads(1)
kind, a, b, c, dtype = sys.argv[2:7]
cells, height, width, dtype = int(a), int(b), int(c), getattr(torch, dtype)
with torch.inference_mode():
    model = SpacetimeTransformer(TransformerConfig(dim=512, ffn_dim=2048, num_layers=2)).to(dtype)
    text, vae = ByteTextEncoder(TextConfig()).to(dtype), VideoVAE(VAEConfig()).channels_last().to(dtype)
    if kind == "denoise":
        model(torch.randn(1, 16, cells, height, width), torch.full((1, cells), 500.0), torch.zeros(1, 64, 4096).to(dtype))
    else:
        for chunk in vae.decode_chunks(torch.randn(1, 16, cells, height, width).to(dtype)):
            pass
print(peak_memory())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["denoise", "decode"])
def test_memory_is_within_a_quarter(kind, dtype):
    cells, height, width = (16, 32, 32) if kind == "denoise" else (6, 32, 32)
    command = [sys.executable, "-c", PEAK, str(ROOT), kind, str(cells), str(height), str(width), dtype]
    measured = int(subprocess.check_output(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    shape = VideoShape(width * 8, height * 8, cells)
    config = TransformerConfig(dim=512, ffn_dim=2048, num_layers=2)
    estimate = memory_estimate(config, shape, dtype=getattr(torch, dtype))
    found = estimate.peak - max(estimate.denoise, estimate.decode) + getattr(estimate, kind)
    assert found == pytest.approx(measured, rel=0.25), (found / MB, measured / MB)


def test_decoding_does_not_grow_with_the_length_and_guidance_is_cheap():
    short, long = (memory_estimate(preset("mini"), VideoShape(128, 128, cells)) for cells in (11, 121))
    latents = 8 * 4 * 16 * 16 * 16 * 110
    assert long.decode - short.decode == latents
    plain, guided = (memory_estimate(preset("base"), VideoShape(128, 128, 11), guidance=g).denoise for g in (1, 5))
    assert plain < guided < 1.2 * plain
    assert memory_estimate(preset("mini"), VideoShape(64, 64, 1), vae=VAEConfig(dim=96)).weights > 100 * MB


def test_what_fits_passes_and_what_does_not_is_told_the_largest():
    shape = VideoShape(256, 256, 41)
    check_fits(shape, memory=8 * 10**9)
    with pytest.raises(ValueError, match=r"256x256 and 20 s, 2 at once, need about .* GB, there are 0.9 GB: use at most") as caught:
        check_fits(shape, batch=2, memory=10**9)
    words = str(caught.value)
    size = next(word for word in words.split() if "x" in word and word[0].isdigit() and word != "256x256")
    width, height = map(int, size.split("x"))
    assert width % 16 == 0 and height % 16 == 0
    check_fits(VideoShape(width, height, 41), batch=2, memory=10**9)
    with pytest.raises(ValueError):
        check_fits(VideoShape(width + 16, height + 16, 41), batch=2, memory=10**9)
    with pytest.raises(ValueError, match="more memory, or a smaller model"):
        check_fits(VideoShape(64, 64, 2), config=preset("wan-14b"), memory=4 * 10**9)


def test_largest_length_is_named():
    with pytest.raises(ValueError, match=r"at most (\S+) s of this size") as caught:
        check_fits(VideoShape(128, 128, 2000), config=preset("base"), memory=4 * 10**9)
    seconds = float(str(caught.value).split("at most ")[1].split()[0])
    cells = round(seconds * 8 / 4) + 1
    check_fits(VideoShape(128, 128, cells), config=preset("base"), memory=4 * 10**9)
    with pytest.raises(ValueError):
        check_fits(VideoShape(128, 128, cells + 1), config=preset("base"), memory=4 * 10**9)


def test_machine_memory_is_plausible():
    assert 10**9 < machine_memory() < 10**14
