"""Files that appear under their names only when they are whole, and never in place of somebody else's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from .config import UserError

SHOWN = 32
"""Letters of a name that are kept in that of an unfinished file."""

WAITS = (0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts at a name."""


class FullDisk(OSError, UserError):
    """A file that was not written, and where space is missing."""


class Refused(OSError, UserError):
    """A file that is complete and could not be given its name, and where it is."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; on leaving it is flushed to the disk and renamed, or removed if anything was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The key of a pass, and of a long name no more than fits. Numbers of processes come again, in a container at every start.
    part = path.with_name(f".{path.name[:SHOWN]}.{uuid4().hex}.part")
    try:
        with naming_full_disk(path):
            yield part
            flush(part)
            _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


@dataclass
class Unfinished:
    """A file, or a folder of pictures, on the way: it is written to `part`; when that is done `path` says where it is."""

    part: Path
    path: Path


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Unfinished]:
    """Gives what is written the name `path` once it is complete, or where somebody else was faster the next free number: another program
    counts the same files. Nothing that is there is ever replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Unfinished(path.with_name(f".{uuid4().hex}{path.suffix}"), path)
    try:
        with naming_full_disk(path):
            yield made
            if made.part.is_file():
                flush(made.part)
            try:
                made.path = _named(made.part, path)
            except PermissionError as error:
                sentence = f"{path.name} could not be given its name ({error.strerror}); what was made is {made.part}: rename it"
                raise Refused(error.errno, sentence) from error
    except Refused:
        raise
    except BaseException:
        if made.part.is_dir():
            shutil.rmtree(made.part, ignore_errors=True)
        made.part.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Brings a file onto the disk: a name must not outlive a crash that its content did not."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _named(part: Path, path: Path) -> Path:
    """Gives `part` the first free of the names name_00001_, name_00002_, ... from `path` on."""
    found = re.fullmatch(r"(.*_)(\d{5,})_", path.stem)
    name, number = (found[1], int(found[2])) if found else (f"{path.stem}_", 1)
    for free in itertools.chain([path], (path.with_name(f"{name}{k:05}_{path.suffix}") for k in itertools.count(number + 1))):
        if free.exists():
            continue
        try:
            if not part.is_dir():
                free.open("x").close()  # of two programs only one succeeds
        except FileExistsError:
            continue
        try:
            return _rename(part, free)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                if not part.is_dir():
                    free.unlink(missing_ok=True)
                raise


def _rename(part: Path, path: Path) -> Path:
    """On Windows a scanner or a preview may hold a new file for a moment."""
    for wait in WAITS:
        try:
            return part.replace(path)
        except PermissionError:
            time.sleep(wait)
    return part.replace(path)


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Of a full disk a sentence with the name that people know: whoever writes knows that of the part only."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sentence = f"The disk is full: {path.name} was not written; free some space for {path.parent}"
        raise FullDisk(errno.ENOSPC, sentence) from error


def try_lock(file: BinaryIO) -> bool:
    """Locks an open file unless somebody has; says whether it did. The system releases it when its holder ends, in whatever way."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # a file system without locks: two may do the same work, and rename the same result
    return True
