"""Our transformer against diffusers' WanTransformer3DModel, by the published conversion of names, in float32."""

import pytest
import torch

from sora_pack.sora_core.config import TransformerConfig
from sora_pack.sora_core.transformer import SpacetimeTransformer

diffusers = pytest.importorskip("diffusers")

# From the public layout to diffusers' (scripts/convert_wan_to_diffusers.py there). Order matters: norm2 and norm3 change places.
NAMES = (
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    ("modulation", "scale_shift_table"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("norm3", "norm2"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    (".q.", ".to_q."),
    (".k.", ".to_k."),
    (".v.", ".to_v."),
    (".o.", ".to_out.0."),
)

CASES = {
    "one head": (TransformerConfig(dim=128, ffn_dim=192, num_layers=2), 2, 3, 6, 4),
    "three heads": (TransformerConfig(dim=384, ffn_dim=640, num_layers=1, freq_dim=128, text_dim=96), 1, 5, 2, 10),
    "other channels": (TransformerConfig(dim=256, ffn_dim=260, num_layers=3, in_dim=5, out_dim=5, text_dim=40), 3, 1, 8, 2),
}


def renamed(state):
    out = {}
    for name, tensor in state.items():
        for ours, theirs in NAMES:
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    config, batch, cells, height, width = CASES[request.param]
    torch.manual_seed(0)
    ours = SpacetimeTransformer(config).eval().requires_grad_(False)
    for name, p in ours.named_parameters():
        if name.endswith("bias") or "norm" in name or name == "head.head.weight":
            p.copy_(0.3 * torch.randn_like(p) + ("norm" in name and name.endswith("weight")))
    theirs = diffusers.WanTransformer3DModel(
        patch_size=config.patch_size, num_attention_heads=config.num_heads, attention_head_dim=config.dim // config.num_heads,
        in_channels=config.in_dim, out_channels=config.out_dim, text_dim=config.text_dim, freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim, num_layers=config.num_layers, eps=config.eps,
    ).eval().requires_grad_(False)  # fmt: skip
    theirs.load_state_dict(renamed(ours.state_dict()))
    return ours, theirs, torch.randn(batch, config.in_dim, cells, height, width), torch.randn(batch, 9, config.text_dim)


@pytest.mark.parametrize("kind", ["video", "tokens"])
def test_forward_is_that_of_diffusers(pair, kind):
    ours, theirs, x, words = pair
    batch, _, cells, height, width = x.shape
    t = 1000 * torch.rand((batch,) if kind == "video" else (batch, cells * height * width // 4))
    expected = theirs(x, t, words, return_dict=False)[0]
    found = float((ours(x, t, words) - expected).norm() / expected.norm())
    assert found < 1e-5, found


def test_cell_levels_are_token_levels_repeated(pair):
    ours, theirs, x, words = pair
    batch, _, cells, height, width = x.shape
    t = 1000 * torch.rand(batch, cells)
    expected = theirs(x, t.repeat_interleave(height * width // 4, 1), words, return_dict=False)[0]
    found = float((ours(x, t, words) - expected).norm() / expected.norm())
    assert found < 1e-5, found
