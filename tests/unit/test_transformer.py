import pytest
import torch

from sora_pack.sora_core import attention
from sora_pack.sora_core.blocks import Levels, gated, modulate
from sora_pack.sora_core.config import TransformerConfig
from sora_pack.sora_core.layers import GELU, RMSNorm
from sora_pack.sora_core.patches import pad_to_patch, unpatchify
from sora_pack.sora_core.transformer import SpacetimeTransformer

CONFIG = TransformerConfig(dim=256, ffn_dim=192, num_layers=2, in_dim=4, out_dim=4, text_dim=48, freq_dim=64)
B, F, H, W = 2, 4, 4, 6
N = F * H * W // 4


@pytest.fixture(scope="module")
def model():
    return randomised()


def randomised(**factory):
    torch.manual_seed(0)
    model = SpacetimeTransformer(CONFIG, **factory).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith("bias") or "norm" in name or name == "head.head.weight":
            p.copy_(0.3 * torch.randn_like(p) + ("norm" in name and name.endswith("weight")))
    return model


@pytest.fixture
def x():
    return torch.randn(B, 4, F, H, W, generator=torch.Generator().manual_seed(1))


def words(rows=5, seed=2):
    return torch.randn(B, rows, 48, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    difference = (a - b).abs().max().item()
    assert difference <= tolerance * b.abs().max().item(), difference


# -- names and starting values -----------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_the_public_ones():
    state = {n: tuple(t.shape) for n, t in SpacetimeTransformer(CONFIG, device="meta").state_dict().items()}
    block = {n.removeprefix("blocks.1.") for n in state if n.startswith("blocks.1.")}
    layers = [f"{a}.{p}.{k}" for a in ("self_attn", "cross_attn") for p in "qkvo" for k in ("weight", "bias")]
    norms = [f"{a}.norm_{p}.weight" for a in ("self_attn", "cross_attn") for p in "qk"]
    rest = [f"{n}.{k}" for n in ("norm3", "ffn.0", "ffn.2") for k in ("weight", "bias")]
    assert block == {*layers, *norms, *rest, "modulation"}
    outer = [f"{n}.{k}" for n in ("patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2",
                                  "time_projection.1", "head.head") for k in ("weight", "bias")]  # fmt: skip
    assert {n for n in state if not n.startswith("blocks.")} == {*outer, "head.modulation"}
    assert state["patch_embedding.weight"] == (256, 4, 1, 2, 2) and state["head.head.weight"] == (16, 256)
    assert state["blocks.0.modulation"] == (1, 6, 256) and state["time_projection.1.weight"] == (1536, 256)


def test_the_patch_embedding_is_always_float32():
    model = SpacetimeTransformer(CONFIG, dtype=torch.bfloat16, device="meta")
    assert model.patch_embedding.weight.dtype == torch.float32
    assert model.blocks[0].ffn[0].weight.dtype == torch.bfloat16


def test_a_fresh_model_predicts_zero_and_learns_everywhere(x):
    torch.manual_seed(0)
    model = SpacetimeTransformer(CONFIG)
    t = torch.rand(B, F) * 1000
    assert not model(x, t, words()).any()
    torch.nn.init.normal_(model.head.head.weight)
    model(x, t, words()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_autocast_learns_like_float32(x):
    model = randomised().requires_grad_(True)
    t = torch.rand(B, F) * 1000
    grads = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(x, t, words())
        assert out.dtype == torch.float32
        out.square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    assert torch.cosine_similarity(*grads, dim=0) > 0.99


def test_all_in_bfloat16(model, x):
    half = randomised().to(torch.bfloat16)
    t = torch.rand(B, F) * 1000
    out = half(x, t, words())
    assert out.dtype == x.dtype
    exact = model(x, t, words())
    assert (out - exact).norm() / exact.norm() < 0.03


def test_odd_time_patches_are_refused():
    with pytest.raises(ValueError, match="patch_size"):
        SpacetimeTransformer(TransformerConfig(patch_size=(2, 2, 2)), device="meta")


# -- noise levels ------------------------------------------------------------------------------------------------------------------


def test_one_level_can_be_told_in_three_ways(model, x):
    t = torch.tensor([200.0, 700.0])
    whole = model(x, t, words())
    close(model(x, t[:, None].expand(B, F), words()), whole)
    close(model(x, t[:, None].expand(B, N), words()), whole)
    close(model(x, t[:, None], words()), whole)


def test_levels_of_cells_are_those_of_their_tokens(model, x):
    t = torch.rand(B, F) * 1000
    close(model(x, t.repeat_interleave(N // F, 1), words()), model(x, t, words()))


def test_a_wrong_number_of_levels_is_named(model, x):
    with pytest.raises(ValueError, match=f"7 noise levels: give 1 for all, {F} for the cells or {N} for the tokens"):
        model(x, torch.zeros(B, 7), words())


# -- positions ---------------------------------------------------------------------------------------------------------------------


def test_only_differences_of_positions_matter(model, x):
    t, positions = torch.rand(B, F) * 1000, torch.tensor([0.0, 3.0, 3.5, 11.0])
    close(model(x, t, words(), positions=positions + 400), model(x, t, words(), positions=positions), 1e-4)
    assert not torch.allclose(model(x, t, words(), positions=2 * positions), model(x, t, words(), positions=positions), atol=1e-3)


def test_default_positions_count(model, x):
    t = torch.rand(B) * 1000
    assert torch.equal(model(x, t, words()), model(x, t, words(), positions=torch.arange(F)))


def test_cells_may_come_in_any_order(model, x):
    """A set of cells with positions, levels and shots: guide cells are appended, gaps are cut out."""
    t, positions, shots = torch.rand(B, F) * 1000, torch.tensor([0.0, 2.5, 8.0, 9.0]), [0, 0, 1, 1]
    shot_words = [words(3, 4), words(6, 5)]
    order = [2, 0, 3, 1]
    whole = model(x, t, words(), positions=positions, shots=shots, shot_context=shot_words)
    shots = [shots[i] for i in order]
    moved = model(x[:, :, order], t[:, order], words(), positions=positions[order], shots=shots, shot_context=shot_words)
    close(moved, whole[:, :, order], 1e-4)


def test_every_video_of_a_batch_may_have_its_own_positions(model, x):
    t, positions = torch.rand(B, F) * 1000, torch.tensor([[0.0, 1, 2, 3], [0, 4, 8, 12]])
    both = model(x, t, words(), positions=positions)
    for i in range(B):
        close(both[i : i + 1], model(x[i : i + 1], t[i : i + 1], words()[i : i + 1], positions=positions[i]))


def test_a_wrong_number_of_positions_is_named(model, x):
    with pytest.raises(ValueError, match="3 positions for 4 cells"):
        model(x, torch.zeros(B), words(), positions=torch.arange(3.0))


# -- words and shots ---------------------------------------------------------------------------------------------------------------


def test_prepared_text_is_the_same(model, x):
    t, shots, shot_words = torch.rand(B) * 1000, [0, 1, 1, 0], [words(3, 4), words(6, 5)]
    text = model.prepare_text(words(), shot_words)
    assert torch.equal(model(x, t, text=text, shots=shots), model(x, t, words(), shots=shots, shot_context=shot_words))
    assert torch.equal(model(x, t, text=model.prepare_text(words())), model(x, t, words()))


def test_one_text_serves_a_batch(model, x):
    t, one = torch.rand(B) * 1000, words()[:1]
    close(model(x, t, text=model.prepare_text(one)), model(x, t, one.expand(B, -1, -1)))


def test_each_text_serves_the_videos_in_its_row(model, x):
    twice, t, shots, shot_words = x.repeat_interleave(2, 0), torch.rand(2 * B) * 1000, [0, 1, 1, 0], [words(3, 4), words(6, 5)]
    repeated = [w.repeat_interleave(2, 0) for w in (words(), *shot_words)]
    close(model(twice, t, text=model.prepare_text(words())), model(twice, t, repeated[0]))
    shared = model(twice, t, text=model.prepare_text(words(), shot_words), shots=shots)
    close(shared, model(twice, t, repeated[0], shots=shots, shot_context=repeated[1:]))


def test_a_cell_hears_its_own_shot_and_the_global_words():
    """With the self-attention silenced cells cannot tell each other, so what a cell heard is what moves it."""
    model = randomised()
    for block in model.blocks:
        block.self_attn.o.weight.zero_()
    x, t, shots = torch.randn(B, 4, F, H, W), torch.rand(B) * 1000, torch.tensor([0, 1, 1, 0])
    first, second = words(3, 4), words(6, 5)
    plain = model(x, t, words(), shots=shots, shot_context=[first, second])

    def moved(**change):
        arguments = {"context": words(), "shot_context": [first, second], **change}
        out = model(x, t, arguments["context"], shots=shots, shot_context=arguments["shot_context"])
        return [not torch.equal(out[:, :, f], plain[:, :, f]) for f in range(F)]

    assert moved(shot_context=[first, words(6, 6)]) == [False, True, True, False]
    assert moved(shot_context=[words(3, 6), second]) == [True, False, False, True]
    assert moved(context=words(5, 6)) == [True] * 4


def test_one_shot_is_its_words_after_the_global_ones(model, x):
    t = torch.rand(B) * 1000
    close(model(x, t, words(), shots=[0] * F, shot_context=[words(3, 4)]), model(x, t, torch.cat([words(), words(3, 4)], 1)))


@pytest.mark.parametrize("shots", [[0, 0, 2, 0], [0, 0, 1], [0, -1, 0, 0]])
def test_wrong_shots_are_named(model, x, shots):
    with pytest.raises(ValueError, match="give 4 numbers, one for every cell, from 0 to 1"):
        model(x, torch.zeros(B), words(), shots=shots, shot_context=[words(), words()])


# -- grids -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(1, 1), (3, 4), (5, 7)])
def test_odd_grids_are_padded_and_cropped(model, height, width):
    x = torch.randn(B, 4, F, height, width)
    out = model(x, torch.zeros(B), words())
    assert out.shape == x.shape and out.isfinite().all()


def test_patches_and_back():
    x = torch.arange(2 * 3 * 2 * 4 * 6.0).view(2, 3, 2, 4, 6)
    tokens = x.unflatten(3, (2, 2)).unflatten(5, (3, 2)).permute(0, 2, 3, 5, 4, 6, 1).reshape(2, 12, 12)
    assert torch.equal(unpatchify(tokens, (2, 2, 3), (1, 2, 2)), x)
    assert pad_to_patch(x, (1, 2, 2)) is x
    padded = pad_to_patch(x[..., :3, :5], (1, 2, 2))
    assert padded.shape == x.shape and torch.equal(padded[..., 3, :5], x[..., 0, :5])


def test_a_still_is_a_video_of_one_cell(model):
    out = model(torch.randn(1, 4, 1, H, W), torch.tensor([500.0]), words()[:1])
    assert out.shape == (1, 4, 1, H, W)


# -- parts -------------------------------------------------------------------------------------------------------------------------


def test_rotary_real_and_complex_arithmetic_agree():
    table = attention.rotary_table(torch.tensor([0.0, 2.5]), torch.arange(3.0), torch.arange(2.0), 128)
    x = torch.randn(2, 12, 2, 128)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    real = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    close(attention.rotate(x, table), real, 1e-6)
    assert torch.allclose(attention.rotate(x, table).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert attention.rotary_axes(128) == (44, 42, 42)


def test_rotary_angles_are_exact_a_minute_in():
    table = attention.turns(torch.tensor([479.75]), 44)
    angle = 479.75 * 10000.0 ** (-torch.arange(0, 44, 2, dtype=torch.float64) / 44)
    assert (table[0, :, 0].double() - angle.cos()).abs().max() < 1e-7


def test_rotary_needs_no_float64(monkeypatch):
    monkeypatch.setattr(attention, "HAVE_FLOAT64", ())
    positions = torch.tensor([0.0, 479.75])
    monkeypatch.setattr(torch, "float64", None)  # a device without it
    assert attention.turns(positions, 44).dtype == torch.float32


@pytest.mark.parametrize("tokens, rows", [(7, 5), (64, 1), (300, 40)])
def test_attention_by_products_is_attention(monkeypatch, tokens, rows):
    monkeypatch.setattr(attention, "PIECE", 4096)  # so that heads and queries are both cut
    q, k, v = (torch.randn(2, 3, n, 16, requires_grad=True) for n in (tokens, rows, rows))
    grad = torch.randn(2, 3, tokens, 16)
    results = []
    for function in (attention.by_products, torch.nn.functional.scaled_dot_product_attention):
        out = function(q, k, v)
        results.append((out, *torch.autograd.grad(out, (q, k, v), grad)))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_rms_norm_is_torchs(dtype, tolerance):
    norm, reference = RMSNorm(64, eps=1e-6), torch.nn.RMSNorm(64, eps=1e-6)
    for module in (norm, reference):
        module.weight.data = torch.linspace(-1, 2, 64)
    x = torch.randn(3, 5, 64, dtype=dtype, requires_grad=True)
    exact, before = x.detach().float().requires_grad_(), x.detach().clone()
    out, expected = norm(x), reference(exact)
    assert out.dtype == dtype
    close(out.float(), expected, tolerance)
    grad = torch.randn(3, 5, 64)
    ours = torch.autograd.grad(out, (x, norm.weight), grad.to(dtype))
    for a, b in zip(ours, torch.autograd.grad(expected, (exact, reference.weight), grad)):
        close(a.float(), b, tolerance)
    with torch.no_grad():
        assert torch.equal(norm(x), out) and torch.equal(x, before), "what it is given was changed"


def test_gelu_is_the_tanh_form_but_for_rounding():
    x = torch.linspace(-6, 6, 2001)
    exact = torch.nn.functional.gelu(x, approximate="tanh")
    assert torch.equal(GELU()(x), exact)
    half = GELU()(x.bfloat16()).float() - torch.nn.functional.gelu(x.bfloat16().float(), approximate="tanh")
    assert half.abs().max() < 0.02 and (half.abs() <= 6e-4 + exact.abs() * 2**-8).all()


def test_modulation_groups():
    """[B], [B, F] and [B, N] levels give each token the modulation of its group."""
    x, y = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    for groups in (1, 3, 12):
        shift, scale = torch.randn(2, groups, 1, 8), torch.randn(2, groups, 1, 8)
        a, b = (m.squeeze(2).repeat_interleave(12 // groups, 1) for m in (shift, scale))
        assert torch.allclose(modulate(x, shift, scale), x * (1 + b) + a, atol=1e-6)
        assert torch.allclose(gated(x, y, scale), x + y * b, atol=1e-6)


def test_levels_in_the_hosts_layout_and_back():
    levels = Levels(torch.randn(5, 6, 8), torch.tensor([[0, 4, 4], [1, 0, 2]]))
    host = levels.host_layout()
    assert host.shape == (2, 3, 6, 8) and torch.equal(host[0, 1], levels.table[4])
    for a, b in zip(Levels.from_host_layout(host).parts(torch.zeros(1, 6, 8)), levels.parts(torch.zeros(1, 6, 8))):
        assert torch.equal(a, b)
