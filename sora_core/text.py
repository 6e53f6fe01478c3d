"""Prompt -> UTF-8 bytes -> text states: any language, no vocabulary file.

Every byte carries two embeddings: its own, and that of the *piece* it has completed so far, found by hashing. A piece is a run of
ASCII letters in either case, or any other character. So "red" is one entry of a table wherever it stands in the text, the idea of the
byte n-gram hashes of arXiv 2412.09871, section 3.2.1. A strided convolution then makes one row of four bytes.

Legend: B prompts, T bytes, L rows, D width.
"""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import rotate, turns
from .config import TEXT_DIM, TEXT_ROW_MULTIPLE, TextConfig, UserError
from .layers import GELU

PAD = 256
"""Stands after the last byte of the shorter prompts of a batch."""

OVERLAP = 2
"""Bytes on either side of its own stride that the convolution of a row also sees, since words do not begin at multiples of 4."""

# Odd multipliers of a polynomial hash modulo 2**64, each with its inverse, so that the hash of a piece is a difference of prefix sums.
HASH_BASES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


class PromptError(UserError):
    """A prompt that cannot be encoded; the message is for the user."""


def encode_bytes(prompt: str, limit: int = TextConfig.max_bytes) -> list[int]:
    """The UTF-8 bytes of a prompt; outer white space is dropped.

    Raises:
        PromptError: more than `limit` bytes. Cutting silently would lose the end of what was asked for.
    """
    data = prompt.strip().encode("utf-8", errors="replace")
    if len(data) > limit:
        count = f"{len(data):,} bytes ({len(prompt.strip()):,} characters)"
        raise PromptError(f"the prompt has {count}: the model reads at most {limit:,} bytes, shorten it by {len(data) - limit:,}")
    return list(data)


def _signed(x: int) -> int:
    x %= 2**64
    return x - 2**64 if x >= 2**63 else x


def piece_hashes(tokens: Tensor, base: int, rows: int) -> Tensor:
    """For every byte, a hash in 0..rows - 1 of its piece from the piece's first byte to this one: [B, T] -> [B, T].

    int64 arithmetic wraps around, so the sums below are exact modulo 2**64.
    """
    lower = torch.where((tokens >= 65) & (tokens <= 90), tokens + 32, tokens)
    letter = (lower >= 97) & (lower <= 122)
    # A byte continues the piece of the one before if both are letters, or if it is a continuation byte of UTF-8 (10xxxxxx).
    follows = F.pad(letter[:, :-1], (1, 0)) & letter | (tokens >= 0x80) & (tokens < 0xC0)
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    first = torch.where(follows, 0, place).cummax(1).values  # where the piece of each byte begins
    powers = torch.full_like(tokens[:1], _signed(base)).cumprod(1)
    inverses = torch.full_like(tokens[:1], _signed(pow(base, -1, 2**64))).cumprod(1)
    sums = ((lower + 1) * powers).cumsum(1)
    before = F.pad(sums[:, :-1], (1, 0)).gather(1, first)
    hashes = (sums - before) * inverses.expand_as(sums).gather(1, first) * _signed(HASH_BASES[0])
    return (hashes >> 40).remainder(rows)  # the high bits are the well mixed ones


