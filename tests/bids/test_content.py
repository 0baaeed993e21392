# SPDX-License-Identifier: Apache-2.0
"""A file is used if its content is here; two are the same if their contents are."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.bids.content import absence, is_same

NAME = "sub-01/anat/sub-01_T1w.nii.gz"
KEY = "MD5E-s90--0123456789abcdef0123456789abcdef.nii.gz"
OBJECT = f".git/annex/objects/x1/Kf/{KEY}/{KEY}"
ELSEWHERE = "its content is not here"
NOT_A_FILE = ("not a file", "put the image in its place")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 90\n"
CHUNK = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the place of an image in the folder of a participant."""
    path = tmp_path / "bids" / NAME
    path.parent.mkdir(parents=True)
    return path


def reason(path: Path) -> tuple[str, str] | None:
    """Return what is told of a file of the dataset."""
    return absence(path, path.parents[2])


# Whether a content is here


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b voxels", b"x", b"\0" * 400, b" /annex/objects/x", b"version 1", b"objects/x"],
)
def test_a_file_with_a_content_can_be_used(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert reason(path) is None


@pytest.mark.parametrize("target", [f"../../{OBJECT}", "scan.nii.gz"])
def test_a_link_to_a_content_can_be_used(target: str, path: Path) -> None:
    there = path.parent / target
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(b"voxels")
    path.symlink_to(target)
    assert reason(path) is None


@pytest.mark.parametrize("target", [f"../../{OBJECT}", f"/data/jane/bids/{OBJECT}"])
def test_of_a_link_to_an_absent_object_of_git_annex_it_is_told_how_to_get_it(
    target: str, path: Path
) -> None:
    path.symlink_to(target)
    assert reason(path) == (ELSEWHERE, f"in the folder of the dataset: datalad get {NAME}")


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (f"/annex/objects/{KEY}\n".encode(), "datalad get"),
        (LFS, "git lfs pull --include"),
    ],
    ids=["git-annex", "git-lfs"],
)
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
def test_of_a_file_that_stands_for_a_content_elsewhere_it_is_told_how_to_get_it(
    content: bytes, command: str, is_link: bool, path: Path
) -> None:
    there = path.with_name("pointer") if is_link else path
    there.write_bytes(content)
    if is_link:
        path.symlink_to("pointer")
    assert reason(path) == (ELSEWHERE, f"in the folder of the dataset: {command} {NAME}")


@pytest.mark.parametrize("is_lfs", [False, True])
def test_a_command_can_be_copied_whatever_the_name(is_lfs: bool, tmp_path: Path) -> None:
    path = tmp_path / "sub-a b" / "it's;.nii"
    path.parent.mkdir()
    path.write_bytes(LFS if is_lfs else b"/annex/objects/x")
    told = absence(path, tmp_path)
    assert told is not None
    assert told[1].endswith(""" 'sub-a b/it'"'"'s;.nii'""")


@pytest.mark.parametrize(
    "target", ["/data/jane/scan.nii.gz", "../../../../jane/scan.nii.gz", "scan.nii.gz"]
)
def test_a_link_that_leads_nowhere_is_told_without_a_folder_of_the_machine(
    target: str, path: Path
) -> None:
    path.symlink_to(target)
    assert reason(path) == (
        "a link to scan.nii.gz, which is not there",
        "mend the link, or make its target (see ls -l) visible, e.g. bind its folder",
    )


def test_an_empty_file_is_told(path: Path) -> None:
    path.touch()
    assert reason(path) == ("empty file", "copy it anew")


@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["folder", "FIFO"])
def test_what_is_no_file_is_told_and_not_waited_for(
    put: Callable[[Path], None], is_link: bool, path: Path
) -> None:
    put(path.with_name("other") if is_link else path)
    if is_link:
        path.symlink_to("other")
    assert reason(path) == NOT_A_FILE


def test_a_file_that_is_gone_is_told(path: Path) -> None:
    assert reason(path) == NOT_A_FILE


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")],
    ids=["rights", "disk"],
)
def test_a_file_that_cannot_be_read_is_told_with_the_cause_alone(
    error: OSError, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"voxels")

    def refuse(*_: object) -> None:
        error.filename = str(path)
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == (
        f"it cannot be read: {error.strerror}",
        "change its rights, or copy it anew",
    )


