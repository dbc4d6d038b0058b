"""What nodes say of tasks is kept in two parts; together they are what was said."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model.alloc import TaskEvent, TaskState
from nomadpy.state.reported import Sayings, States

MOMENTS = st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    TaskEvent,
    type=st.sampled_from(["Started", "Received"]),
    time_ns=MOMENTS,
    display_message=st.sampled_from(["", "a"]),
    details=st.dictionaries(st.sampled_from("ab"), st.text(max_size=2), max_size=2),
    exit_code=st.integers(-3, 3),
)
STATES = st.dictionaries(
    st.sampled_from(["web", "db"]),
    st.builds(
        TaskState,
        state=st.sampled_from(["running", "dead"]),
        restarts=st.integers(0, 2),
        last_restart_ns=MOMENTS,
        started_at_ns=MOMENTS,
        finished_at_ns=MOMENTS,
        events=st.lists(EVENTS, max_size=4).map(tuple),
    ),
    max_size=2,
)


@given(st.lists(STATES, max_size=5))
def test_what_was_said_is_told_again(many: list[States]) -> None:
    sayings = Sayings()
    packed = [sayings.pack(states) for states in many]
    assert [each.states() if each is not None else {} for each in packed] == many
    other = Sayings()
    assert [other.share(each).states() for each in packed if each is not None] == [each for each in many if each]


def said(moment: int, message: str) -> States:
    return {"web": TaskState(state="running", started_at_ns=moment, events=(TaskEvent(type=message, time_ns=moment),))}


def test_words_are_kept_once_and_only_while_somebody_says_them() -> None:
    sayings = Sayings()
    held = [sayings.pack(said(moment, "Started")) for moment in range(100)]
    other = sayings.pack(said(1, "Killed"))
    assert len(sayings) == 2
    del other
    gc.collect()
    assert len(sayings) == 1
    assert len({id(each.saying) for each in held if each is not None}) == 1
