"""The state of a model: activation, rollback, aliases and verdicts."""

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
        state = state.with_active(version, f"because of {version}")
    return state


def test_every_change_returns_a_new_state_and_increases_the_generation():
    state = EMPTY_STATE
    changes = [
        lambda state: state.with_active("1", "first"),
        lambda state: state.with_alias("stable", "1"),
        lambda state: state.with_verdict("1", "here", ACCEPTED),
        lambda state: state.without_version("2", "default", 2),
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


def test_the_history_has_every_activation_in_order():
    state = activated("1", "3", "2")
    assert state.active == "2"
    assert [(entry.version, entry.reason) for entry in state.history] == [
        ("1", "because of 1"),
        ("3", "because of 3"),
        ("2", "because of 2"),
    ]
    assert all(entry.at.endswith("+00:00") for entry in state.history)


def test_the_previous_version_was_active_before_the_last_activation():
    assert activated("1", "2").previous("default", STORED) == "1"
    assert activated("1", "2", "1").previous("default", STORED) == "2"


def test_repeated_activation_keeps_the_rollback_target():
    assert activated("1", "2", "2").previous("default", STORED) == "1"
    assert "1" in activated("1", "2", "2").retained(STORED)


@pytest.mark.parametrize("versions", [(), ("1",)])
def test_previous_raises_without_a_former_version(versions):
    with pytest.raises(NothingToRollBackTo, match='"homes"'):
        activated(*versions).previous("homes", STORED)


def test_an_alias_can_move_to_another_version():
    state = EMPTY_STATE.with_alias("stable", "1").with_alias("next", "2").with_alias("stable", "2")
    assert state.aliases == {"stable": "2", "next": "2"}


def test_a_served_version_cannot_be_removed():
    state = activated("1", "2").with_alias("stable", "3")
    for version in ("2", "3"):
        with pytest.raises(VersionInUse, match="active or has an alias"):
            state.without_version(version, "default", 3)
    assert state.without_version("1", "default", 3).highest == 3


def test_removing_a_version_removes_its_verdicts_and_uses_up_its_number():
    state = activated("1").with_verdict("5", "here", ACCEPTED).with_verdict("4", "here", REJECTED)
    state = state.without_version("5", "default", 5).without_version("4", "default", 4)
    assert state.highest == 5 and state.verdicts == {}


def test_verdicts_are_stored_by_version_and_environment():
    state = EMPTY_STATE.with_verdict("1", "here", ACCEPTED).with_verdict("1", "there", REJECTED)
    state = state.with_verdict("2", "here", REJECTED)
    assert state.verdict("1", "here") == ACCEPTED and state.verdict("1", "there") == REJECTED
    assert state.verdict("1", "nowhere") is None and state.verdict("3", "here") is None
    assert state.with_verdict("1", "there", ACCEPTED).verdict("1", "there") == ACCEPTED


def test_active_and_aliased_versions_are_served():
    assert EMPTY_STATE.served() == EMPTY_STATE.retained(STORED) == set()
    state = activated("1", "2", "3").with_alias("stable", "7")
    assert state.served() == {"3", "7"} and state.retained(STORED) == {"3", "7", "2"}


def test_a_state_round_trips_through_json():
    state = activated("1", "2").with_alias("stable", "1")
    state = state.with_verdict("1", "here", REJECTED).with_verdict("2", "here", ACCEPTED)
    assert ModelState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("change", [{"format": 2}, {"generation": "x"}, {"active": 1}, {"more": 1}])
def test_an_invalid_document_is_rejected(change):
    with pytest.raises(ValidationError):
        ModelState.model_validate({**EMPTY_STATE.model_dump(), **change})


def test_a_state_is_immutable():
    with pytest.raises(ValidationError):
        EMPTY_STATE.active = "1"
