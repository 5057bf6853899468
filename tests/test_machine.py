"""What the system tells of this machine."""

from __future__ import annotations

import os

import pytest

from harrier_edge import machine

FILES = {
    "/proc/self/cgroup": ["0::/box/app"],
    "/sys/fs/cgroup/box/app/cpu.max": ["max 100000"],
    "/sys/fs/cgroup/box/cpu.max": ["250000 100000"],
}
FILES_V1 = {
    "/proc/self/cgroup": ["12:memory:/x", "4:cpu,cpuacct:/x"],
    "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": ["50000"],
    "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": ["100000"],
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": ["-1"],
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": ["100000"],
}


@pytest.mark.parametrize(
    ("files", "cores"), [(FILES, 2), (FILES_V1, 1), ({}, 16), ({"/proc/self/cgroup": ["0::/"]}, 16)]
)
def test_a_container_has_the_cores_that_it_may_use(
    files: dict[str, list[str]], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processor time counts, one of a group above too, in both versions of cgroups."""
    monkeypatch.setattr(machine, "_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert machine.available_cores() == cores
