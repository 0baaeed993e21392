# SPDX-License-Identifier: Apache-2.0
"""Which files of other datasets belong to which visit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.bids.companions import (
    BRAIN_MASK,
    LESION_MASK,
    TISSUE_MAP,
    Companion,
    Kind,
    Source,
    find_companions,
    is_manual,
    require_any,
)
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source("--existing-lesion-mask", tmp_path / "masks", "drawn")


def add_all(source: Source, *names: str) -> list[Path]:
    """Put a file with a content at the place of each name."""
    paths = []
    for name in names:
        visit = [pair for pair in name.split("_") if pair.startswith(("sub-", "ses-"))]
        path = source.root.joinpath(*visit, "anat", f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        paths.append(path)
    return paths


def images_of(*visits: Visit, entities: str = "") -> dict[Visit, tuple[Path, Path]]:
    """Return FLAIR and T1w of visits, whose names have some more entities."""
    return {
        one: (Path(f"{one.name}{entities}_FLAIR.nii.gz"), Path(f"{one.name}{entities}_T1w.nii.gz"))
        for one in visits
    }


def find(source: Source, *visits: Visit, kind: Kind = LESION_MASK) -> dict[Visit, Companion]:
    return find_companions(source, images_of(*visits), kind)[0]


def names(found: dict[Visit, Companion]) -> dict[Visit, str]:
    return {visit: one.path.name.removesuffix(".nii.gz") for visit, one in found.items()}


def test_the_mask_of_a_visit_is_that_of_its_own_session(source: Source) -> None:
    add_all(source, "sub-01_ses-A_label-lesion_mask", "sub-01_label-L_mask", "sub-02_label-L_mask")
    visits = [Visit("01"), Visit("01", "A"), Visit("01", "B"), Visit("02"), Visit("03")]
    found, missing = find_companions(source, images_of(*visits), LESION_MASK)
    assert names(found) == {
        Visit("01"): "sub-01_label-L_mask",
        Visit("01", "A"): "sub-01_ses-A_label-lesion_mask",
        Visit("02"): "sub-02_label-L_mask",
    }
    assert found[Visit("02")].uri == "bids:drawn:sub-02/anat/sub-02_label-L_mask.nii.gz"
    assert set(missing) == {Visit("01", "B"), Visit("03")}
    assert str(missing[Visit("03")]) == (
        f"no label-lesion_mask or label-L_mask of sub-03 in --existing-lesion-mask {source.root}"
    )


def test_masks_in_t1w_space_are_preferred_and_the_others_are_named(source: Source) -> None:
    paths = add_all(source, "sub-01_space-FLAIR_label-L_mask", "sub-01_space-T1w_label-L_mask")
    (mask,) = find(source, Visit("01")).values()
    assert (mask.space, mask.path) == ("T1w", paths[1])
    assert mask.others == (paths[0].name,)
    paths[1].unlink()
    (mask,) = find(source, Visit("01")).values()
    assert mask.space == "FLAIR"


def test_the_plainer_name_is_preferred(source: Source) -> None:
    manual, plain = add_all(source, "sub-01_desc-aaa_label-L_mask", "sub-01_label-L_mask")
    (mask,) = find(source, Visit("01")).values()
    assert (mask.path, mask.others) == (plain, (manual.name,))


def test_a_mask_in_another_space_is_taken_only_on_the_grid_of_an_image_and_last(
    source: Source, tmp_path: Path
) -> None:
    images = (tmp_path / "sub-01_acq-2D_FLAIR.nii.gz", tmp_path / "sub-01_acq-3D_T1w.nii.gz")
    grids = [Grid((9, 8, 7), np.diag([1.0, 2.0, 3.0, 1.0])), Grid((9, 8, 7), np.eye(4))]
    for path, grid in zip(images, grids, strict=True):
        nifti.save(path, np.zeros(grid.shape, np.float32), grid)
    (elsewhere,) = add_all(source, "sub-01_acq-3D_space-MNI152_label-L_mask")
    visits = {Visit("01"): images}
    for other in (np.diag([1.0, 1.0, 1.1, 1.0]), None):
        if other is not None:
            nifti.save(elsewhere, np.zeros((9, 8, 7), np.uint8), Grid((9, 8, 7), other))
        else:
            elsewhere.write_text("no image")
        found, missing = find_companions(source, visits, LESION_MASK)
        assert found == {}
        (why,) = missing.values()
        assert why.refused[0].startswith(f"{elsewhere.name} (")
        assert ("on the grid of no image" in why.refused[0]) == (other is not None)
    for grid in grids:
        nifti.save(elsewhere, np.zeros(grid.shape, np.uint8), grid)
        (mask,) = find_companions(source, visits, LESION_MASK)[0].values()
        assert (mask.path, mask.space) == (elsewhere, "MNI152")
    (plain,) = add_all(source, "sub-01_space-FLAIR_label-L_mask")
    (mask,) = find_companions(source, visits, LESION_MASK)[0].values()
    assert (mask.path, mask.others) == (plain, (elsewhere.name,))


def test_a_folder_that_is_not_there_is_told(source: Source) -> None:
    source.root.mkdir()
    (source.root / "sub-01").symlink_to("/nowhere/sub-01")
    (source.root / "sub-03").mkdir()
    (source.root / "sub-03" / "ses-2").symlink_to("/nowhere/ses-2")
    visits = [Visit("01"), Visit("02"), Visit("03", "1"), Visit("03", "2")]
    _, missing = find_companions(source, images_of(*visits), LESION_MASK)
    assert "sub-01 (a link to sub-01, which is not there" in str(missing[visits[0]])
    assert [len(missing[visit].closed) for visit in visits] == [1, 0, 0, 1]


def test_a_file_whose_content_is_not_here_is_named_and_another_is_taken(source: Source) -> None:
    first, second = add_all(source, "sub-01_label-L_mask", "sub-01_space-FLAIR_label-L_mask")
    first.unlink()
    first.symlink_to("../../.git/annex/objects/x.nii.gz")
    (mask,) = find(source, Visit("01")).values()
    assert mask.path == second
    (other,) = mask.others
    assert "datalad get sub-01/anat/sub-01_label-L_mask.nii.gz" in other
    second.write_text("")
    found, missing = find_companions(source, images_of(Visit("01")), LESION_MASK)
    assert found == {}
    assert "datalad get" in str(missing[Visit("01")])
    assert "(empty file; copy it anew)" in str(missing[Visit("01")])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LESION_MASK, "sub-01_space-T1w_label-L_mask"),
        (BRAIN_MASK, "sub-01_desc-brain_mask"),
        (TISSUE_MAP, "sub-01_desc-aparcaseg_dseg"),
    ],
    ids=["lesions", "brain", "tissues"],
)
def test_only_files_of_a_kind_belong_to_it(kind: Kind, name: str, source: Source) -> None:
    add_all(
        source,
        *("sub-01_label-WM_mask", "sub-01_label-L_probseg", "sub-01_dseg", name),
        *("sub-01_space-MNI152NLin2009cAsym_desc-brain_mask", "sub-01_desc-brain_T1w"),
        *("sub-01_space-MNI152_desc-aseg_dseg", "sub-01_space-FLAIR_desc-brain_mask"),
    )
    assert names(find(source, Visit("01"), kind=kind)) == {Visit("01"): name}


@pytest.mark.parametrize("datatype", ["func", "dwi"])
def test_what_is_no_anatomy_is_not_taken(datatype: str, source: Source) -> None:
    (path,) = add_all(source, "sub-01_space-T1w_desc-brain_mask")
    other = path.parents[1] / datatype / "sub-01_desc-brain_mask.nii.gz"
    other.parent.mkdir()
    other.write_text("other")
    assert names(find(source, Visit("01"), kind=BRAIN_MASK)) == {
        Visit("01"): "sub-01_space-T1w_desc-brain_mask"
    }
    path.unlink()
    assert find(source, Visit("01"), kind=BRAIN_MASK) == {}


def test_a_dataset_without_any_is_refused(source: Source) -> None:
    with pytest.raises(NotFoundError, match=r"--existing-lesion-mask .* \(No such file or dir"):
        find(source, Visit("01"))
    source.root.write_text("")
    with pytest.raises(NotFoundError, match=r"--existing-lesion-mask .* is not a folder"):
        find(source, Visit("01"))
    source.root.unlink()
    source.root.mkdir()
    message = "--existing-lesion-mask .*: no label-lesion_mask or label-L_mask belongs to any"
    with pytest.raises(DataError, match=message):
        require_any(
            *find_companions(source, images_of(Visit("01")), LESION_MASK), source, LESION_MASK
        )


def test_a_dataset_that_has_masks_of_others_will_do_where_nobody_needs_one(source: Source) -> None:
    add_all(source, "sub-02_ses-1_space-MNI152_label-L_mask", "sub-02_ses-1_desc-brain_T1w")
    nobody = find_companions(source, images_of(Visit("01")), LESION_MASK)
    require_any(*nobody, source, LESION_MASK, of_anybody=True)
    with pytest.raises(DataError, match="belongs to any"):
        require_any(*nobody, source, LESION_MASK)
    with pytest.raises(DataError, match="belongs to any"):
        require_any(*nobody, source, BRAIN_MASK, of_anybody=True)


def test_masks_of_another_session_or_space_are_named_where_there_is_none(source: Source) -> None:
    add_all(source, "sub-01_ses-1_label-L_mask", "sub-01_space-FLAIR_desc-brain_mask")
    _, missing = find_companions(source, images_of(Visit("01", "2")), LESION_MASK)
    assert str(missing[Visit("01", "2")]).endswith(
        "; of another session or space: sub-01_ses-1_label-L_mask.nii.gz"
    )
    _, missing = find_companions(source, images_of(Visit("01")), BRAIN_MASK)
    assert str(missing[Visit("01")]).endswith("sub-01_space-FLAIR_desc-brain_mask.nii.gz")


@pytest.mark.parametrize("kind", [LESION_MASK, BRAIN_MASK], ids=["lesions", "brain"])
@pytest.mark.parametrize("own", ["run-2", "run-02", "acq-3D", "acq-3D_run-2"])
def test_files_of_another_run_or_acquisition_are_not_taken(
    own: str, kind: Kind, source: Source
) -> None:
    end = "label-L_mask" if kind is LESION_MASK else "desc-brain_mask"
    other = own.replace("3D", "2D").replace("2", "1")
    (wrong,) = add_all(source, f"sub-01_{other}_{end}")
    images = images_of(Visit("01"), entities=f"_{own}")
    found, missing = find_companions(source, images, kind)
    assert found == {}
    (words,) = missing.values()
    assert f"{wrong.name} (of another image by its " in str(words)
    (right,) = add_all(source, f"sub-01_{own}_{end}")
    (mask,) = find_companions(source, images, kind)[0].values()
    assert mask.path == right
    assert mask.others[0].startswith(wrong.name)


def test_a_mask_that_says_less_than_its_image_is_taken_after_one_that_says_as_much(
    source: Source,
) -> None:
    (plain,) = add_all(source, "sub-01_label-L_mask")
    images = images_of(Visit("01"), entities="_acq-3D_run-2")
    (mask,) = find_companions(source, images, LESION_MASK)[0].values()
    assert mask.path == plain
    (own,) = add_all(source, "sub-01_run-2_space-FLAIR_label-L_mask")
    (mask,) = find_companions(source, images, LESION_MASK)[0].values()
    assert (mask.path, mask.others) == (own, (plain.name,))


@pytest.mark.parametrize(
    ("kind", "is_taken"), [(LESION_MASK, True), (BRAIN_MASK, False)], ids=["lesions", "brain"]
)
def test_a_lesion_mask_is_of_either_image_and_a_brain_mask_of_t1w(
    kind: Kind, is_taken: bool, source: Source
) -> None:
    add_all(source, "sub-01_acq-flair_label-L_mask", "sub-01_acq-flair_desc-brain_mask")
    names = ("sub-01_acq-flair_FLAIR.nii.gz", "sub-01_acq-mprage_T1w.nii.gz")
    images = {Visit("01"): (Path(names[0]), Path(names[1]))}
    assert bool(find_companions(source, images, kind)[0]) is is_taken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"Manual": true}', True),
        ('{"Manual": false}', False),
        *((text, None) for text in ('{"Manual": "yes"}', "{}", "[1]", "{", None)),
    ],
)
def test_who_drew_a_mask_is_told_by_its_sidecar_alone(
    text: str | None, expected: bool | None, source: Source
) -> None:
    (path,) = add_all(source, "sub-01_label-L_mask")
    if text is not None:
        path.with_name("sub-01_label-L_mask.json").write_text(text)
    assert is_manual(path) is expected
