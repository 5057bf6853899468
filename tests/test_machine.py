"""What the system tells of this machine."""

from __future__ import annotations

import os
from pathlib import Path

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


INTEL = {"cpu_core/cpus": "0-3,6\n", "cpu_atom/cpus": "4-5,7-15\n"}
ARM = {
    f"system/cpu/cpu{core}/cpu_capacity": f"{1024 if core > 6 else 870 if core > 3 else 290}\n"
    for core in range(8)
}
ALIKE = {f"system/cpu/cpu{core}/cpu_capacity": "1024\n" for core in range(16)}


@pytest.mark.parametrize(
    ("files", "mine", "cores"),
    [
        (INTEL, range(16), 5),
        (INTEL, range(2, 16), 3),
        (INTEL, range(8, 16), 8),
        (ARM, range(8), 4),
        (ARM, range(4), 4),
        (ALIKE, range(16), 16),
        ({}, range(16), 16),
    ],
)
def test_slow_cores_do_not_count_beside_fast_ones(
    files: dict[str, str],
    mine: range,
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Intel's and Arm's kernels tell them; a process that may use slow ones alone has these."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_cgroup_cores", lambda: 64.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(mine), raising=False)
    assert machine.available_cores(tmp_path) == cores
