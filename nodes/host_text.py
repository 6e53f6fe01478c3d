"""The host's CLIP around our byte encoder."""

from __future__ import annotations

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from torch import Tensor

from ..sora_core.checkpoint import read_text
from ..sora_core.config import ModelHeader, TextConfig
from ..sora_core.text import PAD, ByteTextEncoder, encode_bytes

NAME = "sora"


class ByteTokenizer:
    """Prompts as bytes with a weight each: "(red:1.3) ball" gives the bytes of "red ball", the first three with weight 1.3."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids=False, **kwargs) -> dict:
        pieces = [(unescape_important(piece), weight) for piece, weight in token_weights(escape_important(text), 1.0)]
        plain = "".join(piece for piece, _ in pieces)
        weights = [weight for piece, weight in pieces for _ in piece.encode("utf-8", "replace")]
        outer_space = plain[: len(plain) - len(plain.lstrip())].encode("utf-8", "replace")  # which encode_bytes drops
        return {NAME: [list(zip(encode_bytes(plain), weights[len(outer_space) :]))]}

    def untokenize(self, pairs):
        return [(pair, chr(pair[0])) for pair in pairs]

    def decode(self, token_ids, skip_special_tokens=True) -> str:
        return bytes(token_ids).decode("utf-8", "replace")

    def state_dict(self) -> dict:
        return {}


class _Encoder(torch.nn.Module):
    """Exists for the name of its parameters: LoRA files for text encoders speak of `NAME.transformer.*`."""

    def __init__(self, config: TextConfig, dtype, device):
        super().__init__()
        self.transformer = ByteTextEncoder(config, operations=comfy.ops.manual_cast, dtype=dtype, device=device)


class TextModel(torch.nn.Module):
    """What comfy.sd.CLIP drives."""

    def __init__(self, config: TextConfig, device="cpu", dtype=None, model_options=None):
        super().__init__()
        self.sora = _Encoder(config, dtype, device)
        self.dtypes = {dtype}
        self.device = None

    def set_clip_options(self, options: dict) -> None:
        self.device = options.get("execution_device", self.device)

    def reset_clip_options(self) -> None:
        self.device = None

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, None]:
        """[1, L, 4096] and no pooled output. Each prompt (the host may give several, one after the other) is encoded by itself."""
        encoder = self.sora.transformer
        device = self.device or next(encoder.parameters()).device
        rows = [self._rows(encoder, pairs, device) for pairs in tokens[NAME]]
        return torch.cat(rows, dim=1).float().to(comfy.model_management.intermediate_device()), None

    def _rows(self, encoder: ByteTextEncoder, pairs: list, device) -> Tensor:
        stride, length = encoder.config.stride, len(pairs)
        tokens = torch.tensor([token for token, *_ in pairs], dtype=torch.long, device=device)
        weights = torch.tensor([weight for _, weight, *_ in pairs], device=device)
        states = encoder(F.pad(tokens, (0, -length % stride), value=PAD)[None], [length])
        if (weights == 1).all():
            return states
        # A row speaks of `stride` bytes; the empty prompt's rows are zero, so a weight scales the distance from it.
        scale = F.pad(weights, (0, -length % stride), value=1.0).view(-1, stride).mean(1)
        return states * F.pad(scale, (0, states.shape[1] - len(scale)), value=1.0)[None, :, None]

    def load_sd(self, tensors: dict) -> tuple[list, list]:
        return self.sora.transformer.load_state_dict(tensors, strict=False, assign=getattr(self, "can_assign_sd", False))


class SoraCLIP(comfy.sd.CLIP):
    """The host's CLIP, which also knows the words of the captions (`header.words`), so that unknown ones can be named."""

    header = ModelHeader()

    def clone(self, disable_dynamic=False):
        copy = super().clone(disable_dynamic=disable_dynamic)
        copy.__class__, copy.header = SoraCLIP, self.header
        return copy


def load_clip(path: str, model_options: dict | None = None, disable_dynamic: bool = False) -> SoraCLIP:
    """A text encoder file as the host's CLIP, in float32: it is small, and runs once. Raises CheckpointError."""
    tensors, config, header = read_text(path)
    options = {"dtype": torch.float32, **(model_options or {})}
    target = comfy.supported_models_base.ClipTarget(ByteTokenizer, TextModel)
    target.params = {"config": config}
    tensors = {name: t.float() for name, t in tensors.items()}
    count = sum(t.numel() for t in tensors.values())
    clip = SoraCLIP(target, parameters=count, state_dict=[tensors], model_options=options, disable_dynamic=disable_dynamic)
    clip.header = header
    clip.patcher.cached_patcher_init = (load_clip_patcher, (path, options))
    return clip


def load_clip_patcher(path: str, model_options: dict | None = None, disable_dynamic: bool = False):
    return load_clip(path, model_options, disable_dynamic).patcher