# Whether two contents are the same

WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "one.nii": lambda content: content,
    "quick.nii.gz": lambda content: gzip.compress(content, 1, mtime=0),
    "small.nii.gz": lambda content: gzip.compress(content, 9, mtime=1),
    "parts.nii.gz": lambda content: gzip.compress(content[:7]) + gzip.compress(content[7:]),
}


@lru_cache
def content_of(size: int) -> bytes:
    """Return bytes that can be compressed, but hardly repeat."""
    return np.random.default_rng(3).integers(0, 16, size, np.uint8).tobytes()


@lru_cache
def wrapped(name: str, content: bytes) -> bytes:
    return WRAPPINGS[name](content)


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(wrapped(name, content))
    return path


@pytest.mark.parametrize("size", [0, 1, 5000, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("one", WRAPPINGS)
@pytest.mark.parametrize("other", WRAPPINGS)
def test_the_same_content_is_the_same_compressed_or_not(
    one: str, other: str, size: int, tmp_path: Path
) -> None:
    content = content_of(size)
    paths = write(tmp_path / "one", one, content), write(tmp_path / "other", other, content)
    assert is_same(*paths)


@pytest.mark.parametrize("size", [1, 5000, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("change", ["one byte more", "one byte less", "another first", "last"])
@pytest.mark.parametrize("one", ["one.nii", "small.nii.gz"])
@pytest.mark.parametrize("other", ["one.nii", "small.nii.gz"])
def test_one_byte_is_a_difference(
    one: str, other: str, change: str, size: int, tmp_path: Path
) -> None:
    content = content_of(size)
    changed = {
        "one byte more": content + b"\0",
        "one byte less": content[:-1],
        "another first": bytes([content[0] ^ 1]) + content[1:],
        "last": content[:-1] + bytes([content[-1] ^ 1]),
    }[change]
    paths = write(tmp_path / "one", one, content), write(tmp_path / "other", other, changed)
    assert not is_same(*paths)


def cut_body(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


def cut_checksum(packed: bytes) -> bytes:
    return packed[:-4]


def cut_head(packed: bytes) -> bytes:
    return packed[:5]


def spoil_body(packed: bytes) -> bytes:
    return packed[:12] + b"\xff" * 30 + packed[42:]


def spoil_checksum(packed: bytes) -> bytes:
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


def not_packed(packed: bytes) -> bytes:
    return gzip.decompress(packed)


@pytest.mark.parametrize("size", [5000, CHUNK + 5000])
@pytest.mark.parametrize(
    "spoil", [cut_body, cut_checksum, cut_head, spoil_body, spoil_checksum, not_packed]
)
def test_a_damaged_file_is_the_same_as_no_other(
    spoil: Callable[[bytes], bytes], size: int, tmp_path: Path
) -> None:
    whole = write(tmp_path, "one.nii", content_of(size))
    damaged = write(tmp_path, "small.nii.gz", content_of(size))
    assert is_same(whole, damaged)
    damaged.write_bytes(spoil(damaged.read_bytes()))
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(damaged.read_bytes())
    pairs = [(whole, damaged), (damaged, whole), (damaged, copy)]
    assert [is_same(*pair) for pair in pairs] == [False] * 3


def test_what_a_truncated_file_still_holds_is_not_its_content(tmp_path: Path) -> None:
    content = content_of(5000)
    packed = gzip.compress(content)
    for name, cut in {"no checksum": packed[:-8], "no end": packed[:-1]}.items():
        damaged = tmp_path / f"{name}.nii.gz"
        damaged.write_bytes(cut)
        assert not is_same(damaged, write(tmp_path, "one.nii", content))
        assert not is_same(write(tmp_path, "one.nii", content), damaged)


@pytest.mark.parametrize("put", [None, Path.mkdir], ids=["nothing", "folder"])
@pytest.mark.parametrize("name", ["other.nii", "other.nii.gz"])
def test_what_is_no_file_is_the_same_as_no_other(
    put: Callable[[Path], None] | None, name: str, tmp_path: Path
) -> None:
    empty, other = write(tmp_path, "one.nii", b""), tmp_path / name
    if put:
        put(other)
    assert [is_same(empty, other), is_same(other, empty)] == [False] * 2
