"""Our VAE against the host's `comfy.ldm.wan.vae.WanVAE`: same weights, same numbers, whole and in chunks, in float32."""

import pytest
import torch

from sora_pack.sora_core.autoencoder import VideoVAE
from sora_pack.sora_core.config import VAEConfig

# config, frames, height, width: odd on purpose
CASES = {
    "ours": (VAEConfig(dim=16), 41, 24, 16),
    "wide": (VAEConfig(dim=24), 41, 8, 40),
    "public shape": (VAEConfig(dim=8, dim_mult=(1, 2, 4, 4)), 33, 8, 24),
    "lopsided": (VAEConfig(dim=12, z_dim=6, dim_mult=(1, 1, 3, 2), num_res_blocks=1), 41, 8, 32),
}
CHUNKS = (None, 1, 2, 3, 7)


def randomised(config):
    """A VAE whose norms and biases are no identities."""
    torch.manual_seed(0)
    vae = VideoVAE(config).eval().requires_grad_(False)
    for name, p in vae.named_parameters():
        if name.endswith(("gamma", "bias")):
            p.copy_(torch.randn_like(p) * 0.3 + name.endswith("gamma"))
    return vae


@pytest.fixture(scope="module", params=CASES)
def pair(request, host):
    from comfy.ldm.wan.vae import WanVAE

    config, frames, height, width = CASES[request.param]
    ours = randomised(config)
    sizes = (config.dim, config.z_dim, list(config.dim_mult), config.num_res_blocks)
    theirs = WanVAE(*sizes, temperal_downsample=list(config.temporal_downsample))
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, frames, height, width) * 2 - 1
    z = theirs.encode(x)
    assert z.shape[2] > 1 + max(CHUNKS[1:]), "chunks of every length walk"
    return ours, theirs, x, z, theirs.decode(z)


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("chunk", CHUNKS)
def test_encode_is_the_hosts(pair, chunk):
    ours, _, x, z, _ = pair
    assert (found := error(ours.encode(x, chunk), z)) < 1e-5, found


@pytest.mark.parametrize("chunk", CHUNKS)
def test_decode_is_the_hosts(pair, chunk):
    ours, _, _, z, y = pair
    assert (found := error(ours.decode(z, chunk), y)) < 1e-5, found


def test_a_still_is_the_hosts(pair):
    ours, theirs, x, _, _ = pair
    z = theirs.encode(x[:, :, :1])
    assert error(ours.encode(x[:, :, :1]), z) < 1e-5
    assert error(ours.decode(z), theirs.decode(z)) < 1e-5


def test_the_same_in_the_hosts_layers(pair, host):
    """`operations` of the host in place of torch's: same result, whole, in chunks and for a still."""
    import comfy.ops

    ours, _, x, z, y = pair
    inside = VideoVAE(ours.config, operations=comfy.ops.manual_cast)
    inside.load_state_dict(ours.state_dict())
    for chunk in (None, 2):
        assert error(inside.encode(x, chunk), z) < 1e-5
        assert error(inside.decode(z, chunk), y) < 1e-5
    assert error(inside.encode(x[:, :, :1]), ours.encode(x[:, :, :1])) < 1e-5
    assert error(inside.decode(z[:, :, :1]), ours.decode(z[:, :, :1])) < 1e-5
