"""A folder of videos with captions, made into a latent bank: `name.mp4` beside `name.txt`, or JSON Lines that name both.

Each file is cut into shots where the picture changes (PySceneDetect), each shot is read at the model's frame rate, brought to the size
that is nearest to its own shape, and cut into clips that fill their latent cells. Clips of one size and length make one bucket: a batch
is of one bucket, so nothing is ever padded; what the cutting costs is counted and printed. Files that cannot be read are passed over
and listed at the end.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder import VideoVAE
from ..config import UserError
from ..shapes import Strides
from ..text import PromptError, encode_bytes
from ..video_file import frame_times, read_frames, video_facts
from .bank import SHARD, Shape, Shard, encode, write_shard
from .objective import REPEATS_CLIP, REPEATS_STILL, fill

VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
CELLS = (11, 5, 3, 2, 1)  # of a clip, the longest that fits first: 5 s, 2 s, 1 s, half a second, a still, at 8 frames a second
SHORTEST_SHOT = 0.4  # seconds; flashes are no shots
GUIDES = 2  # frames of every clip that are also kept as stills


@dataclass
class Source:
    """A video and its captions, of which one is drawn each time."""

    path: Path
    captions: tuple[str, ...]


@dataclass
class Report:
    """What became of a folder."""

    clips: int = 0
    kept: float = 0.0  # pixels of all frames, after and before cutting
    read: float = 0.0
    broken: list[str] = field(default_factory=list)
    buckets: dict[tuple[int, int, int], int] = field(default_factory=lambda: defaultdict(int))

    def text(self, tokens: int) -> str:
        """For people: buckets, what was cut away, how full a step of so many tokens is, what could not be used."""
        lines = [f"{width}x{height}, {cells} cells: {count} clips" for (width, height, cells), count in sorted(self.buckets.items())]
        lines.append(f"{self.clips} clips; {100 * (1 - self.kept / max(self.read, 1)):.1f} % of the pixels cut away, padding 0 %")
        lines.append(f"a step of {tokens} tokens is {100 * self.filled(tokens):.1f} % full")
        for width, height, cells in self.buckets:
            if (needed := cells * tokens_of(width, height)) > tokens:
                seen = f"{max(1, tokens // tokens_of(width, height))} of {cells} cells of a clip of {width}x{height}"
                lines.append(f"a step of {tokens} tokens sees {seen}: for whole clips use --tokens {needed} or more, or a smaller --area")
        return "\n".join(lines + [f"passed over: {reason}" for reason in self.broken])

    def filled(self, tokens: int) -> float:
        """Mean share of a step's budget that whole clips of one bucket fill."""
        shares = []
        for (width, height, cells), count in self.buckets.items():
            one = cells * tokens_of(width, height)
            videos = math.prod(fill(tokens // one, min(count, SHARD), REPEATS_STILL if cells == 1 else REPEATS_CLIP))
            shares += [min(1.0, videos * one / tokens)] * count
        return sum(shares) / max(1, len(shares))


def tokens_of(width: int, height: int) -> int:
    """Tokens of one latent cell of this many pixels."""
    return width * height // Strides().size_multiple ** 2


def find_sources(folder: str | Path) -> tuple[list[Source], list[str]]:
    """The videos of a folder with their captions, and a sentence for each that has none.

    A file *.jsonl has lines {"file": name, "caption": words or "captions": [words, ...]}. Without one, every video has a text file of
    its own name; each line of it is a caption.

    Raises:
        FileNotFoundError: no such folder, or no video with a caption in it.
    """
    folder, sources, broken = Path(folder), [], []
    if not folder.is_dir():
        raise FileNotFoundError(f"videos: there is no folder {folder}")
    for path, captions in _listed(folder, broken):
        captions = tuple(filter(None, (c.strip() for c in captions)))
        if not path.is_file():
            broken.append(f"{path.name}: there is no such file")
        elif not captions:
            broken.append(f"{path.name}: it has no caption; write one into {path.with_suffix('.txt').name}")
        elif reason := next(filter(None, map(_too_long, captions)), None):
            broken.append(f"{path.name}: {reason}")
        else:
            sources.append(Source(path, captions))
    if not sources:
        reasons = "".join(f"\n  {reason}" for reason in broken)
        raise FileNotFoundError(f"videos: no video with a caption in {folder}: put name.txt beside name.mp4, or one file *.jsonl{reasons}")
    return sources, broken


def _too_long(caption: str) -> str | None:
    try:
        encode_bytes(caption)
    except PromptError as error:
        return str(error)
    return None


def _listed(folder: Path, broken: list[str]) -> Iterator[tuple[Path, list[str]]]:
    lists = sorted(folder.glob("*.jsonl"))
    for file in lists:
        for number, line in enumerate(_lines(file, broken), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                captions = entry["captions"] if "captions" in entry else [entry.get("caption", "")]
                if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
                    raise TypeError
                yield folder / entry["file"], captions
            except (ValueError, KeyError, TypeError, AttributeError):
                broken.append(
                    f'{file.name}, line {number}: must be {{"file": "name.mp4", "caption": "words"}}, or "captions": ["words", ...]'
                )
    for path in sorted(folder.iterdir()) if not lists else ():
        if path.suffix.lower() in VIDEOS:
            text = path.with_suffix(".txt")
            yield path, _lines(text, broken) if text.is_file() else []


def _lines(file: Path, broken: list[str]) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        broken.append(f"{file.name}: its letters are not UTF-8: save it as UTF-8")
        return []


def find_shots(path: Path) -> list[tuple[float, float]]:
    """Begin and end in seconds of the shots of a video, by PySceneDetect's adaptive detector; none where nothing is cut.

    Raises:
        ModuleNotFoundError: PySceneDetect is not installed.
        UserError: all shots are too short.
    """
    try:
        from scenedetect import AdaptiveDetector, detect
    except ImportError as error:
        wish = "pip install scenedetect[opencv-headless], or give --whole-files where every file is one shot"
        raise ModuleNotFoundError(f"cutting videos into shots needs PySceneDetect: {wish}") from error
    found = [(begin.get_seconds(), end.get_seconds()) for begin, end in detect(str(path), AdaptiveDetector())]
    shots = [(begin, end) for begin, end in found if end - begin >= SHORTEST_SHOT]
    if found and not shots:
        raise UserError(f"all of its {len(found)} shots are shorter than {SHORTEST_SHOT:g} s")
    return shots


def nearest_size(width: int, height: int, area: int) -> tuple[int, int]:
    """The legal size of about `area` pixels whose shape is nearest to width : height."""
    m = Strides().size_multiple
    sides = range(2 * m, 4 * math.isqrt(area), m)
    near = [(w, h) for w in sides for h in sides if 0.8 * area <= w * h <= 1.1 * area]
    return min(near, key=lambda size: (abs(math.log(size[0] * height / (size[1] * width))), -size[0] * size[1]))


def frames_at(path: Path, begin: float, end: float, fps: float, size: tuple[int, int]) -> tuple[Tensor, float]:
    """Frames uint8 [T, H, W, 3] of a shot at `fps`, scaled to cover `size` and cropped to it, and the share of a frame that is left."""
    facts, (times, unit) = video_facts(path), frame_times(path)
    shown = np.array([float((time - times[0]) * unit) for time in times])
    stop, shown = min(end, shown[-1] + float(1 / facts.fps)), shown[shown < end - 1e-6]  # the next frame is another shot's
    wanted = [int(np.abs(shown - begin - k / fps).argmin()) for k in range(math.ceil((stop - begin) * fps - 1e-6))]
    if not wanted:
        raise UserError(f"{path.name} has no frames between {begin:.1f} and {end:.1f} s")
    first, last = wanted[0], wanted[-1] + 1
    scale = max(size[0] / facts.width, size[1] / facts.height)
    scaled = (round(facts.height * scale), round(facts.width * scale))
    made, at = [], first
    for chunk in read_frames(path, first, last, times=times):
        here = [i - at for i in wanted if at <= i < at + len(chunk)]
        at += len(chunk)
        if here:
            x = F.interpolate(chunk[here].permute(0, 3, 1, 2).float(), scaled, mode="bilinear", antialias=True)
            made.append(x.round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    top, left = (scaled[0] - size[1]) // 2, (scaled[1] - size[0]) // 2
    frames = torch.cat(made)[:, top : top + size[1], left : left + size[0]]
    return frames, size[0] * size[1] / (scaled[0] * scaled[1])


def cut(frames: int) -> list[tuple[int, int]]:
    """First frame and cells of the clips that a shot of so many frames gives: the longest that fit, one behind the other."""
    found, at, strides = [], 0, Strides()
    while at < frames:
        cells = next(c for c in CELLS if strides.frames(c) <= frames - at)
        if cells == 1 and at:  # a last frame alone is nearly the one before
            break
        found.append((at, cells))
        at += strides.frames(cells)
    return found


@torch.inference_mode()
def make_clip_bank(videos: str | Path, folder: str | Path, vae: VideoVAE, *, fps: float, area: int, whole_files: bool = False) -> Report:
    """Encodes all videos of a folder into shards in `folder`, a bucket after the other as each fills.

    Args:
        fps: the model's native rate.
        area: pixels of a frame, about.
        whole_files: every file is one shot.

    Raises:
        FileNotFoundError: nothing to train on. ModuleNotFoundError: PySceneDetect is missing.
    """
    sources, broken = find_sources(videos)
    report, shelf = Report(broken=broken), _Shelf(Path(folder), vae, fps)
    for source in sources:
        for frames, left in _shots(source.path, fps, area, whole_files, broken):
            size = (frames.shape[2], frames.shape[1])
            report.read += frames.numel() / left
            for first, cells in cut(len(frames)):
                clip = frames[first : first + Strides().frames(cells)]
                report.kept += clip.numel()
                report.clips += 1
                report.buckets[(*size, cells)] += 1
                shelf.put((*size, cells), clip, source.captions)
    shelf.close()
    if not report.clips:
        raise FileNotFoundError("videos: none of the files could be used\n" + "\n".join(f"  {reason}" for reason in report.broken))
    return report


def _shots(path: Path, fps: float, area: int, whole_files: bool, broken: list[str]) -> Iterator[tuple[Tensor, float]]:
    """What `frames_at` gives of every shot of a video; where it cannot be read it ends, and `broken` says why."""
    try:
        facts = video_facts(path)
        whole = [(0.0, facts.frames / float(facts.fps))]
        size = nearest_size(facts.width, facts.height, area)
        for begin, end in whole if whole_files else find_shots(path) or whole:
            yield frames_at(path, begin, end, fps, size)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes its decoder raise; what becomes of the frames raises elsewhere
        broken.append(f"{path.name}: {error}")


class _Shelf:
    """Encoded clips by bucket, written as a shard when there are enough."""

    def __init__(self, folder: Path, vae: VideoVAE, fps: float):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vae, self.fps, self.written = folder, vae, fps, 0
        self.held: dict[tuple[int, int, int], list] = defaultdict(list)

    def put(self, bucket: tuple[int, int, int], clip: Tensor, captions: tuple[str, ...]) -> None:
        # The same moments in every clip of a length, as a shard wants them.
        guides_at = torch.linspace(0, len(clip) - 1, GUIDES + 2).round().long()[1:-1].tolist() if bucket[2] > 1 else []
        device = self.vae.conv2.weight.device
        record = encode(self.vae, clip.unsqueeze(0).to(device), guides_at)
        self.held[bucket].append(({name: t.cpu() for name, t in record.items()}, [captions], guides_at))
        if len(self.held[bucket]) == SHARD:
            self._write(bucket)

    def _write(self, bucket: tuple[int, int, int]) -> None:
        records, scenes, guides_at = zip(*self.held[bucket])
        width, height, cells = bucket
        shape = Shape(self.vae.strides.frames(cells), self.fps, width, height)
        write_shard(self.folder / f"{self.written:05d}.safetensors", Shard.of(list(records), shape, guides_at[0], list(scenes)))
        del self.held[bucket]
        self.written += 1

    def close(self) -> None:
        for bucket in list(self.held):
            self._write(bucket)
