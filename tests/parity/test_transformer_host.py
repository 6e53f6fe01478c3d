"""Our transformer against the host's `comfy.ldm.wan.model.WanModel`: same weights, same numbers, in float32."""

import pytest
import torch

from sora_pack.sora_core.config import TransformerConfig
from sora_pack.sora_core.transformer import SpacetimeTransformer

# config, batch, cells, latent height and width, text rows: odd on purpose
CASES = {
    "one head": (TransformerConfig(dim=128, ffn_dim=192, num_layers=2), 2, 3, 6, 4, 7),
    "three heads, odd grid": (TransformerConfig(dim=384, ffn_dim=640, num_layers=1, freq_dim=128, text_dim=96), 1, 5, 5, 7, 13),
    "other channels, a still": (TransformerConfig(dim=256, ffn_dim=257, num_layers=3, in_dim=5, out_dim=5, text_dim=40), 3, 1, 8, 2, 1),
    "flat patches": (TransformerConfig(dim=128, ffn_dim=128, num_layers=2, patch_size=(1, 1, 2), text_dim=40), 1, 4, 3, 4, 65),
}


def randomised(config):
    """A model in which nothing is zero or an identity."""
    torch.manual_seed(0)
    model = SpacetimeTransformer(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith("bias") or "norm" in name or name == "head.head.weight":
            p.copy_(0.3 * torch.randn_like(p) + ("norm" in name and name.endswith("weight")))
    return model


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module", params=CASES)
def pair(request, host):
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    config, batch, cells, height, width, rows = CASES[request.param]
    ours = randomised(config)
    names = ("dim", "ffn_dim", "num_layers", "in_dim", "out_dim", "text_dim", "freq_dim", "patch_size")
    sizes = {name: getattr(config, name) for name in names}
    theirs = WanModel(num_heads=config.num_heads, operations=comfy.ops.disable_weight_init, device="cpu", dtype=torch.float32, **sizes)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, config.in_dim, cells, height, width)
    return ours, theirs, x, torch.randn(batch, rows, config.text_dim)


def levels(kind, x, config):
    """Noise levels for a video, for cells, or for tokens of which some are known."""
    batch, _, cells, height, width = x.shape
    tokens = cells * -(-height // config.patch_size[1]) * -(-width // config.patch_size[2])
    shape = {"video": (batch,), "cells": (batch, cells), "tokens": (batch, tokens)}[kind]
    t = 1000 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return t * (torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.4) if kind == "tokens" else t


@pytest.mark.parametrize("kind", ["video", "cells", "tokens"])
def test_forward_is_the_hosts(pair, kind):
    ours, theirs, x, words = pair
    t = levels(kind, x, ours.config)
    assert (found := error(ours(x, t, words), theirs(x, t, words))) < 1e-5, found


@pytest.mark.parametrize("rope", [{"scale_t": 2.0}, {"scale_t": 0.5, "shift_t": 7.0}, {"scale_y": 1.5, "shift_x": -2.0}])
def test_rope_options_are_the_hosts(pair, rope):
    ours, theirs, x, words = pair
    t = levels("cells", x, ours.config)
    options = {"rope_options": rope}
    assert (found := error(ours(x, t, words, dict(options)), theirs(x, t, words, transformer_options=dict(options)))) < 1e-5, found


def test_strided_positions_are_the_hosts_scaled_time(pair):
    ours, theirs, x, words = pair
    t = levels("video", x, ours.config)
    strided = theirs(x, t, words, transformer_options={"rope_options": {"scale_t": 4.0, "shift_t": 3.0}})
    assert (found := error(ours(x, t, words, positions=3 + 4.0 * torch.arange(x.shape[2])), strided)) < 1e-5, found


def test_hooks_see_and_do_what_they_do_in_the_host(pair):
    """Block replacements, patches and the attention override get the same values from both, and their results are used."""
    ours, theirs, x, words = pair
    t = levels("cells", x, ours.config)

    def run(model):
        seen = []

        def replace(args, extra):
            out = extra["original_block"]({**args, "vec": args["vec"] * 0.9})
            seen.extend((args["img"], args["txt"], args["vec"]))
            return {"img": out["img"] * 1.1}

        def after_block(args):
            seen.extend((args["img"], args["x"], args["vec"], torch.tensor([args["block_index"], args["img_offset"]])))
            return {"img": args["img"] + 0.1}

        def attention(function, q, k, v, heads, **keywords):
            seen.extend((q, k, v))
            return function(q, k, v * 0.5, heads, **keywords)

        def after_self_attention(args):
            seen.extend((args["x"], args["q"], args["k"]))
            return args["x"] * 1.2

        patches = {"double_block": [after_block], "attn1_patch": [after_self_attention], "attn2_patch": [lambda args: args["x"] * 0.7]}
        replaced = {"dit": {("double_block", 0): replace}}
        options = {"patches": patches, "patches_replace": replaced, "optimized_attention_override": attention}
        return model(x, t, words, transformer_options=options), seen, options

    (mine, my_seen, my_options), (out, seen, options) = run(ours), run(theirs)
    assert (found := error(mine, out)) < 1e-5, found
    assert len(my_seen) == len(seen)
    for i, (a, b) in enumerate(zip(my_seen, seen)):
        assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4), i
    for key in ("grid_sizes", "total_blocks", "block_type", "block_index"):
        assert my_options[key] == options[key]


def test_the_hosts_layers_give_the_same(pair):
    """Built from comfy.ops with lazily cast weights, in bfloat16 storage and float32 input."""
    import comfy.ops

    ours, _, x, words = pair
    built = SpacetimeTransformer(ours.config, operations=comfy.ops.manual_cast, dtype=torch.bfloat16)
    assert built.patch_embedding.weight.dtype == torch.float32
    halved = {n: p if n.startswith("patch_embedding") else p.bfloat16() for n, p in ours.state_dict().items()}
    built.load_state_dict(halved)
    same = SpacetimeTransformer(ours.config)
    same.load_state_dict({n: p.float() for n, p in halved.items()})
    t = levels("cells", x, ours.config)
    assert (found := error(built(x, t, words), same(x, t, words))) < 1e-5, found
