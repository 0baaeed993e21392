# SPDX-License-Identifier: Apache-2.0
"""Changes of matched lesions between sessions."""

from __future__ import annotations

import pandas as pd
import pytest

from bids_lesion_xai.group.trends import changes

COLUMNS = ["participant_id", "session_id", "match", "volume_mm3", "flair_share"]
LESIONS = pd.DataFrame(
    [
        ("sub-1", "ses-a", 1, 8.0, 0.5),
        ("sub-1", "ses-a", 2, 8.0, 0.5),
        ("sub-1", "ses-a", 3, 99.0, 0.9),  # vanishes
        ("sub-1", "ses-b", 1, 1.0, 0.0),  # in the middle
        ("sub-1", "ses-c", 1, 16.0, 0.6),
        ("sub-1", "ses-c", 2, 32.0, 0.8),
        ("sub-1", "ses-c", None, 77.0, 0.1),  # new
        ("sub-2", "ses-a", 1, 5.0, 0.5),  # one session
        ("sub-3", "ses-a", 1, 5.0, 0.5),  # nothing in common
        ("sub-3", "ses-b", 2, 5.0, 0.5),
    ],
    columns=COLUMNS,
)


def renamed(**names: str) -> pd.DataFrame:
    """Return the lesions with other names of the sessions a, b and c."""
    sessions = {f"ses-{before}": f"ses-{after}" for before, after in names.items()}
    return LESIONS.assign(session_id=LESIONS["session_id"].map(sessions))


def test_the_last_session_is_that_of_the_largest_number() -> None:
    months = changes(renamed(a="M0", b="M6", c="M12"))
    assert months["last_session"].tolist() == ["ses-M12", "ses-M6"]
    numbers = [name for name in months if not name.endswith("_session")]
    pd.testing.assert_frame_equal(months[numbers], changes(LESIONS)[numbers])


def test_the_change_is_that_of_lesions_in_the_first_and_the_last_session() -> None:
    row, _ = changes(LESIONS).to_dict("records")
    sessions = {"first_session": "ses-a", "last_session": "ses-c"}
    assert row | {"participant_id": "sub-1", "n_lesions": 2} | sessions == row
    assert row["flair_share"] == pytest.approx(0.2)
    assert row["volume_doublings"] == pytest.approx(1.5)


def test_people_whose_first_and_last_session_share_no_lesion_have_a_row_without_change() -> None:
    _, row = changes(LESIONS).to_dict("records")
    assert (row["participant_id"], row["n_lesions"]) == ("sub-3", 0)
    assert pd.isna([row["flair_share"], row["volume_doublings"]]).all()


def test_people_of_whom_no_lesion_has_a_match_were_not_followed() -> None:
    lost = LESIONS["match"].mask(LESIONS["participant_id"] == "sub-1")
    healed = [("sub-4", "ses-a"), ("sub-4", "ses-b")]
    columns = ["participant_id", "session_id"]
    visits = pd.concat([LESIONS[columns], pd.DataFrame(healed, columns=columns)])
    found = changes(LESIONS.assign(match=lost), visits).set_index("participant_id")
    assert found["followed"].to_dict() == {"sub-1": False, "sub-3": True, "sub-4": True}
    assert found["n_lesions"].eq(0).all()


def test_a_last_session_without_lesions_is_the_last() -> None:
    healed = [("sub-1", "ses-d"), ("sub-2", "ses-b"), ("sub-4", "ses-a"), ("sub-4", "ses-b")]
    columns = ["participant_id", "session_id"]
    visits = pd.concat([LESIONS[columns].drop_duplicates(), pd.DataFrame(healed, columns=columns)])
    found = changes(LESIONS, visits)
    assert found["participant_id"].tolist() == ["sub-1", "sub-2", "sub-3", "sub-4"]
    assert found["last_session"].tolist() == ["ses-d", "ses-b", "ses-b", "ses-b"]
    assert found["n_lesions"].eq(0).all()
    assert found[["flair_share", "volume_doublings"]].isna().all(axis=None)


def test_a_session_in_the_middle_without_lesions_changes_nothing() -> None:
    between = pd.DataFrame([("sub-1", "ses-b2")], columns=["participant_id", "session_id"])
    pd.testing.assert_frame_equal(
        changes(LESIONS, pd.concat([LESIONS, between])), changes(LESIONS)
    )


def test_a_peak_that_turns_its_sign_alone_has_not_changed() -> None:
    peaks = [0.5, -0.5, 0.9, 0.1, -0.5, 0.5, 0.3, 0.2, 0.2, 0.2]
    row, _ = changes(LESIONS.assign(flair_peak=peaks)).to_dict("records")
    assert row["flair_peak"] == 0
    row, _ = changes(LESIONS.assign(flair_peak=[2 * peaks[0], *peaks[1:]])).to_dict("records")
    assert row["flair_peak"] == pytest.approx(-0.25)


def test_sessions_in_reverse_order_reverse_the_sign() -> None:
    forward, back = changes(LESIONS), changes(renamed(a="c", b="b", c="a"))
    for name in ("flair_share", "volume_doublings"):
        assert back[name].tolist() == pytest.approx((-forward[name]).tolist(), nan_ok=True)


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = LESIONS.sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(changes(shuffled), changes(LESIONS), check_dtype=False)


def test_no_lesion_is_no_change() -> None:
    assert list(changes(LESIONS.iloc[:0])) == list(changes(LESIONS))


def test_a_match_twice_in_a_session_is_refused() -> None:
    twice = LESIONS.assign(match=1)
    with pytest.raises(ValueError, match="sub-1 ses-a: two lesions have the same match"):
        changes(twice)
