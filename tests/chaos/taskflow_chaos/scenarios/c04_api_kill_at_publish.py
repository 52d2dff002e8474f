"""C4: the APIs die between their commit and the broker's confirm, on either side of the publish.

The moments are held open from outside, by a proxy between the APIs and RabbitMQ. In the one it
passes nothing on: the 202s are out, the pointers never reach the broker. In the other it keeps the
answers: the broker has the pointers, the APIs never hear of it. Both APIs die then, and what the
proxy held back dies with their connections.

At its full size it takes longer than the other scenarios: 500 kills are 500 starts of an API, and
each takes a core for more than two seconds.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import httpx

from taskflow_chaos import history
from taskflow_chaos.client import Accepted
from taskflow_chaos.cluster import Layout
from taskflow_chaos.effects import read_effects
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Duration, Mix, PlannedJob

JOBS_PER_ROUND = 8
JOBS_IN_WINDOW = 2
"""One for each API: a second one of the same would wait for the confirm of the first."""
BURST_PER_SECOND = 200.0
READY_SECONDS = 60.0
REACHED_SECONDS = 8.0
"""Below the 10 s after which an API gives up a confirm."""
RUNS_SECONDS = 75.0
"""Within 45 s a pointer counts as lost, and the scheduler looks every few seconds."""
_NEVER_SECONDS = 3_600.0
_POLL_SECONDS = 0.1
_HEADROOM_SECONDS = 300.0


async def play(stage: Stage) -> None:
    """Two kills a round, in turn before the publish and before the confirm."""
    never_sent: list[Accepted] = []
    for number, part in enumerate(stage.parts(max(2, stage.jobs // JOBS_PER_ROUND))):
        await _all_serve(stage)
        if number % 2:
            await _kill_before_confirm(stage, part)
        else:
            never_sent += await _kill_before_publish(stage, part)
    await stage.all_ended(_HEADROOM_SECONDS)
    republished = stage.cluster.logs.sum("lost_pointers_republished", "count")
    stage.require(republished > 0, "no pointer was published again")
    await _require_once(stage)
    starts = await stage.first_starts()
    stage.recovered(
        [starts[each.job_id] - each.at for each in never_sent if each.job_id in starts],
        "from the 202 of a job whose pointer was never sent to its start",
        limit=RUNS_SECONDS,
    )


async def _kill_before_publish(stage: Stage, part: Sequence[PlannedJob]) -> list[Accepted]:
    proxy = stage.cluster.proxies["rabbitmq"]
    proxy.freeze()
    accepted = await _submit(stage, part)
    began = {each.job_id for each in accepted} & (await stage.first_starts()).keys()
    stage.require(not began, f"jobs ran whose pointers were held back: {sorted(began)[:3]}")
    await _kill_all(stage, "API kill -9 between commit and publish")
    proxy.cut()
    proxy.thaw()
    return accepted


async def _kill_before_confirm(stage: Stage, part: Sequence[PlannedJob]) -> None:
    proxy = stage.cluster.proxies["rabbitmq"]
    # A channel has to be open by then: opening one takes answers of the broker's.
    before, last = part[:-JOBS_IN_WINDOW], part[-JOBS_IN_WINDOW:]
    await _reached_the_broker(stage, {each.job_id for each in await _submit(stage, before)})
    proxy.answer_delay_seconds = _NEVER_SECONDS
    accepted = await _submit(stage, last)
    await _reached_the_broker(stage, {each.job_id for each in accepted})
    await _kill_all(stage, "API kill -9 between publish and confirm")
    proxy.cut()
    proxy.answer_delay_seconds = 0.0


async def _submit(stage: Stage, part: Sequence[PlannedJob]) -> list[Accepted]:
    """Half of them to each API; returns when all have their 202."""
    before = len(stage.client.accepted)
    async with stage.submissions(per_second=BURST_PER_SECOND, plan=part):
        pass
    return stage.client.accepted[before:]


async def _reached_the_broker(stage: Stage, jobs: set[UUID]) -> None:
    """Consumers have them, so the broker had them."""
    await _until(
        lambda: _have_begun(stage, jobs),
        REACHED_SECONDS,
        "the broker's confirms were held back, and its messages with them",
        stage,
    )


async def _have_begun(stage: Stage, jobs: set[UUID]) -> bool:
    return (await stage.first_starts()).keys() >= jobs


async def _kill_all(stage: Stage, fault: str) -> None:
    lives = [(api, api.lives[-1]) for api in stage.cluster.apis]
    for api, _ in lives:
        if api.kill():
            stage.fault(fault)
    for api, life in lives:
        await api.wait_end(life)


async def _all_serve(stage: Stage) -> None:
    """Wait until both answer and are connected to the broker: else they have nothing to publish."""
    headers = {"X-API-Key": stage.cluster.api_key}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:

        async def all_serve() -> bool:
            return all([await _is_connected(client, url) for url in stage.cluster.api_urls])

        await _until(all_serve, READY_SECONDS, "an API did not come back", stage)


async def _is_connected(client: httpx.AsyncClient, url: str) -> bool:
    try:
        answer = await client.get(f"{url}/api/v1/health")
    except httpx.TransportError:
        return False
    health = answer.json().get("dependencies", {})
    return bool(health.get("broker", {}).get("status") == "ok")


async def _require_once(stage: Stage) -> None:
    """Every job has had its effect once, in one attempt but for those that fail once."""
    effects = await asyncio.to_thread(read_effects, stage.cluster.effects_folder)
    done = Counter(each.job_id for each in effects if each.what == "done")
    connection = await stage.cluster.connect()
    try:
        attempts = await history.recorded_attempts(connection)
    finally:
        await connection.close()
    completed = Counter(each.job_id for each in attempts if each.outcome == "completed")
    twice = [job for job, count in (done | completed).items() if count > 1]
    stage.figures["applied_twice"] = len(twice)
    stage.require(not twice, f"{len(twice)} jobs were applied twice, such as {twice[:3]}")


async def _until(
    holds: Callable[[], Awaitable[bool]], seconds: float, otherwise: str, stage: Stage
) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        if time.monotonic() > deadline:
            stage.require(holds=False, otherwise=otherwise)
            return
        await asyncio.sleep(_POLL_SECONDS)


SCENARIO = Scenario(
    id="C4",
    title="APIs killed around a publish",
    fault="both APIs are killed (kill -9) between commit and publish, and between publish and"
    " confirm, 500 times in all",
    asserts="republished above 0, applied twice 0; a job that was never sent runs within 75 s",
    # Four jobs a kill.
    jobs=2_000,
    play=play,
    # A worker that dies after its effect and before its outcome would have it a second time, a
    # cancel would need an API in the moment at which it is killed, and a job that is sent twice
    # has a pointer of one API alone.
    mix=Mix(durations=(Duration(1.0, 0.01, 0.05),), kill_worker=0.0, cancelled=0.0, sent_twice=0.0),
    layout=Layout(proxies={"rabbitmq": ("api",)}),
    limit_seconds=2_400.0,
)
