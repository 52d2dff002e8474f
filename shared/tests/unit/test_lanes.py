import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.sampled_from(Priority))
def test_a_key_is_read_back(queue: str, priority: Priority) -> None:
    lane = Lane(queue, priority)
    assert Lane.parse(lane.key) == lane


@pytest.mark.parametrize("key", ["", "default", ".high", "default.", "default.soon"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not"):
        Lane.parse(key)
