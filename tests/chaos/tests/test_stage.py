from pathlib import Path

import pytest

from taskflow_chaos.client import Client
from taskflow_chaos.cluster import Cluster, Layout
from taskflow_chaos.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """One of which nothing is started."""
    cluster = Cluster(tmp_path, Layout(), checkout=tmp_path)
    client = Client([], cluster.api_key)
    return Stage(cluster, client, [], seed=1, say=lambda _: None)


@pytest.mark.parametrize(
    ("seconds", "complaints"),
    [([], ["nothing to measure"]), ([1.0, 2.0], []), ([1.0, 2.1], ["1 of 2 took longer than 2 s"])],
)
def test_recoveries_are_held_to_their_limit_and_there_must_be_some(
    stage: Stage, seconds: list[float], complaints: list[str]
) -> None:
    stage.recovered(seconds, "from here to there", limit=2.0)
    assert stage.recoveries == seconds
    assert len(stage.failures) == len(complaints)
    assert all(map(str.__contains__, stage.failures, complaints))
