"""Reports for tests."""

from taskflow_bench.report import GeneratorCost, Machine, Phase, Report, Turn, Used
from taskflow_testing.versions import Versions


def phase(per_second: float, generator_cores: float = 0.1) -> Phase:
    """Of two seconds."""
    used = Used(seconds=2.5, cpu_seconds={"api": 1.0, "worker": 0.5, "postgres": 0.75})
    return Phase(
        jobs=round(per_second * 2), seconds=2.0, used=used, generator_cores=generator_cores
    )


def turn(contestant: str, round_: int, per_second: float, generator_cores: float = 0.1) -> Turn:
    """One whose rates are `per_second`, twice and half of it."""
    return Turn(
        contestant=contestant,
        round=round_,
        accepted=phase(per_second, generator_cores),
        drained=phase(per_second * 2),
        both=phase(per_second / 2),
        latency=phase(100),
        post_to_completed_ms=[float(each) for each in range(1, 101)],
        memory_mib={"api": 60.0, "worker": 40.0, "scheduler": 30.0},
        peak_memory_mib={"api": 70.0, "worker": 50.0},
    )


def report(*turns: Turn) -> Report:
    """A run with these turns."""
    return Report(
        date="2031-05-06",
        rounds=max(each.round for each in turns),
        jobs=20_000,
        seconds=15.0,
        machine=Machine(
            processor="A processor",
            memory_gib=24.0,
            kernel="6.1",
            versions=Versions(postgresql="18.1", rabbitmq="4.0", python="3.13.0", cores=2),
            packages={"celery": "5.7"},
        ),
        generator=GeneratorCost(requests_per_second=9_876.0, cpu_ms_per_request=0.05),
        turns=list(turns),
    )
