from taskflow_scheduler.continuity import Continuity


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def look_at(continuity: Continuity, clock: Clock, *times: float) -> list[float]:
    lasted = []
    for clock.now in times:
        lasted.append(continuity.look())
    return lasted


def test_a_series_grows_with_its_looks() -> None:
    clock = Clock()
    continuity = Continuity(5, clock)
    assert look_at(continuity, clock, 100, 101, 105, 110) == [0, 1, 5, 10]


def test_a_gap_begins_another_series() -> None:
    clock = Clock()
    continuity = Continuity(5, clock)
    assert look_at(continuity, clock, 100, 104, 109.5, 111) == [0, 4, 0, 1.5]


def test_an_end_begins_another_series() -> None:
    clock = Clock()
    continuity = Continuity(5, clock)
    look_at(continuity, clock, 100, 104)
    continuity.end()
    assert look_at(continuity, clock, 105, 106) == [0, 1]
