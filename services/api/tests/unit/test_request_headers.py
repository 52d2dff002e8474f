import pytest
from starlette.requests import Request

from taskflow_api.request_headers import wait_seconds


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ([], None),
        (["wait=5"], 5),
        (["wait=30"], 30),
        (["wait=31"], 30),
        (["wait=999999999"], 30),
        (["wait=0"], 0),
        (['Wait = "7"'], 7),
        (["wait=7; foo=bar"], 7),
        (["respond-async", "wait=3"], 3),
        (["respond-async, wait=3, wait=4"], 3),
        (["wait=x, wait=4"], 4),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=9999999999"], None),
        (["wait=٣"], None),
        (["await=3"], None),
    ],
)
async def test_the_wait_that_is_preferred(sent: list[str], seconds: int | None) -> None:
    headers = [(b"prefer", value.encode()) for value in sent]
    request = Request({"type": "http", "headers": headers})
    assert await wait_seconds(request) == seconds
