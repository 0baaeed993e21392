from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nipype.pipeline.engine import Workflow

from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.workflows.preprocess import INPUTS, OUTPUTS, init_preprocess_wf
from tests.phantoms import FLAIR, T1W, brain_mask, head, moved, oblique_grid, rigid

FACTS = {
    "skull_strip_method",
    "brain_volume_mm3",
    "registration_method",
    "registration_similarity",
    *(
        f"{name}_{moment}"
        for name in ("flair", "t1w")
        for moment in ("mean", "standard_deviation")
    ),
}


def _connected(workflow: Workflow, node: str) -> set[str]:
    return {
        target
        for _, to, fields in workflow._graph.edges(data=True)
        for _, target in fields["connect"]
        if to.name == node
    }


@pytest.mark.parametrize("skull_strip", ["auto", "force", "skip"])
def test_every_input_of_every_node_is_connected(skull_strip: str) -> None:
    workflow = init_preprocess_wf(
        skull_strip=skull_strip,
        registration="force",
        brain_mask_file=Path(__file__),
        sloppy=True,
    )
    own = {"brain_mask": {"skull_strip", "derivative_file"}, "register_flair": {"registration"}}
    own |= {f"standardise_{channel}": {"sloppy"} for channel in ("t1w", "flair")}
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        if name == "inputnode":
            assert set(node.outputs.copyable_trait_names()) == set(INPUTS)
            continue
        given = own.get(name, set())
        assert _connected(workflow, name) | given == set(node.inputs.copyable_trait_names())
    assert workflow.get_node("brain_mask").inputs.skull_strip == skull_strip
    assert workflow.get_node("register_flair").inputs.registration == "force"
    assert all(workflow.get_node(f"standardise_{name}").inputs.sloppy for name in ("t1w", "flair"))
    assert _connected(workflow, "outputnode") == set(OUTPUTS)


def test_an_unknown_way_of_doing_it_is_refused() -> None:
    with pytest.raises(Exception, match="skull_strip"):
        init_preprocess_wf(skull_strip="maybe", registration="auto")
    with pytest.raises(Exception, match="registration"):
        init_preprocess_wf(skull_strip="auto", registration="maybe")


def _workflow(folder: Path) -> Workflow:
    t1w_grid = oblique_grid((1.0, 1.0, 2.0), flips=(-1, -1, 1), degrees=(0, 0, 4))
    flair_grid = oblique_grid((0.9, 0.9, 3.0), flips=(-1, 1, 1))
    folder.mkdir()
    workflow = init_preprocess_wf(skull_strip="auto", registration="auto")
    workflow.base_dir = str(folder)
    workflow.config["execution"] = {"crashdump_dir": str(folder), "stop_on_first_crash": "true"}
    inputs = workflow.get_node("inputnode").inputs
    stripped = np.where(brain_mask(t1w_grid), head(t1w_grid, T1W), 0)
    motion = moved(flair_grid, rigid((2, 4, -3), (3, -4, 2)))
    inputs.t1w_file = str(nifti.save(folder / "t1w.nii.gz", stripped, t1w_grid))
    inputs.flair_file = str(nifti.save(folder / "flair.nii.gz", head(flair_grid, FLAIR), motion))
    inputs.visit = "sub-01_ses-02"
    return workflow


@pytest.mark.ants
@pytest.mark.slow
def test_two_runs_give_the_same_images_on_one_grid(tmp_path: Path) -> None:
    for run in ("first", "second"):
        _workflow(tmp_path / run).run(plugin="Linear")
    outputs = (
        "standardise_t1w/standardised.nii.gz",
        "standardise_flair/standardised.nii.gz",
        "brain_mask/brain_mask.nii.gz",
    )
    _, grid = nifti.load(tmp_path / "first" / "preprocess_wf" / outputs[0])
    for output in outputs:
        first, second = (
            nifti.load(tmp_path / run / "preprocess_wf" / output) for run in ("first", "second")
        )
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1].affine, grid.affine)
    facts = json.loads((tmp_path / "first/preprocess_wf/write_facts/facts.json").read_text())
    assert set(facts) == FACTS
    assert facts["skull_strip_method"] == "given"


@pytest.mark.ants
def test_a_visit_that_fails_is_named(tmp_path: Path) -> None:
    workflow = _workflow(tmp_path / "run")
    flair = Path(workflow.get_node("inputnode").inputs.flair_file)
    flair.write_bytes(b"broken")
    with pytest.raises(Exception, match=r"sub-01_ses-02: flair\.nii\.gz cannot be read"):
        workflow.run(plugin="Linear")
