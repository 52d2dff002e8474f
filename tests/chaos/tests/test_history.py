import pytest

from taskflow_chaos.history import NOTICE_SECONDS, lived_on


@pytest.mark.parametrize(
    ("died", "lived"),
    [
        (None, True),
        (100.0 - 1.0, False),
        (100.0 + NOTICE_SECONDS / 2, False),
        (100.0 + NOTICE_SECONDS * 2, True),
    ],
)
def test_an_attempt_was_taken_from_the_living_if_its_worker_was_seen_dead_much_later(
    died: float | None, lived: bool
) -> None:
    assert lived_on(100.0, died) is lived
