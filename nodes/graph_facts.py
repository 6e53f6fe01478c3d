"""What a value in a graph is determined by: the nodes above it, their constants, and the files that these name.

The identifiers that patches have in memory are random, so a MODEL is known by this and not by itself.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path

import folder_paths

from ..sora_core.jobs import content_hash

LONGEST_NAME = 260


class FactsError(ValueError):
    """Why a value cannot be known by its graph."""


_first_facts: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def facts_of(thing, prompt: dict, value):
    """`facts_above` a link as they were when `thing`, the MODEL that came through it, was first seen.

    Whoever overwrites a LoRA while the host runs still samples with the old one: the host loads no file twice.
    """
    facts = facts_above(prompt, value)
    try:
        return _first_facts.setdefault(thing, facts)
    except TypeError:  # not every class can be referred to weakly
        return facts


def facts_above(prompt: dict, value, seen: dict | None = None):
    """A constant as it is, with the facts of the file it names; a link [node, output] as the hash of all above it.

    Args:
        prompt: API format, {node id: {"class_type", "inputs"}}.
        seen: hashes of the nodes that were looked at already.

    Raises:
        FactsError: a link to a node that is not in the prompt.
    """
    seen = {} if seen is None else seen
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        return [_node(prompt, value[0], seen), value[1]]
    if isinstance(value, dict):
        return {name: facts_above(prompt, item, seen) for name, item in value.items()}
    if isinstance(value, list):
        return [facts_above(prompt, item, seen) for item in value]
    return [value, *_files(value)] if isinstance(value, str) else value


def _node(prompt: dict, number: str, seen: dict) -> str:
    if number not in prompt:
        raise FactsError(f"node {number} is not in the prompt")
    if number not in seen:
        node = prompt[number]
        seen[number] = content_hash([node["class_type"], {name: facts_above(prompt, v, seen) for name, v in node["inputs"].items()}])
    return seen[number]


def _files(name: str) -> list:
    """Path, size and time of the files that a string may mean: a path by itself, a name in the host's folders, or a folder of its input."""
    if not name or len(name) > LONGEST_NAME or "\n" in name or "\0" in name:
        return []
    paths, given = {name}, ""
    with contextlib.suppress(ValueError):  # on Windows: another drive, or what looks like one, such as 4:3
        paths |= {folder_paths.get_full_path(kind, name) for kind in folder_paths.folder_names_and_paths if kind != "custom_nodes"}
    with contextlib.suppress(ValueError):  # out of the input folder
        given = folder_paths.get_annotated_filepath(name)
    found = []
    for path in sorted(filter(None, {*paths, given})):
        with contextlib.suppress(OSError):  # too long for the name of a file
            inside = Path(path).iterdir() if path == given and Path(path).is_dir() else [Path(path)]  # a folder of pictures to train on
            for file in sorted(inside):
                if file.is_file():
                    stat = file.stat()
                    found.append([str(file), stat.st_size, stat.st_mtime_ns])
    return found
