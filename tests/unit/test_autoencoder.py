"""The VAE by itself: causal, the same in any chunks, flat in memory, in bfloat16, and on the last second of a minute."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sora_pack.sora_core.autoencoder import RMSNorm, VideoVAE, denormalise, normalise
from sora_pack.sora_core.config import LATENT_MEAN, LATENT_STD, VAEConfig

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "sora_core" / "weights" / "vae" / "sora_mini_vae.safetensors"


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VideoVAE(VAEConfig(dim=8)).eval().requires_grad_(False)


def clip(frames, height=16, width=24, batch=1):
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def psnr(x, y):
    """dB of frames in -1..1."""
    return float(-10 * torch.log10((x.clamp(-1, 1) - y.clamp(-1, 1)).square().mean() / 4))


@pytest.mark.parametrize(("frames", "cells"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (33, 9)])
def test_shapes_and_frames_left_out(vae, frames, cells):
    x = clip(frames)
    z = vae.encode(x)
    assert z.shape == (1, 16, cells, 2, 3)
    assert torch.equal(z, vae.encode(x[:, :, : 1 + 4 * (cells - 1)])), "frames that fill no cell are left out"
    assert vae.decode(z).shape == (1, 3, 1 + 4 * (cells - 1), 16, 24)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 100])
def test_chunks_change_nothing(vae, chunk):
    x = clip(41, batch=2)
    z = vae.encode(x, None)
    assert torch.allclose(vae.encode(x, chunk), z, atol=1e-5)
    pieces = list(vae.decode_chunks(z, chunk))
    assert len(pieces) == -(-10 // chunk), "the first piece has a cell more"
    assert torch.allclose(torch.cat(pieces, 2), vae.decode(z, None), atol=1e-5)


def test_streams(vae):
    x, z = clip(21), vae.encode(clip(21))
    pieces = [x[:, :, :5], x[:, :, 5:17], x[:, :, 17:]]
    assert torch.allclose(torch.cat(list(vae.encode_chunks(pieces)), 2), z, atol=1e-5)
    chunks = list(vae.decode_chunks(z, 2))
    assert [c.shape[2] for c in chunks] == [9, 8, 4]


def test_frames_kept_elsewhere_are_moved_as_they_are_walked():
    moved = []

    class Moves(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            here = args and isinstance(args[0], torch.Tensor) and args[0].device.type == "cpu"
            if here and isinstance(out, torch.Tensor) and out.device.type == "meta":
                moved.append(out.shape[2])
            return out

    vae, x = VideoVAE(VAEConfig(dim=8), device="meta"), torch.zeros(1, 3, 41, 16, 16)
    with Moves(), torch.inference_mode():
        z = vae.encode(x, device="meta")
    assert z.shape == (1, 16, 11, 2, 2) and z.device.type == "meta"
    assert moved == [17, 16, 8]


def test_a_cell_depends_on_the_past_only(vae):
    x = clip(17)
    other = x.clone()
    other[:, :, 9:] = clip(17).flip(2)[:, :, 9:]
    assert torch.equal(vae.encode(x)[:, :, :3], vae.encode(other)[:, :, :3])
    assert not torch.allclose(vae.encode(x)[:, :, 3:], vae.encode(other)[:, :, 3:], atol=1e-3)
    z = vae.encode(x)
    assert torch.allclose(vae.decode(z[:, :, :3]), vae.decode(z)[:, :, :9], atol=1e-5)
    assert torch.allclose(vae.encode(x[:, :, :1]), z[:, :, :1], atol=1e-5), "a still is the first cell of a clip"


def test_one_clip_leaves_nothing_behind(vae):
    first = vae.encode(clip(17), 1)
    vae.encode(clip(9, 32, 16), 1)
    assert torch.equal(vae.encode(clip(17), 1), first)


def test_norm_is_over_channels(vae):
    norm = RMSNorm(6, 3)
    nn.init.normal_(norm.gamma)
    x = torch.randn(2, 6, 3, 4, 5)
    right = nn.functional.normalize(x, dim=1) * 6**0.5 * norm.gamma
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        assert torch.allclose(norm(x.contiguous(memory_format=layout)), right, atol=1e-6)
    assert norm(torch.zeros(1, 6, 1, 1, 1)).abs().max() == 0


def test_channels_stay_innermost():
    """A convolution whose input has lost the layout copies it: half as fast on CPUs."""
    vae = VideoVAE(VAEConfig(dim=8)).channels_last().to(torch.bfloat16).eval().requires_grad_(False)
    lost = []

    def look(layer, inputs):
        layout = torch.channels_last_3d if isinstance(layer, nn.Conv3d) else torch.channels_last
        if not inputs[0].is_contiguous(memory_format=layout):
            lost.append(layer)

    for layer in vae.modules():
        if isinstance(layer, nn.Conv3d | nn.Conv2d):
            layer.register_forward_pre_hook(look)
    vae.decode(vae.encode(clip(33, 32, 32).bfloat16()))
    names = [name for name, layer in vae.named_modules() if layer in lost]
    assert set(names) <= {"conv2"}, names  # its input is the caller's latent, and small


def test_bfloat16_is_near(vae):
    half = VideoVAE(vae.config).eval().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    half.channels_last().to(torch.bfloat16)
    x = clip(17)
    z = vae.encode(x)
    assert (half.encode(x.bfloat16()).float() - z).norm() / z.norm() < 0.03
    y = vae.decode(z)
    assert (half.decode(z.bfloat16()).float() - y).norm() / y.norm() < 0.05


def test_normalise_and_back():
    z = torch.randn(2, 16, 3, 4, 5)
    assert torch.allclose(denormalise(normalise(z)), z, atol=1e-5)
    raw = torch.tensor(LATENT_MEAN).view(1, -1, 1, 1, 1) + torch.tensor(LATENT_STD).view(1, -1, 1, 1, 1) * torch.ones(1, 16, 1, 1, 1)
    assert torch.allclose(normalise(raw), torch.ones_like(raw), atol=1e-6)


PEAK = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from sora_core.autoencoder import VideoVAE
from sora_core.config import VAEConfig
from sora_core.speed import peak_memory
torch.set_num_threads(1)
vae = VideoVAE(VAEConfig(dim=8)).channels_last().to(torch.bfloat16).eval()
z = torch.randn(1, 16, int(sys.argv[2]), 16, 16).bfloat16()
with torch.inference_mode():
    for chunk in vae.decode_chunks(z):
        pass
print(peak_memory())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_memory_is_flat_in_the_length():
    peaks = [int(subprocess.check_output([sys.executable, "-c", PEAK, str(ROOT), str(cells)])) for cells in (11, 41)]
    assert peaks[1] < 1.1 * peaks[0], peaks


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.is_file(), reason="the shipped VAE is not in this checkout")
def test_second_60_is_as_good_as_second_1():
    """The shipped VAE holds its colours: it was trained on clips longer than its reach in time. Three minutes at 64x64 whose last second
    shows the pictures of the first."""
    from sora_pack.sora_core.checkpoint import load_vae
    from sora_pack.sora_core.evaluation.quality import MINUTE, recurring
    from sora_pack.sora_core.world import render, sample_scene

    vae = load_vae(SHIPPED).channels_last().to(torch.bfloat16)
    first, last = [], []
    with torch.inference_mode():
        for seed in range(3):
            frames = render(recurring(sample_scene(seed, cameras=("static", "orbit"))), [k / 8 for k in range(MINUTE)], 64, 64)
            x = (frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).bfloat16()
            y = vae.decode(vae.encode(x)).float()
            first.append(psnr(y[:, :, :8], x[:, :, :8].float()))
            last.append(psnr(y[:, :, -9:-1], x[:, :, -9:-1].float()))
    gap = sum(first) / len(first) - sum(last) / len(last)
    assert abs(gap) < 0.5, f"second 60 is {gap:.2f} dB worse than second 1: {last} dB against {first} dB"
