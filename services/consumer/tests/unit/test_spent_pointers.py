"""Which of the pointers that have arrived still lead to work."""

from uuid import uuid4

from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import body_of
from taskflow_consumer.spent_pointers import MAX_REMEMBERED, SpentPointers


def test_those_of_jobs_that_run_already_are_not_counted() -> None:
    job_ids = [uuid4() for _ in range(3)]
    arrived = [Delivery(tag, body=body_of(job_id)) for tag, job_id in enumerate(job_ids)]
    spent = SpentPointers()
    assert spent.count_others(arrived) == 3
    spent.add(job_ids[:2])
    assert spent.count_others(arrived) == 1


def test_one_that_comes_again_counts() -> None:
    again = Delivery(1, body=body_of(job_id := uuid4()))
    spent = SpentPointers()
    spent.add([job_id])
    spent.forget([again, Delivery(2, body=b"never heard of")])
    assert spent.count_others([again]) == 1


def test_the_newest_are_remembered() -> None:
    job_ids = [uuid4() for _ in range(MAX_REMEMBERED + 1)]
    spent = SpentPointers()
    spent.add(job_ids)
    assert spent.count_others([Delivery(1, body=body_of(each)) for each in job_ids]) == 1
