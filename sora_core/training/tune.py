"""Fine-tunes a model on a user's own folder of videos: all of its weights, or a LoRA.

python -m sora_core.training tune --videos my_videos --folder runs/mine --lora 16 --steps 400
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..checkpoint import model_header, save_model
from ..config import ModelHeader
from ..files import atomic_path
from .bank import Bank
from .clips import make_clip_bank
from .group import ALONE, Group
from .lora import Adapter
from .run import check_same
from .ship import half_precision
from .transformer import Settings, Student, started_from, train_transformer

DONE = "bank.txt"  # written when the folder's bank is whole
FACTS = "bank.json"  # what the bank is of, written before


def tune(videos: str, folder: str, settings: Settings, *, area: int, whole_files: bool = False, group: Group = ALONE) -> list[Path]:
    """Makes the bank unless it is there, trains for the budget of `settings`, and writes what was learned into `folder`.

    Args:
        videos: folder of videos with captions (clips.py).
        settings: `start` is the model file to tune, with `vae` and `text` if it names none; with `lora` an adapter of that rank.
        area: pixels of a frame, about.

    Returns:
        the files written: one LoRA, or a transformer and a text encoder.

    Raises:
        FileNotFoundError: nothing to train on. UserError: what is wrong with the model file, or the folder is of other videos.
    """
    facts, bank = model_header(settings.start), Path(folder) / "bank"
    of = {"videos": str(Path(videos).resolve()), "area": area, "whole files": whole_files, "start": settings.start, "vae": settings.vae}
    of["files"] = _files(Path(videos))
    done, kept = Path(folder) / DONE, Path(folder) / FACTS
    if group.is_main and done.exists():
        check_same(folder, of, json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {})  # older banks did not say
    elif group.is_main:
        for left in bank.glob("*.safetensors"):  # of a try that was stopped, perhaps with other videos
            left.unlink()
        vae = started_from(settings, torch.bfloat16, group.device).vae
        report = make_clip_bank(videos, bank, vae, fps=facts.native_fps, area=area, whole_files=whole_files)
        text = report.text(settings.tokens)
        print(text, flush=True)
        for path, content in ((kept, json.dumps(of, ensure_ascii=False)), (done, text)):
            with atomic_path(path) as part:
                part.write_text(content, encoding="utf-8")
    group.broadcast(0.0)  # the others wait for the bank
    level = math.log(facts.shift)  # the mean of the levels at which the model is sampled
    settings = replace(settings, size="", native_fps=facts.native_fps, sigma_mean=(level, level))
    trained = train_transformer(folder, str(bank), settings, group=group)
    if isinstance(trained, Adapter):
        path = Path(folder) / "lora.safetensors"
        trained.save(path)
        return [path]
    return _write_model(trained, folder, replace(facts, vae=Path(settings.vae).name or facts.vae), bank)


def _files(videos: Path) -> str:
    """What is in a folder of videos, in words that change when it does."""
    facts = [file.stat() for file in videos.iterdir() if file.is_file()] if videos.is_dir() else []
    newest = datetime.fromtimestamp(max((fact.st_mtime for fact in facts), default=0), UTC)
    return f"{len(facts)} of {sum(fact.st_size for fact in facts)} bytes, the newest of {newest:%Y-%m-%d %H:%M:%S}"


def _write_model(student: Student, folder: str, facts: ModelHeader, bank: Path) -> list[Path]:
    """Transformer and text encoder beside each other; the VAE is that of the model it began with, named in the header, `facts`."""
    texts = [text for shard in Bank(bank).shards for shots in shard.scenes for text in shots[0]]
    words = tuple(sorted({*facts.words, *words_of(texts)}))
    name = "tuned"
    facts = replace(facts, name=name, text=f"{name}_text.safetensors", words=words)
    files = {f"{name}.safetensors": student.transformer, f"{name}_text.safetensors": student.text}
    for file, model in files.items():
        save_model(Path(folder) / file, half_precision(model.state_dict()), facts)
    return [Path(folder) / file for file in files]


def words_of(texts: list[str]) -> set[str]:
    """The words of some captions, as the header of a model lists them: English words, and characters of other scripts."""
    return {word for text in texts for word in re.findall(r"[a-z]+(?:'[a-z]+)?|[^\W\d_a-z]", text.lower())}
