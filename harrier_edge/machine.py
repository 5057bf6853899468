"""What the operating system tells of this machine, and of this process on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What makes 8-bit products fast, in Linux's words.
_EXTENSIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimddp", "i8mm", "sve"),
)
_FAST_CAPACITY = 0.6  # of the fastest core's, from which on a core is none of the small ones
_MANY_CORES = 2**20  # stands for no limit
_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class Machine:
    """What speed depends on."""

    processor: str
    cores: int  # that this process may use
    extensions: tuple[str, ...] | None  # None where the system does not tell
    system: str


@dataclass(frozen=True)
class Memory:
    """Resident memory of this process in MB (10**6 bytes); None where the system does not tell."""

    now_mb: float | None
    peak_mb: float | None


def this_machine() -> Machine:
    """The machine that this runs on."""
    lines = _lines("/proc/cpuinfo")
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return Machine(
        processor=_processor(fields.get("model name", "")),
        cores=available_cores(),
        extensions=tuple(name for name in _EXTENSIONS if name in flags) if flags else None,
        system=f"{platform.system()} {platform.machine()}",
    )


def memory() -> Memory:
    """The memory that this process holds now, and the most that it ever held."""
    if sys.platform == "linux":
        # Not getrusage, whose maximum a process inherits from the one that started it.
        pairs = (line.partition(":") for line in _lines("/proc/self/status"))
        kib = {key: value.split()[0] for key, _, value in pairs if key in ("VmRSS", "VmHWM")}
        return Memory(_mb(kib.get("VmRSS"), 1024), _mb(kib.get("VmHWM"), 1024))
    if sys.platform == "win32":
        return Memory(None, None)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Memory(_mb(_told("ps", "-o", "rss=", "-p", str(os.getpid())), 1024), _mb(peak, unit))


def trim_memory() -> None:
    """Give back what was freed and the C library keeps; only glibc's has to be told.

    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    _call_glibc("malloc_trim", 0)


def return_large_memory() -> None:
    """Have the C library give large blocks back when they are freed, from now on; only glibc's.

    By itself it keeps up to 32 MB for the next block, with whatever small ones came to lie there.
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    _call_glibc("mallopt", _M_MMAP_THRESHOLD, _LARGE_BLOCK)


def _call_glibc(name: str, *arguments: int) -> None:
    """Call a function that glibc has; other C libraries do without."""
    if sys.platform == "linux":
        import ctypes  # most processes never need it

        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def available_memory() -> int | None:
    """Bytes that programs can still take without swapping; None where the system does not tell.

    Within a container's limit, where it has one.
    """
    if sys.platform == "darwin":
        told = _told("sysctl", "-n", "hw.memsize")  # all there is: what is free, it does not say
        return int(told) if told.isdecimal() else None
    pairs = (line.partition(":") for line in _lines("/proc/meminfo"))
    kib = {key: value.split()[0] for key, _, value in pairs if key == "MemAvailable"}
    limits = [int(value) * 1024 for value in kib.values()]
    for line in _lines("/proc/self/cgroup"):
        own = Path("/sys/fs/cgroup") / line.split(":", 2)[2].lstrip("/")
        for folder in (own, *own.parents):
            words = " ".join(_lines(str(folder / "memory.max")))
            if words.isdecimal():
                limits.append(int(words))
    return min(limits, default=None)


def _processor(model_name: str) -> str:
    """The processor's name, from wherever this system keeps it."""
    if sys.platform == "darwin":
        model_name = _told("sysctl", "-n", "machdep.cpu.brand_string")
    boards = _lines("/proc/device-tree/model")  # Arm boards name themselves, not their processor
    board = boards[0].rstrip("\0") if boards else ""
    return model_name or board or platform.processor() or platform.machine()


def available_cores(devices: Path = Path("/sys/devices")) -> int:
    """The number of cores that this process may use: by its affinity and its container's limit.

    Of cores of several kinds, as `devices` tells of them, the slow ones do not count: operators
    are split into equal parts, and the last part to be done decides.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(_fast(os.sched_getaffinity(0), devices))
    elif fast := _told("sysctl", "-n", "hw.perflevel0.logicalcpu"):  # Apple's; elsewhere nothing
        cores = int(fast)
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, int(_cgroup_cores())))


def _fast(cores: set[int], devices: Path) -> set[int]:
    """Those of `cores` that are of a fast kind; all where the system knows one kind alone.

    https://docs.kernel.org/arch/arm64/cpu-topology.html tells of Arm's capacities, and
    https://www.man7.org/linux/man-pages/man1/perf-intel-hybrid.1.html of Intel's two lists.
    """
    lists = _lines(str(devices / "cpu_core" / "cpus"))
    fast = _numbers(lists[0]) & cores if lists else set()
    capacities = {}
    for core in cores:
        words = _lines(str(devices / "system" / "cpu" / f"cpu{core}" / "cpu_capacity"))
        if words and words[0].isdecimal():
            capacities[core] = int(words[0])
    least = _FAST_CAPACITY * max(capacities.values(), default=0)
    fast |= {core for core, capacity in capacities.items() if capacity >= least}
    return fast or cores


def _numbers(text: str) -> set[int]:
    """The numbers of a list such as the kernel writes them: 0-3,8."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return {n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)}


def _cgroup_cores() -> float:
    """The processor time that a container may take, in cores; infinite without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu and, for the older version 1,
    https://docs.kernel.org/scheduler/sched-bwc.html.
    """
    limits = [float(_MANY_CORES)]
    for line in _lines("/proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, files = Path("/sys/fs/cgroup"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, files = Path("/sys/fs/cgroup/cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):  # a limit holds for all below it
            words = " ".join(" ".join(_lines(str(folder / name))) for name in files).split()
            if len(words) == 2 and words[0].isdecimal() and int(words[1]):
                limits.append(int(words[0]) / int(words[1]))
            if folder == root:
                break
    return min(limits)


def _lines(path: str) -> list[str]:
    """The lines of one of the system's own files; none where it has no such file."""
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _told(*command: str) -> str:
    """What a program of the system prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _mb(value: str | int | None, unit: int) -> float | None:
    return round(int(value) * unit / 1e6, 1) if value else None
