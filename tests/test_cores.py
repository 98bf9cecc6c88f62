"""A program takes its share of a machine, and a library takes nothing."""

import json
import os
import subprocess
import sys

import pytest

from ggnet import cores


@pytest.fixture
def affinity():
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


def test_affinity_counts(affinity):
    os.sched_setaffinity(0, {min(affinity)})
    assert cores.usable_cores() == 1


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/job/step\n", {"job/cpu.max": "max 100000\n"}, None),
        ("0::/job/step\n", {"job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "9 3"}, 3),
        ("0::/job/step\n", {"cpu.max": "200000 100000\n"}, 2),  # as a container sees its own
        ("0::/job\n", {"job/cpu.max": "no numbers"}, None),
        ("7:cpu,cpuacct:/a\n3:memory:/a\n", {"cpu,cpuacct/a": (50000, 100000)}, 0.5),
        ("7:cpu,cpuacct:/a\n", {"cpu": (300000, 100000)}, 3),
        ("7:cpu:/a\n", {"cpu/a": (-1, 100000)}, None),
    ],
)
def test_the_tightest_quota_counts(tmp_path, membership, files, quota):
    for name, content in files.items():
        path = tmp_path / name
        if isinstance(content, str):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            continue
        path.mkdir(parents=True)
        for part, value in zip(("quota", "period"), content, strict=True):
            (path / f"cpu.cfs_{part}_us").write_text(f"{value}\n")
    (tmp_path / "membership").write_text(membership)
    assert cores.cgroup_quota(tmp_path, tmp_path / "membership") == quota


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cores.cgroup_quota(tmp_path, tmp_path / "nothing") is None


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (10_000, None), (None, None)])
def test_a_quota_limits_what_affinity_allows(monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    assert cores.usable_cores() == (expected or 7)


@pytest.mark.parametrize(("count", "expected"), [(7, 7), (None, 1)])
def test_where_there_is_no_affinity_all_cores_count(monkeypatch, count, expected):
    monkeypatch.setattr(cores, "cgroup_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("processes", "expected"), [("3", 2), ("50", 1), ("?", 7), (None, 7)])
def test_processes_of_a_machine_share_it(monkeypatch, processes, expected):
    monkeypatch.setattr(cores, "usable_cores", lambda: 7)
    if processes is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores.cores_of_process() == expected


def environment_after(statement, **variables):
    """OpenMP's variables in a process in which `statement` ran, and torch's threads."""
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    script = (
        f"{statement}\nimport json, os, torch\n"
        f"print(json.dumps([os.environ.get(name) for name in {names[:2]}]))\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, values, threads = done.stdout.splitlines()
    return (*json.loads(values), int(threads))


COMMAND = """
from ggnet.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
"""


def test_a_command_waits_passively_on_the_cores_that_it_may_use(affinity):
    os.sched_setaffinity(0, {min(affinity)})
    assert environment_after(COMMAND) == ("passive", "1", 1)


def test_what_the_user_has_set_stays():
    mine = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}
    assert environment_after(COMMAND, **mine)[:2] == ("active", "3")


def test_importing_the_library_changes_nothing():
    assert environment_after("import ggnet, ggnet.ops, ggnet.api.model")[:2] == (None, None)
