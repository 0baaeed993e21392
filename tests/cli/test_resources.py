# SPDX-License-Identifier: Apache-2.0
"""Limits of control groups count, wherever they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_lesion_xai.cli.resources import cores, memory_gb

GB = 10**9
NONE_V1 = 9223372036854771712


def machine(folder: Path, groups: str, files: dict[str, str]) -> Path:
    """Return the root of a machine with these control groups."""
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/", {"memory.max": f"{GB // 2}"}),
        ("0::/", {"memory.max": f"{GB // 2}", "cpu.max": "max 100000"}),
        ("0::/job/step", {"job/memory.max": f"{GB // 2}", "job/step/memory.max": "max"}),
        ("0::/of/the/host", {"memory.max": f"{GB // 2}"}),
        ("4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": f"{GB // 2}"}),
        (
            "4:memory:/docker/1a2b",
            {
                "memory/memory.limit_in_bytes": f"{GB // 2}",
                "memory/docker/memory.limit_in_bytes": f"{NONE_V1}",
            },
        ),
    ],
    ids=["v2", "v2 no cpu", "outer group", "container", "v1", "container v1"],
)
def test_the_smallest_limit_of_memory_holds(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    files = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    assert memory_gb(machine(tmp_path, groups, files)) == 0.5


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/", {"cpu.max": "50000 100000"}),
        ("0::/job", {"cpu.max": "100000 100000", "job/cpu.max": "max 100000"}),
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.cfs_period_us": "20000"}),
    ],
    ids=["half a core", "outer group", "v1"],
)
def test_a_quota_of_one_core_or_less_is_one_core(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    files = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    assert cores(machine(tmp_path, groups, files)) == 1


def test_without_limits_everything_may_be_used(tmp_path: Path) -> None:
    bare = machine(tmp_path / "bare", "0::/", {})
    no_quota = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}
    no_limit = {f"sys/fs/cgroup/cpu/{name}": text for name, text in no_quota.items()}
    no_limit["sys/fs/cgroup/memory/memory.limit_in_bytes"] = f"{NONE_V1}"
    unlimited = machine(tmp_path / "unlimited", "1:cpu:/\n2:memory:/", no_limit)
    other_system = tmp_path / "nothing"
    assert cores(bare) == cores(unlimited) == cores(other_system) >= 1
    assert memory_gb(bare) == memory_gb(unlimited) == memory_gb(other_system) > 0.5
