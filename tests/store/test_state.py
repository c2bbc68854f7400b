"""What changes about a model, and how."""

import pytest
from pydantic import ValidationError

from flaskml.errors import NothingToRollBackTo, VersionInUse
from flaskml.store.state import EMPTY_STATE, ModelState, TrialVerdict, utc_now

STORED = [str(number) for number in range(1, 10)]

ACCEPTED = TrialVerdict(accepted=True, reason="32 golden rows answered as in training.", at=utc_now())
REJECTED = TrialVerdict(accepted=False, reason="no", at=utc_now(), row=3, expected="yes", answered="no")


def activated(*versions):
    state = EMPTY_STATE
    for version in versions:
        state = state.activate(version, f"because of {version}")
    return state


def test_every_change_counts_and_leaves_what_it_changed_alone():
    state = EMPTY_STATE
    changes = [
        lambda state: state.activate("1", "first"),
        lambda state: state.alias("stable", "1"),
        lambda state: state.judge("1", "here", ACCEPTED),
        lambda state: state.forget("2", "default", 2),
    ]
    for number, change in enumerate(changes, start=1):
        before = state.model_copy(deep=True)
        after = change(state)
        assert state == before and after.generation == number
        state = after
    assert (
        ModelState(format=1, generation=0, revision="", highest=0, active=None, history=(), aliases={}, verdicts={})
        == EMPTY_STATE
    )


def test_activations_are_remembered_in_order_with_time_and_reason():
    state = activated("1", "3", "2")
    assert state.active == "2"
    assert [(entry.version, entry.reason) for entry in state.history] == [
        ("1", "because of 1"),
        ("3", "because of 3"),
        ("2", "because of 2"),
    ]
    assert all(entry.at.endswith("+00:00") for entry in state.history)


def test_the_previous_version_is_the_one_before_the_last_activation():
    assert activated("1", "2").previous("default", STORED) == "1"
    assert activated("1", "2", "1").previous("default", STORED) == "2"


def test_activating_the_active_version_again_loses_no_way_back():
    assert activated("1", "2", "2").previous("default", STORED) == "1"
    assert "1" in activated("1", "2", "2").kept(STORED)


@pytest.mark.parametrize("versions", [(), ("1",)])
def test_nothing_to_roll_back_to(versions):
    with pytest.raises(NothingToRollBackTo, match='"homes"'):
        activated(*versions).previous("homes", STORED)


def test_an_alias_moves():
    state = EMPTY_STATE.alias("stable", "1").alias("next", "2").alias("stable", "2")
    assert state.aliases == {"stable": "2", "next": "2"}


def test_what_serves_is_not_forgotten():
    state = activated("1", "2").alias("stable", "3")
    for version in ("2", "3"):
        with pytest.raises(VersionInUse, match="active or has an alias"):
            state.forget(version, "default", 3)
    assert state.forget("1", "default", 3).highest == 3


def test_forgetting_takes_the_verdicts_along_and_no_number_back():
    state = activated("1").judge("5", "here", ACCEPTED).judge("4", "here", REJECTED)
    state = state.forget("5", "default", 5).forget("4", "default", 4)
    assert state.highest == 5 and state.verdicts == {}


def test_verdicts_are_kept_by_version_and_environment():
    state = EMPTY_STATE.judge("1", "here", ACCEPTED).judge("1", "there", REJECTED).judge("2", "here", REJECTED)
    assert state.verdict("1", "here") == ACCEPTED and state.verdict("1", "there") == REJECTED
    assert state.verdict("1", "nowhere") is None and state.verdict("3", "here") is None
    assert state.judge("1", "there", ACCEPTED).verdict("1", "there") == ACCEPTED


def test_what_is_served_and_what_is_kept():
    assert EMPTY_STATE.served() == EMPTY_STATE.kept(STORED) == set()
    state = activated("1", "2", "3").alias("stable", "7")
    assert state.served() == {"3", "7"} and state.kept(STORED) == {"3", "7", "2"}


def test_a_state_survives_its_document():
    state = activated("1", "2").alias("stable", "1").judge("1", "here", REJECTED).judge("2", "here", ACCEPTED)
    assert ModelState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("change", [{"format": 2}, {"generation": "x"}, {"active": 1}, {"more": 1}])
def test_a_document_that_is_not_ours(change):
    with pytest.raises(ValidationError):
        ModelState.model_validate({**EMPTY_STATE.model_dump(), **change})


def test_a_state_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        EMPTY_STATE.active = "1"
