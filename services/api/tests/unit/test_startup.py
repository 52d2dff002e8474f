import socket

import pytest

from taskflow.errors import ConfigurationError
from taskflow.settings import ApiSettings
from taskflow_api.startup import listen, open_socket, require_database


def settings(
    port: int, host: str = "127.0.0.1", database_url: str = "postgresql://127.0.0.1/x"
) -> ApiSettings:
    return ApiSettings(
        _env_file=None,
        database_url=database_url,
        amqp_url="amqp://127.0.0.1/x",
        redis_url="redis://127.0.0.1/0",
        s3_endpoint="http://127.0.0.1:1",
        s3_access_key="access",
        s3_secret_key="secret",
        api_key="tf_live_testing_only",
        jwt_secret="of_at_least_thirty_two_characters",
        api_host=host,
        api_port=port,
    )


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} .* TASKFLOW_API_PORT"):
            open_socket(settings(port))


def test_of_two_that_start_together_one_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with open_socket(settings(port)) as first, open_socket(settings(port)) as second:
        listen(first, settings(port))
        with pytest.raises(ConfigurationError, match=f"port {port} .* TASKFLOW_API_PORT"):
            listen(second, settings(port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::ffff"])
def test_an_address_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match="TASKFLOW_API_HOST"):
        open_socket(settings(8000, host))


def test_an_ipv6_address_is_one() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    open_socket(settings(port, "::1")).close()


async def test_an_option_of_the_database_url_that_is_none_is_named_without_its_password() -> None:
    url = "postgresql://someone:a%23b@127.0.0.1:1/x?target_session_attrs=nonsense"
    with pytest.raises(
        ConfigurationError, match=r"TASKFLOW_DATABASE_URL: .*target_session_attrs"
    ) as caught:
        await require_database(settings(8000, database_url=url))
    assert "a%23b" not in str(caught.value)
