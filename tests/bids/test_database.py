# SPDX-License-Identifier: Apache-2.0
"""An index finds what the folders have, is made no more often than it must, and never half."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from bids import BIDSLayout
from sqlalchemy.exc import OperationalError

from bids_lesion_xai.bids import database
from bids_lesion_xai.bids.database import FILE_NAME, Database
from bids_lesion_xai.bids.dataset import SkippedVisit, VisitInputs, find_visits
from bids_lesion_xai.bids.images import list_participant, participants_in
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, LesionXaiError, OutputError, UsageError

Found = tuple[list[VisitInputs], list[SkippedVisit]]

FAR_AWAY_NS = 1 << 62


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a dataset of one participant with two sessions, and one without any."""
    root = tmp_path / "bids"
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
        add_pair(root, name)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def made(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that tells why the index was made, each time since the last call."""
    caplog.set_level(logging.INFO, logger="bids_lesion_xai.bids.database")

    def reasons() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [one.partition(": ")[2].partition(";")[0] for one in messages if "index in" in one]

    return reasons


def add(root: Path, *parts: str) -> Path:
    """Put an image at a place of the dataset."""
    path = root.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.save(nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
    return path


def add_pair(root: Path, name: str) -> None:
    """Put FLAIR and T1w to where their names ask for."""
    visit = [pair for pair in name.split("_") if pair.startswith(("sub-", "ses-"))]
    for suffix in ("FLAIR", "T1w"):
        add(root, *visit, "anat", f"{name}_{suffix}.nii.gz")


def find(root: Path, folder: Path, *participants: str, wipe: bool = False) -> Found:
    return find_visits(root, participants, (), database=Database(root, folder, wipe))


def visits(found: Found) -> list[str]:
    return [inputs.visit.name for inputs in found[0]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def known(folder: Path) -> set[str]:
    """Return the paths that an index knows."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        return {path for (path,) in database.execute("SELECT path FROM files")}


def forget(folder: Path, pattern: str) -> None:
    """Take files out of an index, which stays as old as it is."""
    times = (folder / FILE_NAME).stat()
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        # Of pybids' own tables, that of the entities refers to the files.
        database.execute("DELETE FROM files WHERE path LIKE ?", (pattern,))
        database.commit()
    os.utime(folder / FILE_NAME, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def bound_by_modes() -> Iterator[None]:
    """Let the modes of files and folders count, for root too."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may do anything")
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert library.capget(header, data) == 0
    before = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert library.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert library.capset(header, data) == 0


# The same as without


def several_labels(root: Path) -> None:
    for label in ("1", "10", "100", "1+", "a", "A"):
        add_pair(root, f"sub-{label}_ses-1")
    add_pair(root, "sub-1_ses-10")


def beside_sessions(root: Path) -> None:
    for name in ("sub-01", "sub-01_ses-1", "sub-02", "sub-03_ses-1"):
        add_pair(root, name)


def sidecars(root: Path) -> None:
    add_pair(root, "sub-01")
    for acquisition, kind in (("a", "2D"), ("b", "3D"), ("c", "2D")):
        path = add(root, "sub-01", "anat", f"sub-01_acq-{acquisition}_FLAIR.nii.gz")
        text = f'{{"MRAcquisitionType": "{kind}"}}'
        path.with_name(f"sub-01_acq-{acquisition}_FLAIR.json").write_text(text)
    add(root, "sub-01", "anat", "sub-01_FLAIR.nii.gz").unlink()
    (root / "sub-01" / "sub-01_T1w.json").write_text('{"EchoTime": 0.1}')
    (root / "T1w.json").write_text("{")


def misplaced(root: Path) -> None:
    add_pair(root, "sub-01_acq-z")
    for number, place in enumerate((".", "derivatives", "code", "anat/old", "anat/.old", "dwi")):
        add(root, "sub-01", place, f"sub-01_acq-{number}_FLAIR.nii.gz")
    add(root, "sub-01", "anat", "sub-02_T1w.nii.gz")
    add(root, "sub-02", "dwi", "sub-02_dwi.nii.gz")


def elsewhere(root: Path) -> None:
    add_pair(root, "sub-01")
    for place in ("derivatives/app", "sourcedata", "code", "stimuli", "models", ".git"):
        add_pair(root / place, "sub-01_acq-a")
        add_pair(root / place, "sub-02")


def misspelt(root: Path) -> None:
    add_pair(root, "sub-01_acq-z")
    names = ["run-x_T1w.nii.gz", "flair.nii.gz", "run-1_run-2_T1w.nii.gz", "T1w.txt", "T1w.nii"]
    names += ["run-9999999999999999999999_FLAIR.nii", "acq-ä_T1w.nii", "acq-b'c_T1w.nii"]
    for name in names:
        (root / "sub-01" / "anat" / f"sub-01_{name}").write_text("no image")
    add(root, "sub-01", "anat", "sub-01_acq-b_T1w.nii.gz").rename(
        root / "sub-01" / "anat" / "sub-01_acq-b_T1w.NII.GZ"
    )
    for label in ("a-b", "a.b", "ä", "a b", "%", "_"):
        add_pair(root, f"sub-{label}")


def twins(root: Path) -> None:
    for name in ("sub-01_run-1", "sub-01_run-01", "sub-02"):
        add_pair(root, name)
    shutil.copy(
        root / "sub-02" / "anat" / "sub-02_T1w.nii.gz", root / "sub-02/anat/sub-02_T1w.nii"
    )


def linked_folders(root: Path) -> None:
    for name in ("sub-01", "sub-02_ses-1", "sub-03"):
        add_pair(root, name)
    for number, place in enumerate(("sub-01", "sub-02/ses-1", "sub-03/anat")):
        store = root.parent / f"store{number}"
        (root / place).rename(store)
        (root / place).symlink_to(store)
    add_pair(root, "sub-04")
    (root / "sub-04" / "old").symlink_to("anat")


def absent_contents(root: Path) -> None:
    add_pair(root, "sub-05")
    for label in ("01", "02", "03", "04"):
        add_pair(root, f"sub-{label}")
        (root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz").unlink()
    t1w = [root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz" for label in ("01", "02")]
    t1w[0].symlink_to("../../.git/annex/objects/x")
    t1w[1].symlink_to("/data/jane/scan.nii.gz")
    (root / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(b"")
    os.mkfifo(root / "sub-04" / "anat" / "sub-04_T1w.nii.gz")


def nobody_there(root: Path) -> None:
    add_pair(root, "sub-01")
    (root / "sub-02" / "anat").mkdir(parents=True)
    (root / "sub-03").mkdir()
    (root / "sub-04").symlink_to("/data/jane/sub-04")
    (root / "sub-05").write_text("a file")
    (root / "sub-06").mkdir()
    (root / "sub-06" / "anat").symlink_to("/data/jane/anat")
    (root / "sub-07" / "ses-1" / "anat").mkdir(parents=True)


def odd_descriptions(root: Path) -> None:
    add_pair(root, "sub-01")
    (root / "dataset_description.json").write_bytes(b'{"Name": "M\xfcller"')
    (root / "participants.tsv").write_bytes(b"\x00\xff")
    (root / ".bidsignore").write_text("sub-01/\n")


TREES = [
    *(several_labels, beside_sessions, sidecars, misplaced, elsewhere, misspelt, twins),
    *(linked_folders, absent_contents, nobody_there, odd_descriptions),
]


@pytest.mark.parametrize("build", TREES, ids=lambda build: build.__name__)
def test_visits_images_and_rejections_are_the_same_with_an_index_as_without(
    build: Callable[[Path], None], tmp_path: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    root = tmp_path / "bids"
    build(root)
    expected = find_visits(root, (), ())
    assert expected[0]
    labels = participants_in(root)
    listings = [list_participant(root, label) for label in labels]
    for reasons in (["it is made"], []):
        database = Database(root, folder)
        assert [database.listing(label) for label in labels] == listings
        assert find_visits(root, (), (), database=database) == expected
        assert made() == reasons


@pytest.mark.parametrize(
    "above", ["sub-02/ses-1", "derivatives", ".cache", "code", "a[b]", "a?b", "a#b", "a%20b", "ä"]
)
def test_the_folders_above_the_dataset_do_not_matter(
    above: str, tmp_path: Path, folder: Path
) -> None:
    root = tmp_path / above / "bids"
    for name in ("sub-01", "sub-02_ses-1"):
        add_pair(root, name)
    assert visits(find(root, folder)) == ["sub-01", "sub-02_ses-1"]


@pytest.mark.parametrize("name", ["a b", "a[b]", "a#b", "ä", ".index"])
def test_the_name_of_the_folder_does_not_matter(name: str, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / name / "below"
    for _ in range(2):
        assert find(root, folder) == find_visits(root, (), ())
    assert names(folder) == [FILE_NAME]
    assert set(names(tmp_path)) == {"bids", name}


def test_a_dataset_that_is_reached_through_a_link_has_the_same_index(
    root: Path, folder: Path, tmp_path: Path, made: Callable[[], list[str]]
) -> None:
    (tmp_path / "link").symlink_to(root)
    assert find(root, folder) == find(tmp_path / "link", folder)
    assert made() == ["it is made"]


# Of pybids


def test_an_index_is_one_of_pybids(root: Path, folder: Path) -> None:
    find(root, folder)
    layout = BIDSLayout(root, validate=False, database_path=folder)
    images = layout.get(subject="01", session="2", suffix="FLAIR", extension=".nii.gz")
    assert [image.filename for image in images] == ["sub-01_ses-2_FLAIR.nii.gz"]


def test_an_index_that_another_app_made_is_used(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    BIDSLayout(root, validate=False, database_path=folder)
    assert find(root, folder) == find_visits(root, (), ())
    assert made() == []


def test_other_folders_of_the_dataset_are_not_indexed(root: Path, folder: Path) -> None:
    for place in ("derivatives", "sourcedata", "code", "stimuli", "models", "phenotype", ".git"):
        add(root, place, "sub-01", "anat", "sub-01_FLAIR.nii.gz")
    Database(root, folder)
    first = {Path(path).relative_to(root).parts[0] for path in known(folder)}
    assert first == {"sub-01", "sub-02"}


# When it is made


@pytest.mark.parametrize("is_there", [False, True])
def test_an_index_is_made_where_there_is_none(
    is_there: bool, root: Path, tmp_path: Path, made: Callable[[], list[str]]
) -> None:
    folder = tmp_path / "some" / "where"
    if is_there:
        folder.mkdir(parents=True)
    Database(root, folder)
    assert names(folder) == [FILE_NAME]
    assert len(known(folder)) == 6
    assert made() == ["it is made"]


def test_an_index_is_believed_as_long_as_nothing_has_changed(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    find(root, folder)
    forget(folder, "%ses-2_T1w%")
    before = (folder / FILE_NAME).read_bytes()
    ((*there, _), (skip,)) = find(root, folder)
    assert [inputs.visit for inputs in there] == [Visit("01", "1")]
    assert skip.reason.startswith("sub-01_ses-2: no usable T1w found")
    assert (folder / FILE_NAME).read_bytes() == before
    assert made() == ["it is made"]


def test_what_is_new_beside_the_participants_asked_for_does_not_matter(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    find(root, folder)
    add_pair(root, "sub-02_ses-1")
    add_pair(root, "sub-03")
    add_pair(root / "derivatives" / "app", "sub-01")
    add_pair(root / "sourcedata", "sub-01")
    (root / "participants.tsv").write_text("participant_id\n")
    os.utime(root, ns=(FAR_AWAY_NS, FAR_AWAY_NS))
    assert visits(find(root, folder, "01")) == ["sub-01_ses-1", "sub-01_ses-2"]
    assert made() == ["it is made"]
    assert visits(find(root, folder, "02")) == ["sub-02", "sub-02_ses-1"]
    assert made() == ["sub-02 was changed since"]


@pytest.mark.parametrize("place", ["dwi", "ses-1/func", "ses-2/perf"])
def test_what_is_new_in_folders_without_images_of_use_does_not_matter(
    place: str, root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    (root / "sub-01" / place).mkdir()
    find(root, folder)
    (root / "sub-01" / place / "sub-01_bold.nii.gz").write_text("")
    find(root, folder)
    assert made() == ["it is made"]


@pytest.mark.parametrize("wait_ns", [0, 1])
@pytest.mark.parametrize(
    "place", ["sub-01", "sub-01/anat", "sub-01/ses-2", "sub-01/ses-1/anat", "sub-02/anat"]
)
def test_an_index_is_made_anew_once_a_folder_of_a_participant_is_not_older(
    place: str, wait_ns: int, root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    (root / "sub-01" / "anat").mkdir()
    Database(root, folder)
    forget(folder, f"%/{Path(place).parts[0]}/%T1w%")
    made()
    time_ns = (folder / FILE_NAME).stat().st_mtime_ns + wait_ns
    os.utime(root / place, ns=(time_ns, time_ns))
    expected = find_visits(root, (), ())
    for reasons in ([f"{place} was changed since"], []):
        assert find(root, folder) == expected
        assert made() == reasons


@pytest.mark.parametrize("name", ["sub-01", "sub-01_ses-3", "sub-01_ses-1_acq-a", "sub-02_ses-1"])
def test_images_that_came_later_are_found(name: str, root: Path, folder: Path) -> None:
    Database(root, folder)
    add_pair(root, name)
    found = find(root, folder)
    assert found == find_visits(root, (), ())
    rejected = [one.path.name for inputs in found[0] for one in inputs.rejected]
    assert name in visits(found) or f"{name}_T1w.nii.gz" in rejected


def test_images_that_were_removed_are_not_found(root: Path, folder: Path) -> None:
    Database(root, folder)
    (root / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz").unlink()
    found = find(root, folder)
    assert found == find_visits(root, (), ())
    assert visits(found) == ["sub-01_ses-2", "sub-02"]


def test_an_index_is_made_anew_if_it_does_not_know_the_images_of_a_participant(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    Database(root, folder)
    add_pair(root, "sub-03")
    add_pair(root, "sub-04")
    for reasons in (["it is made", "it does not know the images of sub-03"], []):
        assert visits(find(root, folder, "03", "04")) == ["sub-03", "sub-04"]
        assert made() == reasons


def test_a_participant_without_images_is_no_reason_to_make_it_anew(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    Database(root, folder)
    (root / "sub-03" / "anat").mkdir(parents=True)
    (root / "sub-04").mkdir()
    (root / "sub-04" / "sub-04_scans.tsv").write_text("")
    assert find(root, folder) == find_visits(root, (), ())
    assert made() == ["it is made"]


def test_an_index_is_made_anew_once_at_most_in_a_run(
    root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    Database(root, folder)
    made()
    for label in ("01", "02"):
        os.utime(root / f"sub-{label}", ns=(FAR_AWAY_NS, FAR_AWAY_NS))
    assert find(root, folder) == find_visits(root, (), ())
    assert made() == ["sub-01 was changed since"]
    database = Database(root, folder, wipe=True)
    add_pair(root, "sub-03")
    assert find_visits(root, (), (), database=database) == find_visits(root, (), ())
    assert made() == ["it is made"]


def test_what_changes_while_an_index_is_made_counts_as_later(
    root: Path,
    folder: Path,
    made: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Path.replace

    def add_before(path: Path, target: Path) -> Path:
        # pybids has looked at all by now.
        monkeypatch.setattr(Path, "replace", real)
        add_pair(root, "sub-02_ses-1")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", add_before)
    Database(root, folder)
    assert not [path for path in known(folder) if "sub-02_ses-1" in path]
    assert visits(find(root, folder, "02")) == ["sub-02", "sub-02_ses-1"]
    assert made() == ["it is made", "sub-02 was changed since"]


@pytest.mark.parametrize("content", [None, b"", b"no index"])
def test_wiping_makes_it_in_any_case(
    content: bytes | None, root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    if content is None:
        Database(root, folder)
        forget(folder, "%")
        made()
    else:
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(content)
    assert find(root, folder, wipe=True) == find_visits(root, (), ())
    assert made() == ["it is made"]
    assert find(root, folder) == find_visits(root, (), ())
    assert made() == []


# What is refused


def test_the_index_of_another_dataset_is_refused(
    root: Path, folder: Path, tmp_path: Path, made: Callable[[], list[str]]
) -> None:
    other = tmp_path / "bids2"
    add_pair(other, "sub-01")
    Database(other, folder)
    before = (folder / FILE_NAME).read_bytes()
    with pytest.raises(UsageError) as caught:
        Database(root, folder)
    assert f"is the index of {other}, not of {root}. Name another" in str(caught.value)
    assert (folder / FILE_NAME).read_bytes() == before
    made()
    Database(root, folder, wipe=True)
    assert visits(find(root, folder)) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02"]
    assert made() == ["it is made"]


@pytest.mark.parametrize("content", [b"", b"no index", b"SQLite format 3\0" * 8])
def test_a_file_that_is_no_index_is_refused_and_kept(
    content: bytes, root: Path, folder: Path, made: Callable[[], list[str]]
) -> None:
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{FILE_NAME} is no index of pybids .*wipe"):
        Database(root, folder)
    assert (folder / FILE_NAME).read_bytes() == content
    assert made() == []


def test_the_database_of_something_else_is_refused(root: Path, folder: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        database.execute("CREATE TABLE files (path TEXT)")
        database.commit()
    with pytest.raises(UsageError, match=r"is no index of pybids \(no such table: layout_info\)"):
        Database(root, folder)
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        database.execute("CREATE TABLE layout_info (root TEXT)")
        database.commit()
    with pytest.raises(UsageError, match=f"is the index of nothing, not of {root}"):
        Database(root, folder)
    with closing(sqlite3.connect(folder / FILE_NAME)) as database:
        database.execute("INSERT INTO layout_info VALUES (?)", (str(root),))
        database.execute("DROP TABLE files")
        database.commit()
    with pytest.raises(UsageError, match=r"is no index of pybids \(no such table: files\)"):
        Database(root, folder).listing("01")


def test_a_folder_in_the_place_of_the_index_is_refused(root: Path, folder: Path) -> None:
    (folder / FILE_NAME).mkdir(parents=True)
    with pytest.raises(UsageError, match="is no index of pybids"):
        Database(root, folder)
    with pytest.raises(OutputError, match="cannot be written"):
        Database(root, folder, wipe=True)
    assert names(folder) == [FILE_NAME]


@pytest.mark.parametrize("place", [".", "derivatives", "derivatives/app/index", "sub-01"])
@pytest.mark.parametrize("wipe", [False, True])
def test_nothing_is_written_into_the_dataset(place: str, wipe: bool, root: Path) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(OutputError, match=r"lies inside BIDS_DIR.*: it is made\. Name another"):
        Database(root, root / place, wipe)
    assert sorted(root.rglob("*")) == before


def test_a_folder_beside_the_dataset_with_a_name_like_it_is_not_inside(root: Path) -> None:
    folder = root.with_name("bids-index")
    assert find(root, folder) == find_visits(root, (), ())
    assert names(folder) == [FILE_NAME]


def test_an_index_in_the_dataset_is_used_until_it_is_too_old(root: Path, folder: Path) -> None:
    Database(root, folder)
    inside = root / "derivatives" / "index"
    inside.parent.mkdir()
    folder.rename(inside)
    before = (inside / FILE_NAME).read_bytes()
    assert find(root, inside) == find_visits(root, (), ())
    add_pair(root, "sub-02_ses-1")
    with pytest.raises(OutputError, match=r"inside BIDS_DIR.*: sub-02 was changed since\."):
        find(root, inside)
    assert (inside / FILE_NAME).read_bytes() == before
    assert names(inside) == [FILE_NAME]


@pytest.mark.parametrize("below", ["", "index"])
def test_a_file_in_the_place_of_the_folder_is_told(below: str, root: Path, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("kept")
    with pytest.raises(OutputError, match=r"--bids-database-dir .*file.* cannot be written \("):
        Database(root, place / below)
    assert place.read_text() == "kept"


def test_a_folder_without_the_right_to_write_is_told_once_something_is_to_be_written(
    root: Path, folder: Path
) -> None:
    Database(root, folder)
    folder.chmod(0o500)
    with bound_by_modes():
        assert find(root, folder) == find_visits(root, (), ())
        add_pair(root, "sub-03")
        with pytest.raises(OutputError, match=r"index cannot be written \(Permission denied\)"):
            find(root, folder)
        (folder.parent / "new").mkdir(0o500)
        with pytest.raises(OutputError, match=r"new cannot be written \(Permission denied\)"):
            Database(root, folder.parent / "new")
    folder.chmod(0o700)
    assert names(folder) == [FILE_NAME]


@pytest.mark.parametrize("place", ["sub-01/ses-1", "sub-02/anat", "sub-02/dwi"])
def test_a_closed_folder_of_the_dataset_is_told_and_no_fault_of_the_index(
    place: str, root: Path, folder: Path
) -> None:
    closed = root / place
    closed.mkdir(exist_ok=True)
    closed.chmod(0)
    with bound_by_modes(), pytest.raises(DataError) as caught:
        Database(root, folder)
    closed.chmod(0o700)
    assert f"pybids makes no index, for {closed}" in str(caught.value)
    assert "cannot be looked into (Permission denied). Change its rights" in str(caught.value)
    assert names(folder) == []


def test_a_name_that_is_no_utf_8_is_told(root: Path, folder: Path) -> None:
    name = os.fsdecode(b"sub-02_acq-\xe4_T1w.nii.gz")
    (root / "sub-02" / "anat" / name).write_text("")
    with pytest.raises(DataError) as caught:
        Database(root, folder)
    assert r"sub-02_acq-\udce4_T1w.nii.gz', which is no UTF-8. Rename it" in str(caught.value)
    # Whatever the terminal can show.
    str(caught.value).encode()
    assert names(folder) == []


def test_a_participant_that_is_no_utf_8_and_came_later_is_told(root: Path, folder: Path) -> None:
    Database(root, folder)
    (root / os.fsdecode(b"sub-\xe4")).mkdir()
    with pytest.raises(DataError, match="which is no UTF-8"):
        find(root, folder)


def test_a_configuration_that_pybids_cannot_read_is_told(root: Path, folder: Path) -> None:
    (root / "layout_config.json").write_text("{")
    with pytest.raises(DataError, match=r"makes no index of this dataset \(.*layout_config.json"):
        Database(root, folder)
    assert names(folder) == []


def test_an_index_that_the_database_library_cannot_write_is_told(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object, **__: object) -> None:
        message = "database or disk is full"
        raise OperationalError(message, {}, Exception(message))

    monkeypatch.setattr(database, "BIDSLayout", is_full)
    with pytest.raises(OutputError, match=r"cannot be written \(.*disk is full\)"):
        Database(root, folder)
    assert names(folder) == []


def test_a_folder_of_the_index_that_is_closed_is_told(root: Path, folder: Path) -> None:
    Database(root, folder)
    folder.chmod(0)
    with bound_by_modes(), pytest.raises(OutputError, match=r"Permission denied"):
        Database(root, folder)
    folder.chmod(0o700)


def test_a_session_that_was_moved_here_with_its_times_is_seen(root: Path, folder: Path) -> None:
    Database(root, folder)
    add_pair(root, "sub-01_ses-3")
    for path in (root / "sub-01", *(root / "sub-01").rglob("ses-3*")):
        os.utime(path, ns=(0, 0))
    assert find(root, folder) == find_visits(root, (), ())


def test_a_name_that_is_no_utf_8_does_not_matter_where_nothing_is_indexed(
    root: Path, folder: Path
) -> None:
    name = os.fsdecode(b"sub-02_acq-\xe4_T1w.nii.gz")
    add(root, "sourcedata", "sub-02", "anat", name)
    assert find(root, folder) == find_visits(root, (), ())


# At once


def test_who_reads_the_former_index_reads_it_to_its_end(root: Path, folder: Path) -> None:
    Database(root, folder)
    before = (folder / FILE_NAME).read_bytes()
    with (
        closing(sqlite3.connect(folder / FILE_NAME)) as reader,
        (folder / FILE_NAME).open("rb") as former,
    ):
        rows = reader.execute("SELECT path FROM files ORDER BY path")
        first = rows.fetchone()
        add_pair(root, "sub-03")
        assert "sub-03" in visits(find(root, folder))
        assert len([first, *rows]) == 6
        assert former.read() == before
    assert len(known(folder)) == 8


@pytest.mark.parametrize("wipe", [False, True])
def test_an_index_that_cannot_be_made_anew_leaves_the_former_one(
    wipe: bool, root: Path, folder: Path
) -> None:
    Database(root, folder)
    before, time_ns = (folder / FILE_NAME).read_bytes(), (folder / FILE_NAME).stat().st_mtime_ns
    add_pair(root, "sub-03")
    (root / "sub-03" / "anat" / os.fsdecode(b"sub-03_acq-\xe4_T1w.nii.gz")).write_text("")
    with pytest.raises(LesionXaiError):
        find(root, folder, wipe=wipe)
    assert (folder / FILE_NAME).read_bytes() == before
    assert (folder / FILE_NAME).stat().st_mtime_ns == time_ns
    assert names(folder) == [FILE_NAME]


def times_ns(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("build", TREES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("state", ["none", "current", "outdated", "to be wiped"])
def test_reading_alone_finds_the_same_and_makes_no_index(
    state: str, build: Callable[[Path], None], tmp_path: Path, folder: Path
) -> None:
    root = tmp_path / "bids"
    if state == "outdated":
        add_pair(root, "sub-09")
        Database(root, folder)
    build(root)
    expected = find_visits(root, (), ())
    if state in ("current", "to be wiped"):
        Database(root, folder)
    before = times_ns(tmp_path)
    reader = Database(root, folder, wipe=state == "to be wiped", read_only=True)
    assert find_visits(root, (), (), database=reader) == expected
    assert times_ns(tmp_path) == before


def test_reading_alone_refuses_an_index_in_the_dataset_and_what_is_none(
    root: Path, folder: Path
) -> None:
    with pytest.raises(OutputError, match="lies inside BIDS_DIR"):
        Database(root, root / "index", read_only=True)
    folder.mkdir()
    (folder / FILE_NAME).write_text("no index")
    with pytest.raises(UsageError, match="is no index of pybids"):
        Database(root, folder, read_only=True)
