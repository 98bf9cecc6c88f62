"""How much of the machine's processor this process may use, and to use no more.

OpenMP's threads wait for each other by spinning. On a core that another program wants, too, they
spin in the time that the thread waited for would need: beside one busy neighbour a training falls
to a third. OMP_WAIT_POLICY=passive lets them sleep, at a few percent where nobody else is.
"""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# What `limit_threads` set, and not the user
chosen: dict[str, str] = {}


def limit_threads() -> None:
    """Let OpenMP have a thread for each core of this process's share, and let them wait passively,
    unless the user has set otherwise. It must come before torch is imported, and is for programs,
    not for a library: the environment is the whole process's."""
    if "torch" in sys.modules:  # which has read it
        return
    wanted = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(cores_of_process())}
    for name, value in wanted.items():
        if name not in os.environ:
            os.environ[name] = chosen[name] = value


def cores_of_process() -> int:
    """`usable_cores` shared by the processes that torchrun started on this machine, at least 1."""
    try:
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
    except (KeyError, ValueError):
        processes = 1
    return max(1, usable_cores() // max(processes, 1))


def usable_cores() -> int:
    """Cores that affinity (taskset, Slurm) and the cgroup's quota (`docker --cpus`) leave, at
    least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    quota = cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cgroup_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Cores that this process's control groups and those above grant, None without a limit.

    Reads both versions of Linux's interface (cpu.max, cpu.cfs_quota_us); what cannot be read sets
    no limit.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            limits += [_limit(folder, _read_v2) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                limits += [_limit(folder, _read_v1) for folder in _upwards(root / name, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """The group's folder and all above it; within a container only the root may be there."""
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _limit(folder: Path, read: Callable[[Path], list[str]]) -> float | None:
    try:
        quota, period = read(folder)
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _read_v2(folder: Path) -> list[str]:
    return (folder / "cpu.max").read_text().split()


def _read_v1(folder: Path) -> list[str]:
    return [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
