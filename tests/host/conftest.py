"""Tests inside the real host: in this process (fixtures `host`, `pack`) or as a server (fixture `server`)."""

from sora_pack.tests.host.executor import graph  # noqa: F401 (a fixture)
from sora_pack.tests.host.fixtures import clip_node, host_files, host_sources  # noqa: F401 (fixtures)
