"""Set-up and workflow conversion: what goes wrong there must be said in one sentence."""

import hashlib
import io
import os
import runpy
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from sora_pack.scripts import environment
from sora_pack.scripts.workflow_api import set_input, to_api
from sora_pack.tests.tiny_model import write_tiny_model

SAMPLER = {
    "input": {
        "required": {"model": ["MODEL"], "seed": ["INT", {"control_after_generate": True}], "steps": ["INT", {}]},
        "optional": {"image": [["a.png"], {"image_upload": True}]},
    }
}
LOADER = {"input": {"required": {}}}


def widget(name, kind="INT", link=None):
    return {"name": name, "type": kind, "widget": {"name": name}, "link": link}


def workflow(**changes):
    sampler = {
        "id": 2,
        "type": "Sampler",
        "inputs": [
            {"name": "model", "type": "MODEL", "link": 5},
            widget("seed"),
            widget("steps"),
            widget("image", "COMBO"),
            widget("upload", "IMAGEUPLOAD"),
        ],
        "widgets_values": [7, "fixed", 20, "a.png", "image"],
    }
    nodes = [{"id": 1, "type": "Loader"}, {**sampler, **changes}, {"id": 3, "type": "MarkdownNote", "widgets_values": ["read me"]}]
    return {"nodes": nodes, "links": [[5, 1, 0, 2, 0, "MODEL"]]}


INFO = {"Sampler": SAMPLER, "Loader": LOADER}


def test_conversion_follows_widgets_and_links():
    prompt = to_api(workflow(), INFO)
    assert prompt == {
        "1": {"class_type": "Loader", "inputs": {}},
        "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "seed": 7, "steps": 20, "image": "a.png"}},
    }


def test_a_linked_widget_takes_the_link():
    slots = [widget("seed"), widget("steps", link=5)]
    prompt = to_api(workflow(inputs=slots, widgets_values=[7, "fixed", 20]), INFO)
    assert prompt["2"]["inputs"] == {"seed": 7, "steps": ["1", 0]}


def test_a_muted_node_is_left_out():
    assert list(to_api(workflow(mode=2), INFO)) == ["1"]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"type": "Elsewhere"}, "the server has no node 'Elsewhere'"),
        ({"mode": 4}, "bypassed"),
        ({"widgets_values": [7, "fixed"]}, "no value for 'steps'"),
        ({"widgets_values": [7, "fixed", 20, "a.png", "image", 1]}, "1 values too many"),
    ],
)
def test_conversion_refuses(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_api(workflow(**changes), INFO)


def test_set_input_copies():
    prompt = to_api(workflow(), INFO)
    assert set_input(prompt, "Sampler", "steps", 3)["2"]["inputs"]["steps"] == 3
    assert prompt["2"]["inputs"]["steps"] == 20
    with pytest.raises(ValueError, match="no node 'Prompt'"):
        set_input(prompt, "Prompt", "text", "x")


def archive(path, names):
    with tarfile.open(path, "w:gz") as package:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            package.addfile(member, io.BytesIO(name.encode()))
    return path


def test_host_archive_is_checked_before_it_is_unpacked(tmp_path):
    package = archive(tmp_path / "x.tar.gz", ["p/vendor/ComfyUI/main.py"])
    with pytest.raises(environment.SetupError, match="not the pinned"):
        environment.unpack_host(package, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_host_is_unpacked(tmp_path):
    names = ["p/vendor/ComfyUI/main.py", "p/vendor/ComfyUI/comfy/a.py", "p/setup.py", "p/vendor/ComfyUI/../../evil.py"]
    package = archive(tmp_path / "x.tar.gz", names)
    environment.unpack_host(package, tmp_path / "out", hashlib.sha256(package.read_bytes()).hexdigest())
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py")) == ["comfy/a.py", "main.py"]


def test_a_wrong_comfyui_dir_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    with pytest.raises(environment.SetupError, match=r"COMFYUI_DIR=.*no ComfyUI at .*main\.py"):
        environment.ready()


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(environment.SetupError, match=r"1\.0 GB free, the environment needs 12 GB"):
        environment._need_disk(tmp_path)


@pytest.mark.parametrize("may_install", [False, True])
def test_a_missing_chromium_is_asked_for_in_one_sentence(monkeypatch, may_install):
    tried = []
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(environment.os, "geteuid", lambda: 0 if may_install else 1000, raising=False)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: tried.append(command[1]) or SimpleNamespace(returncode=100))
    with pytest.raises(environment.SetupError) as missing:
        environment.chromium()
    assert "run `sudo apt-get install chromium`" in str(missing.value) and "\n" not in str(missing.value)
    assert tried == (["install", "update", "install"] if may_install else [])


@pytest.mark.parametrize(
    "said, sentence",
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk ran full"),
        ("WARNING: Retrying after NewConnectionError(...)\nERROR: No matching distribution", "could not reach a package registry"),
        ("ERROR: No matching distribution found for x", "pip failed: ERROR: No matching distribution"),
    ],
)
def test_pip_failures_are_sentences(said, sentence, tmp_path):
    assert sentence in environment._why_pip_failed(said, tmp_path / "log")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux counts the peak memory of any process")
