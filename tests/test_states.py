import re
from pathlib import Path

from tunery.states import TRANSITIONS, JobState


def test_every_state_has_its_row_and_the_ends_are_final() -> None:
    assert set(TRANSITIONS) == set(JobState)
    ends = {state for state in JobState if state.terminal}
    assert ends == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


def test_every_state_can_be_reached_and_left_for_an_end() -> None:
    reached, frontier = set[JobState](), {JobState.VALIDATING_FILES}
    while frontier:
        reached |= frontier
        frontier = {to for state in frontier for to in TRANSITIONS[state]} - reached
    assert reached == set(JobState)
    for state in JobState:
        assert state.terminal or any(to.terminal for to in TRANSITIONS[state])


def test_the_documents_draw_and_list_these_very_transitions() -> None:
    moves = [(state.value, to.value) for state in JobState for to in TRANSITIONS[state]]
    docs = Path(__file__).parents[1] / "docs"
    picture = (docs / "images" / "states.svg").read_text()
    assert sorted(re.findall(r'id="(\w+)-(\w+)"', picture)) == sorted(moves)
    listed, state, table = [], "", (docs / "api.md").read_text()
    for first, to in re.findall(r"^\| (.*?) ?\| `(\w+)` \|", table, re.MULTILINE):
        state = first.strip("`") or state
        listed.append((state, to))
    assert sorted(listed) == sorted(moves)
