"""Declare the topology and end: `python -m taskflow.broker`, a step of `make migrate`."""

import asyncio

from taskflow.broker.connection import Broker
from taskflow.errors import ConfigurationError, ServiceUnavailable
from taskflow.settings import BrokerSettings, exit_with, load_settings

PATIENCE_SECONDS = 60


async def declare(settings: BrokerSettings) -> None:
    """Wait for a connection, then declare all: connecting declares only where it misses something.

    Raises:
        ConfigurationError: the broker did not let us in, or refuses a declaration; its last word.
    """
    broker = Broker(settings.amqp_url.get_secret_value(), name="taskflow-topology")
    broker.start()
    try:
        await asyncio.wait_for(broker.wait_connected(), PATIENCE_SECONDS)
        await broker.declare_topology()
    except TimeoutError as error:
        why = broker.last_error or "no answer"
        raise ConfigurationError(
            f"TASKFLOW_AMQP_URL: not connected within {PATIENCE_SECONDS} s: {why}"
        ) from error
    except ServiceUnavailable as error:
        raise ConfigurationError(f"TASKFLOW_AMQP_URL: {error}") from error
    finally:
        await broker.close()


try:
    asyncio.run(declare(load_settings(BrokerSettings)))
except ConfigurationError as error:
    exit_with(error)