class TextBlock(nn.Module):
    """A pre-norm transformer block that sees both directions."""

    def __init__(self, dim: int, heads: int, operations, **factory):
        super().__init__()
        self.heads = heads
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.qkv = operations.Linear(dim, 3 * dim, **factory)
        self.out = operations.Linear(dim, dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.mlp = nn.Sequential(operations.Linear(dim, 4 * dim, **factory), GELU(), operations.Linear(4 * dim, dim, **factory))

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, L, D] -> [B, L, D]; mask [B, 1, 1, L], True for keys that may be seen."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)  # B L h d
        q, k = rotate(q, rotary), rotate(k, rotary)
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask)  # B h L d
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ByteTextEncoder(nn.Module):
    """Prompts to text states of the public format's width.

    Args:
        config: sizes.
        operations: where Linear, Conv1d, LayerNorm and Embedding come from: torch.nn or the host's.
        dtype, device: of the parameters.
    """

    def __init__(self, config: TextConfig, *, operations=nn, dtype: torch.dtype | None = None, device=None):
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device}
        inner = config.dim // 2
        self.embedding = operations.Embedding(PAD, inner, **factory)
        self.piece_embedding = operations.Embedding(config.pieces, inner, **factory)
        self.stem = operations.Conv1d(inner, config.dim, config.stride + 2 * OVERLAP, stride=config.stride, padding=OVERLAP, **factory)
        self.blocks = nn.ModuleList(TextBlock(config.dim, config.num_heads, operations, **factory) for _ in range(config.num_layers))
        self.norm = operations.LayerNorm(config.dim, **factory)
        if operations is nn and (device is None or torch.device(device).type != "meta"):
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Starting values for training: rows of about 1 after the stem, residual branches that begin small."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for table in (self.embedding, self.piece_embedding):
            nn.init.normal_(table.weight)
        for block in self.blocks:
            for layer in (block.out, block.mlp[2]):
                layer.weight *= (2 * self.config.num_layers) ** -0.5

    def tokenize(self, prompts: list[str], device=None) -> tuple[Tensor, list[int]]:
        """Bytes of the prompts, padded with PAD to the longest, a multiple of the stride: long [B, T], and the true lengths.

        Raises:
            PromptError: a prompt that is too long.
        """
        data = [encode_bytes(p, self.config.max_bytes) for p in prompts]
        longest = math.ceil(max(map(len, data), default=0) / self.config.stride) * self.config.stride
        return torch.tensor([d + [PAD] * (longest - len(d)) for d in data], dtype=torch.long, device=device), [len(d) for d in data]

    def rows(self, lengths: list[int]) -> int:
        """Rows of a batch with these lengths: the most of any prompt, rounded up to the multiple the models were trained with."""
        own = math.ceil(max(lengths, default=0) / self.config.stride)
        return max(TEXT_ROW_MULTIPLE, math.ceil(own / TEXT_ROW_MULTIPLE) * TEXT_ROW_MULTIPLE)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Text states.

        Args:
            tokens: bytes, long [B, T], PAD after the length of a prompt.
            lengths: true number of bytes of each prompt.

        Returns:
            [B, L, 4096], L a multiple of 64. Columns past the encoder's width and rows past ceil(length / 4) are exactly zero.
        """
        states = self.states(tokens, lengths)
        return F.pad(states, (0, TEXT_DIM - self.config.dim, 0, self.rows(lengths) - states.shape[1]))

    def states(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """As forward, without the padding of zeros: [B, longest, D]."""
        if not tokens.shape[1]:
            return self.embed(tokens).new_zeros(tokens.shape[0], 0, self.config.dim)
        own = torch.tensor([math.ceil(n / self.config.stride) for n in lengths])
        x = self.stem(self.embed(tokens).transpose(1, 2)).transpose(1, 2)  # B L D
        there = torch.arange(x.shape[1]) < own[:, None]  # B L
        # No mask where it would hide nothing; a prompt without a byte sees its padding, as attention over nothing is not a number.
        mask = None if there.all() else (there | (own == 0)[:, None])[:, None, None].to(x.device)
        rotary = turns(torch.arange(x.shape[1], device=x.device), self.config.dim // self.config.num_heads)[None, :, None]
        for block in self.blocks:
            x = block(x, rotary, mask)
        return self.norm(x) * there[..., None].to(x)

    def embed(self, tokens: Tensor) -> Tensor:
        """Sum of byte and piece embeddings, zero for PAD: [B, T] -> [B, T, D / 2]. Two hashes, so that two pieces hardly share both."""
        x = self.embedding(tokens.clamp(max=PAD - 1))
        for base in HASH_BASES:
            x = x + self.piece_embedding(piece_hashes(tokens, base, self.config.pieces))
        return x * (tokens != PAD).unsqueeze(-1).to(x)

    def encode(self, prompts: list[str]) -> Tensor:
        """[B, L, 4096] of some prompts; an empty prompt is 64 zero rows.

        Raises:
            PromptError: a prompt of more than `config.max_bytes` bytes.
        """
        tokens, lengths = self.tokenize(prompts)
        return self(tokens.to(self.device), lengths)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def unseen_words(prompt: str, words: tuple[str, ...]) -> list[str]:
    """Words of the prompt that no training caption had, in order, each once.

    English words count in any case, in singular or plural; of other scripts every character counts for itself. Digits never count.
    With no `words` to compare with the answer is empty.
    """
    if not words:
        return []
    known = {word.lower() for word in words}
    characters = {c for word in known for c in word if not c.isascii()}
    unseen = []
    for found in re.findall(r"[a-z]+(?:'[a-z]+)?|[^\W\d_a-z]", prompt.lower()):
        found = found.removesuffix("'s")
        seen = not known.isdisjoint(_forms(found)) if found.isascii() else found in characters
        if not seen and found not in unseen:
            unseen.append(found)
    return unseen


def _forms(word: str) -> set[str]:
    """The word and its likely singular or plural."""
    forms = {word, word + "s", word + "es"}
    for ending, instead in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending):
            forms.add(word.removesuffix(ending) + instead)
    return forms
