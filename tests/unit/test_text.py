import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sora_pack.sora_core.config import MAX_PROMPT_BYTES, TextConfig
from sora_pack.sora_core.text import HASH_BASES, PAD, ByteTextEncoder, PromptError, encode_bytes, piece_hashes, unseen_words

SMALL = TextConfig(dim=64, num_layers=2, num_heads=2, pieces=512)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ByteTextEncoder(SMALL).eval().requires_grad_(False)


def test_bytes_are_utf8():
    assert encode_bytes(" A 球\n") == [65, 32, 0xE7, 0x90, 0x83]
    assert encode_bytes("   ") == []
    assert encode_bytes("\ud800") == [ord("?")]  # half of a surrogate pair is no text


def test_a_prompt_that_is_too_long_is_refused_with_its_numbers():
    assert len(encode_bytes("x" * MAX_PROMPT_BYTES)) == MAX_PROMPT_BYTES
    with pytest.raises(PromptError, match=r"100,000 bytes .* at most 1,024 bytes, shorten it by 98,976"):
        encode_bytes("x" * 100_000)
    with pytest.raises(PromptError, match=r"1,026 bytes \(342 characters\)"):
        encode_bytes("球" * 342)
    assert issubclass(PromptError, ValueError)


def test_shapes_and_zero_padding(encoder):
    prompts = ["a red ball", "一个红色的球从左边滑到右边", "", "long " * 60]
    states = encoder.encode(prompts)
    assert states.shape == (4, 128, 4096)
    for row, prompt in zip(states, prompts):
        own = -(-len(encode_bytes(prompt)) // 4)
        assert (row[:own, : SMALL.dim].abs().amax(-1) > 0).all()
        assert not row[own:].any() and not row[:, SMALL.dim :].any()


def test_the_empty_prompt_is_64_zero_rows(encoder):
    for prompts in ([""], ["", " "]):
        states = encoder.encode(prompts)
        assert states.shape == (len(prompts), 64, 4096) and not states.any()


@pytest.mark.parametrize("length", [1, 3, 4, 5, 63, 255, 256, 257, 1024])
def test_rows_are_one_for_four_bytes_in_multiples_of_64(encoder, length):
    states = encoder.encode(["x" * length])
    assert states.shape[1] == max(64, -(-length // 256) * 64)
    assert int((states.abs().amax(-1) > 0).sum()) == -(-length // 4)


def test_company_in_a_batch_changes_nothing(encoder):
    prompts = ["a red ball", "", "两个蓝色的立方体", "a very long caption, " * 20, "x"]
    together = encoder.encode(prompts)
    for i, prompt in enumerate(prompts):
        alone = encoder.encode([prompt])
        difference = (together[i, : alone.shape[1]] - alone[0]).abs().max().item()
        assert difference < 2e-5, (prompt, difference)


def test_a_row_has_the_scale_of_one(encoder):
    rows = encoder.encode(["a red ball bounces on the beach"])[0, :7, : SMALL.dim]
    assert torch.allclose(rows.square().mean(-1), torch.ones(7), atol=0.01)


def test_both_directions_are_seen(encoder):
    one, other = encoder.encode(["a red ball near a cube", "a red ball near a cone"])
    assert not torch.allclose(one[0], other[0], atol=1e-4)
    one, other = encoder.encode(["red ball", "blue ball"])
    assert not torch.allclose(one[1], other[1], atol=1e-4)


def test_order_of_words_is_seen(encoder):
    one, other = encoder.encode(["red ball blue cube", "blue ball red cube"])
    assert not torch.allclose(one.sum(0), other.sum(0), atol=1e-3)


def pieces_by_hand(data: bytes) -> list[bytes]:
    """The piece of every byte up to this byte, in lower case."""
    found, piece = [], b""
    for i, byte in enumerate(data):
        letter = chr(byte).isalpha() and byte < 128
        before = i > 0 and chr(data[i - 1]).isalpha() and data[i - 1] < 128
        piece = piece + data[i : i + 1] if letter and before or 0x80 <= byte < 0xC0 else data[i : i + 1]
        found.append(piece.lower())
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_hashes_are_equal_exactly_where_pieces_are(prompts):
    data = [p.encode("utf-8", "replace") or b"." for p in prompts]
    longest = max(map(len, data))
    tokens = torch.tensor([[*d, *[PAD] * (longest - len(d))] for d in data])
    for base in HASH_BASES:
        hashes = piece_hashes(tokens, base, 2**20)
        assert hashes.min() >= 0 and hashes.max() < 2**20
        by_piece, pieces = {}, set()
        for row, d in zip(hashes.tolist(), data):
            for h, piece in zip(row, pieces_by_hand(d)):
                assert by_piece.setdefault(piece, h) == h
                pieces.add(piece)
        assert len(set(by_piece.values())) >= len(pieces) - 1  # at this table size chance makes one equal pair at most


def test_a_word_has_one_entry_wherever_it_stands_in_either_case():
    tokens = torch.tensor([encode_bytes("red ball, RED, (Red)")])
    hashes = piece_hashes(tokens, HASH_BASES[0], 4096)[0].tolist()
    assert hashes[0:3] == hashes[10:13] == hashes[16:19]


def test_learns_in_bfloat16_under_autocast():
    torch.manual_seed(0)
    encoder = ByteTextEncoder(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        encoder.encode(["a red ball", "球"]).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_bfloat16_weights(encoder):
    half = ByteTextEncoder(SMALL, dtype=torch.bfloat16)
    half.load_state_dict(encoder.state_dict())
    states = half.encode(["a red ball on the beach"])
    assert states.dtype == torch.bfloat16
    assert torch.allclose(states.float(), encoder.encode(["a red ball on the beach"]), atol=0.1)


def test_words_that_no_caption_had():
    words = ("red", "ball", "box", "puppy", "a", "and", "红色", "的", "球")
    assert unseen_words("A dragon, and red Balls; boxes & 3 puppies! Dragon's", words) == ["dragon"]
    assert unseen_words("红色的龙和球", words) == ["龙", "和"]
    assert unseen_words("A RED BALL", words) == []
    assert unseen_words("anything", ()) == []
    assert unseen_words("", words) == []