def test_the_peak_of_a_process_stays_when_the_memory_is_gone(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))  # the scripts import each other as programs do
    import server_memory

    before = server_memory.peak_of(os.getpid())
    held = b"x" * before  # more than there is room for below the old peak
    del held
    assert server_memory.peak_of(os.getpid()) > 1.1 * before


@pytest.fixture
def strips(root, tmp_path, monkeypatch):
    """scripts/strips.py, small, writing elsewhere."""
    monkeypatch.syspath_prepend(str(root / "scripts"))  # the scripts import each other as programs do
    import strips

    monkeypatch.setattr(strips, "SIDE", 64)
    monkeypatch.setattr(strips, "STILL", replace(strips.STILL, width=64, height=64))
    monkeypatch.setattr(strips, "FOLDER", tmp_path)
    monkeypatch.setattr(strips, "PAGE", tmp_path / "gallery.md")
    return strips


def test_strips_have_what_their_canvas_needs(strips):
    for name, make in strips.EXAMPLES.items():
        example = make()
        for piece in (*example.canvas.timeline.pieces, *example.canvas.guides):
            end = piece.start + getattr(piece, "count", 1)
            assert end <= (len(example.sources[piece.source]) if piece.source >= 0 else example.canvas.shape.frames), name
        assert example.prompt and all(source.shape[1:] == (64, 64, 3) for source in example.sources)


def test_strips_of_a_still_of_both_sides_and_under_a_mask(strips, tmp_path):
    pipeline, settings = strips.Pipeline.load(write_tiny_model(tmp_path / "models")), {"seed": 0, "steps": 1, "guidance": 1.0}
    shown = {"text_to_image": 1, "extend_both": 10, "masked_remix": 20}
    for name, pictures in shown.items():
        strips.strip(pipeline, name, **settings)
        with Image.open(tmp_path / f"{name}.png") as strip:
            rows = -(-pictures // strips.SHOWN)
            assert strip.width // 64 == min(pictures, strips.SHOWN) and strip.height // (64 + strips.BAR) == rows, name
    strips.write_section()
    assert [name for name in strips.EXAMPLES if f"verbs/{name}.png" in strips.PAGE.read_text(encoding="utf-8")] == list(shown)
    example = strips.masked_remix()
    made, kept = strips.make(pipeline, example, **settings), example.region == 0
    assert torch.equal(made[kept], example.sources[0][kept]) and not torch.equal(made, example.sources[0])


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ([], ["tests"]),
        (["-k", "nodes"], ["-k", "nodes", "tests"]),
        (["tests/unit", "-k", "nodes"], ["tests/unit", "-k", "nodes"]),
        (["-x", "tests/unit/test_scripts.py::test_words"], ["-x", "tests/unit/test_scripts.py::test_words"]),
    ],
)
def test_a_word_to_look_for_is_no_folder(root, monkeypatch, given, run):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    command, ran = runpy.run_path(str(root / "scripts" / "test.py")), []
    environment = command["environment"]  # as programs import it, not that of the package
    for name in ("ready", "chromium", "child_variables"):
        monkeypatch.setattr(environment, name, dict)
    monkeypatch.setattr("subprocess.run", lambda arguments, **_: ran.append(arguments) or SimpleNamespace(returncode=0))
    monkeypatch.setattr("sys.argv", ["test.py", *given])
    assert command["main"]() == 0
    assert ran[-1][ran[-1].index("pytest") + 1 :] == run
