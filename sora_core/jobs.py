"""Jobs: what a pass made is kept, so that a crash, a kill or a change costs only what it touches.

    folder/<job>.json                     what the job is and which passes it has, for people
    folder/passes/<key>.safetensors       what a pass made
    folder/passes/<key>.half.safetensors  how far a pass came
    folder/passes/<key>.lock              somebody is at it

A key is the hash of all that determines a pass, so a file is either what is needed or not looked at. Every file is written under
another name, flushed and renamed; a torn or foreign one is made anew. No whole pass is deleted but by `delete`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .checkpoint import CheckpointError, read_layout
from .files import atomic_path, try_lock
from .plan import Plan, picture, spans, summary

FORMAT = 3
"""Part of every key: raised when the same settings no longer make the same latents."""

SAVE_SECONDS = float(os.environ.get("SORA_SAVE_SECONDS", 30))
"""Between two saves inside a pass: so much work, and a step, is lost at most. scripts/kill_trials.py makes it shorter."""

POLL_SECONDS = 0.2

PASS = re.compile(r"\.?([0-9a-f]{32}).*\.(?:safetensors|part|lock)")
"""Names of the files of a pass; the key is in brackets."""


# -- keys ----------------------------------------------------------------------------------------------------------------------------


def content_hash(value) -> str:
    """32 hex digits of any nest of dicts, lists, tuples, strings, numbers and tensors; equal content, equal hash."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value) -> None:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        digest.update(f"t{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digest.update(f"d{len(value)}".encode())
        for key in sorted(value, key=str):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"l{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif value is None or isinstance(value, str | int | float):
        text = repr(value).encode()
        digest.update(f"{type(value).__name__}{len(text)}:".encode() + text)
    else:
        raise TypeError(f"{type(value).__name__} has no content to hash")


# -- files ---------------------------------------------------------------------------------------------------------------------------


def write_kept(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Tensors under their key and the hash of themselves. Raises OSError; of a full disk in a sentence."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(tensors, {"key": key, "content": content_hash(tensors)})
    with atomic_path(path) as part:
        part.write_bytes(data)


def read_kept(path: Path, key: str) -> dict[str, Tensor] | None:
    """What `write_kept` wrote; None unless it is all there and of this key."""
    try:
        header, _ = read_layout(path)
        tensors = safetensors.torch.load(path.read_bytes())
    except (CheckpointError, OSError, safetensors.SafetensorError):
        return None
    return tensors if header.get("key") == key and header.get("content") == content_hash(tensors) else None


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock that every process on the folder honours. The system opens it when its holder ends, in whatever way.

    Args:
        waiting: called while another holds it; what it raises ends the waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b")
        try:
            while not try_lock(file):
                waiting()
                time.sleep(POLL_SECONDS)
            if _is_there(file, path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # the holder before removed it
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
        file.close()


def _is_there(file, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# -- one job -------------------------------------------------------------------------------------------------------------------------


class Progress:
    """How far a pass came: tensors that are saved now and then, and given back after a restart."""

    def __init__(self, path: Path, key: str, every: float, on_save: Callable[[], None]):
        self.path, self.key, self.every, self.on_save, self._saved = path, key, every, on_save, time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        return read_kept(self.path, self.key)

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Does nothing when the last save was a moment ago. Raises OSError."""
        if time.monotonic() - self._saved >= self.every:
            write_kept(self.path, self.key, tensors)
            self.on_save()
            self._saved = time.monotonic()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


class Job:
    """One run of a plan whose passes are kept.

    Args:
        folder: of all jobs.
        facts: what determines all passes alike, a nest for `content_hash`.
        each: for each pass, what determines it beside that and the latents of its cells.
        start: the latents that the run begins with.
        about: what it is, for people.
        every: seconds between two saves inside a pass.
        least: passes that took fewer seconds are not kept.

    Raises:
        TypeError: a fact that has no content to hash.
    """

    def __init__(
        self, folder: Path, plan: Plan, facts, each: list, start: Tensor, about: str, *, every: float = SAVE_SECONDS, least: float = 0.0
    ):
        self.folder, self.plan, self.about, self.every, self.least = Path(folder), plan, about, every, least
        common = content_hash([FORMAT, facts])
        self.facts = [content_hash([common, p.make, p.see, p.seed, own]) for p, own in zip(plan.passes, each, strict=True)]
        self.name = content_hash([self.facts, start])[:12]
        self.keys: dict[int, str] = {}
        self.reused = 0

    def results(
        self, numbers: list[int], cells: list[Tensor], make: Callable[[Progress], list[Tensor]], waiting: Callable[[], None] = lambda: None
    ) -> list[Tensor]:
        """What the passes `numbers` made, a group of a plan: read if it is kept, else made and kept.

        A group is made whole though one of it may be missing: a device rounds otherwise in a batch of another size, and what is made
        should not depend on where a run was killed.

        Args:
            cells: the latents of the cells of each as it finds them.
            make: gets the Progress of the group.
            waiting: called while another process makes the same.
        """
        keys = [content_hash([self.facts[number], found]) for number, found in zip(numbers, cells, strict=True)]
        self.keys |= zip(numbers, keys)
        kept = self._kept(keys)
        with contextlib.ExitStack() as locks:
            missing = sorted(set(keys) - kept.keys())  # in one order for all processes, or two could wait for each other
            for key in missing:
                locks.enter_context(locked(self._path(key).with_suffix(".lock"), waiting))
            kept |= self._kept(missing)  # whoever had the lock may have made it
            self.reused += len(kept)
            if len(kept) < len(keys):
                kept = self._make(keys, kept, make)
            else:
                self._write_manifest()
        return [kept[key] for key in keys]

    def _make(self, keys: list[str], kept: dict[str, Tensor], make: Callable[[Progress], list[Tensor]]) -> dict[str, Tensor]:
        """All of a group by their keys, made but for those that are kept; the others are then kept too."""
        own = keys[0] if len(keys) == 1 else content_hash(keys)
        progress = Progress(self._path(keys[0]).with_suffix(".half.safetensors"), own, self.every, self._write_manifest)
        resumed, start = progress.path.exists(), time.monotonic()
        made = dict(zip(keys, make(progress), strict=True)) | kept
        if resumed or time.monotonic() - start >= self.least:
            for key in keys:
                if key not in kept:
                    write_kept(self._path(key), key, {"latents": made[key]})
            self._write_manifest()
        progress.forget()
        return made

    def _path(self, key: str) -> Path:
        return self.folder / "passes" / f"{key}.safetensors"

    def _kept(self, keys: list[str]) -> dict[str, Tensor]:
        """Those of the keys that are there."""
        found = {key: read_kept(self._path(key), key) for key in keys}
        return {key: tensors["latents"] for key, tensors in found.items() if tensors is not None}

    @property
    def note(self) -> str:
        """For the node."""
        return f"reused {self.reused} of {len(self.plan.passes)} passes" if self.reused else ""

    def _write_manifest(self) -> None:
        path = self.folder / f"{self.name}.json"
        with locked(path.with_suffix(".lock")):  # another process at the same job writes what it knows
            old = _manifest(path)
            keys = {**{p["number"]: p["key"] for p in old.get("passes", ())}, **self.keys}
            passes = [
                {"number": number, "name": p.name, "makes": spans(p.make), "sees": spans(p.see), "seed": p.seed, "key": keys.get(number)}
                for number, p in enumerate(self.plan.passes)
            ]
            manifest = {
                "job": self.name,
                "about": self.about,
                "started": old.get("started") or datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "plan": summary(self.plan),
                "picture": picture(self.plan, len(passes)).splitlines(),
                "passes": passes,
            }
            with contextlib.suppress(PermissionError), atomic_path(path) as part:  # for people: nothing to stop a run for
                part.write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")


def _manifest(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ours = isinstance(found, dict) and found.get("job") == path.stem and {"about", "passes", "started"} <= found.keys()
        return found if ours else {}
    except (OSError, ValueError):
        return {}


# -- all jobs ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A job as its files say: how many of its passes are there, their bytes, and seconds since the last one.

    `name` is that of one life of the job: after a deletion the same run is the same job again, and has another.
    """

    name: str
    about: str
    done: int
    passes: int
    bytes: int
    age: float


def kept_jobs(folder: Path) -> list[Kept]:
    """The jobs of a folder, the newest first."""
    found, listed = [], _listed(folder)
    for path in Path(folder).glob("*.json"):
        if manifest := _manifest(path):
            files = _files(listed, manifest)
            stats = _stats([path, *files])
            age = time.time() - max((s.st_mtime for s in stats), default=time.time())
            whole = {file.stem for file in files if file.suffix == ".safetensors"}
            done = sum(p["key"] in whole for p in manifest["passes"])
            size = sum(s.st_size for s in stats)
            found.append(Kept(_name(path, manifest), manifest["about"], done, len(manifest["passes"]), size, age))
    return sorted(found, key=lambda job: job.age)


def delete(folder: Path, name: str) -> int:
    """Removes a job, by its name in `kept_jobs`, and those of its passes that no other job has; returns the bytes.

    Raises:
        ValueError: a job that is not there.
    """
    manifests = {_name(path, m): m for path in Path(folder).glob("*.json") if (m := _manifest(path))}
    if name not in manifests:
        raise ValueError(f"there is no job {name!r}; there are {', '.join(sorted(manifests)) or 'none'}")
    listed = _listed(folder)
    others = {f for other, m in manifests.items() if other != name for f in _files(listed, m)}
    manifest = Path(folder) / f"{manifests[name]['job']}.json"
    lock = manifest.with_suffix(".lock")  # a kill may have left it
    files = [manifest, *([] if _held(lock) else [lock]), *(f for f in _files(listed, manifests[name]) if f not in others)]
    size = sum(s.st_size for s in _stats(files))
    for file in files:
        file.unlink(missing_ok=True)
    return size


def _name(path: Path, manifest: dict) -> str:
    return f"{path.stem}-{content_hash(manifest.get('started'))[:4]}"


def _stats(files: list[Path]) -> list[os.stat_result]:
    """Of those that are still there: a server at work finishes, and so removes, half passes."""
    found = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            found.append(file.stat())
    return found


def _listed(folder: Path) -> dict[str, list[Path]]:
    """What is there of every pass, by its key: whole ones, half ones, and what a kill left. Not what somebody is at."""
    found: dict[str, list[Path]] = {}
    for path in (Path(folder) / "passes").glob("*"):
        if (named := PASS.fullmatch(path.name)) and not _held(path.with_name(f"{named[1]}.lock")):
            found.setdefault(named[1], []).append(path)
    return found


def _held(lock: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), lock.open("r+b") as file:
        return not try_lock(file)
    return False


def _files(listed: dict[str, list[Path]], manifest: dict) -> list[Path]:
    """What is there of a job."""
    return [path for p in manifest["passes"] if p["key"] for path in listed.get(p["key"], ())]
