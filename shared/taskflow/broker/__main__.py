"""Declare the topology and end: `python -m taskflow.broker`, a step of `make migrate`."""

import asyncio

from taskflow.broker.connection import Broker
from taskflow.errors import ConfigurationError
from taskflow.settings import BrokerSettings, exit_with, load_settings

PATIENCE_SECONDS = 60


async def declare(settings: BrokerSettings) -> None:
    """Connecting declares; wait for it.

    Raises:
        ConfigurationError: the broker did not let us in; its last word.
    """
    broker = Broker(settings.amqp_url.get_secret_value(), name="taskflow-topology")
    broker.start()
    try:
        await asyncio.wait_for(broker.wait_connected(), PATIENCE_SECONDS)
    except TimeoutError as error:
        why = broker.last_error or "no answer"
        raise ConfigurationError(
            f"TASKFLOW_AMQP_URL: not connected within {PATIENCE_SECONDS} s: {why}"
        ) from error
    finally:
        await broker.close()


try:
    asyncio.run(declare(load_settings(BrokerSettings)))
except ConfigurationError as error:
    exit_with(error)
