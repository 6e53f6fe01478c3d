"""Pictures as uint8, and many of them on one sheet for people to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import atomic_path


def to_uint8(chunk: Tensor | np.ndarray) -> np.ndarray:
    """Pictures [n, H, W, 3] as uint8, rounded to the nearest value."""
    x = torch.as_tensor(chunk)
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"frames of shape {tuple(x.shape)} cannot be written: must be [n, height, width, 3]")
    if x.is_floating_point():
        x = x.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    elif x.dtype != torch.uint8:
        raise ValueError(f"frames of type {x.dtype} cannot be written: must be uint8, or float in 0..1")
    return x.detach().cpu().numpy()


def evenly(frames: int, count: int) -> list[int]:
    """`count` numbers of so many frames: the first, the last and evenly between."""
    return [round(k * (frames - 1) / max(1, count - 1)) for k in range(count)]


def contact_sheet(
    frames: Sequence, path: str | Path, *, columns: int | None = None, labels: Sequence[str] | None = None, gap: int = 4
) -> None:
    """Saves pictures side by side as a PNG, row by row.

    Args:
        frames: pictures [H, W, 3] (uint8 or float in 0..1), of any sizes.
        columns: pictures in a row; all in one row by default.
        labels: words under each picture, or under each row if there are as many as rows.
        gap: pixels between pictures.

    Raises:
        ValueError: no pictures, or labels that fit neither pictures nor rows.
    """
    from PIL import Image, ImageDraw

    pictures = [Image.fromarray(to_uint8(torch.as_tensor(frame)[None])[0]) for frame in frames]
    if not pictures:
        raise ValueError("there is nothing to show: the contact sheet has no pictures")
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    if labels is not None and len(labels) not in (len(pictures), rows):
        raise ValueError(f"{len(labels)} labels fit neither {len(pictures)} pictures nor {rows} rows")
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    across = columns if labels is not None and len(labels) == rows < len(pictures) else 1  # pictures above one label
    texts = [_wrap(label, across * (width + gap) - gap) for label in labels or ()]
    line = _font("").size + 3
    below = line * max((len(text) for text in texts), default=0) + (gap if texts else 0)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + below + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + below + gap)
        sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    for i, text in enumerate(texts):
        x, y = gap + i * across % columns * (width + gap), gap + i * across // columns * (height + below + gap) + height + gap // 2
        for k, words in enumerate(text):
            draw.text((x, y + k * line), words, fill="black", font=_font(words))
    with atomic_path(Path(path)) as part:
        sheet.save(part, "PNG")


def _font(text: str):
    """Pillow's own font; for Chinese one of the system's, if it has any."""
    from PIL import ImageFont

    if any(ord(c) >= 0x2E80 for c in text):
        for name in ("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "msyh.ttc"):
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, 12)
    return ImageFont.load_default(12)


def _wrap(text: str, width: int) -> list[str]:
    """Cuts a text into lines of at most `width` pixels, between words where it has spaces."""
    font, lines = _font(text), [""]
    words = [word + " " for word in text.split()] if " " in text.strip() else list(text)
    for word in words:
        if lines[-1] and font.getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]
