"""Ports: free, taken, chosen."""

import socket
from collections.abc import Iterator

import pytest

from taskflow_local.errors import StackError
from taskflow_local.ports import (
    LOOPBACK,
    Port,
    accepts_connections,
    choose_free,
    is_free,
    require_free,
)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_listened_on_is_not_free(taken: int) -> None:
    assert not is_free(taken)
    assert accepts_connections(taken)


def test_a_port_is_free_again_right_after_its_connections_were_closed() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection((LOOPBACK, port))
        server, _ = listener.accept()
        # The side that closes first keeps the port in TIME_WAIT.
        server.close()
        client.close()
    assert is_free(port)
    assert not accepts_connections(port)


def test_a_taken_port_is_named_with_the_variable_that_moves_it(taken: int) -> None:
    with pytest.raises(StackError) as raised:
        require_free([Port(taken, "Redis", "TASKFLOW_REDIS_PORT")])
    line = str(raised.value)
    assert line.startswith(f"port {taken} (Redis) is taken")
    moved = int(line.split("TASKFLOW_REDIS_PORT=")[1].split(maxsplit=1)[0])
    assert is_free(moved)
    assert "\n" not in line


def test_several_taken_ports_get_a_line_each_and_one_that_moves_all(taken: int) -> None:
    with socket.create_server((LOOPBACK, 0)) as other, pytest.raises(StackError) as raised:
        require_free([Port(taken, "A", "A_PORT"), Port(other.getsockname()[1], "B", "B_PORT")])
    first, second, together = str(raised.value).splitlines()
    assert "A_PORT=" in first
    assert "B_PORT=" in second
    assert "A_PORT=" in together
    assert "B_PORT=" in together


def test_free_ports_pass() -> None:
    require_free([Port(choose_free(1)[0], "A", "A_PORT")])


def test_chosen_ports_are_free_and_differ() -> None:
    chosen = choose_free(20)
    assert len(set(chosen)) == 20
    assert all(is_free(port) for port in chosen)
