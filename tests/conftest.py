"""What every test stands on.

`sora_pack` is the repository as a package, whatever its folder is called, without running its `__init__.py`. Tests write
`from sora_pack.sora_core import shapes`; the root itself is never on sys.path, where its `nodes/` would shadow the host's nodes.py.
For the same reason there is no folder tests/nodes: with importlib mode pytest would register it as the module `nodes`.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _alias_pack():
    spec = importlib.util.spec_from_file_location("sora_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["sora_pack"] = importlib.util.module_from_spec(spec)


_alias_pack()


def prepare_host():
    """Put the host on sys.path and set its arguments, once. Returns the host's folder; raises FileNotFoundError when there is none."""
    from sora_pack.scripts.environment import cache_folder, host_folder

    folder = host_folder()
    sys.pycache_prefix = str(cache_folder() / "pycache")  # the host's folder stays as it was
    if str(folder) in sys.path:
        return folder
    foreign = sys.modules.get("nodes")
    if foreign is not None and not str(foreign.__file__).startswith(str(folder)):
        del sys.modules["nodes"]
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.args_parsing = False
    from comfy.cli_args import args

    # Both before anything imports folder_paths, which reads them once. Parity is a property of float32 on the CPU.
    args.cpu = True
    args.base_directory = tempfile.mkdtemp(prefix="sora-host-")
    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (Path(args.base_directory) / name).mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def root():
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def host_listing():
    """A function that lists the host's folder: {path: (size, time of change)}."""
    from sora_pack.scripts.environment import host_folder

    def listing():
        files = (path for path in host_folder().rglob("*") if path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    return listing


@pytest.fixture(scope="session")
def host_before(host_listing):
    """The host's folder before anything of it runs, in this process or as a server."""
    return host_listing()


@pytest.fixture(scope="session")
def host(host_before):
    """The host's `nodes` module, in this process, on the CPU, with a temporary base directory."""
    prepare_host()
    import nodes

    return nodes


@pytest.fixture(scope="session")
def pack(host):
    """The pack as a module, ready for `from sora_pack.nodes import ...` (the host is importable)."""
    return sys.modules["sora_pack"]


@pytest.fixture(scope="session")
def server(tmp_path_factory, host_before):
    """The real ComfyUI server with this pack, on the CPU (scripts/server.py says what it can do). One for the whole session."""
    from sora_pack.scripts.environment import child_variables, host_folder
    from sora_pack.scripts.server import ComfyServer

    base = tmp_path_factory.mktemp("comfy")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    # No first-visit dialog over the canvas.
    settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
    with ComfyServer(host_folder(), base, variables=child_variables()) as server:
        yield server


def pytest_collection_modifyitems(items):
    """Mark by folder, and say aloud which tests a machine cannot run."""
    for item in items:
        parts = item.path.relative_to(ROOT / "tests").parts
        if parts[0] in ("host", "browser"):
            item.add_marker(parts[0])
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


def _has_cuda():
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The host's executor runs every node inside inference_mode; so do the tests (and fixtures) that use the host in this process."""
    if "host" not in item.fixturenames:
        return (yield)
    import torch

    with torch.inference_mode():
        return (yield)
