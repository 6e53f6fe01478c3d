"""Tests inside the real host: in this process (fixtures `host`, `pack`) or as a server (fixture `server`)."""

import pytest

from sora_pack.scripts.environment import host_folder
from sora_pack.tests.host.executor import graph  # noqa: F401 (a fixture)
from sora_pack.tests.host.fixtures import clip_node, host_files, host_sources  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def host_listing():
    """A function that lists the host's folder: {path: (size, time of change)}."""

    def listing():
        files = (path for path in host_folder().rglob("*") if path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    return listing


@pytest.fixture(scope="session")
def host_before(host_listing):
    """The host's folder before the server starts; name it before `server`."""
    return host_listing()
