"""What a new connection does about the topology: it looks, and declares what is missing."""

import aiormq.exceptions
from aio_pika.abc import AbstractConnection

from taskflow.broker import topology
from taskflow.errors import ServiceUnavailable

LEFT_TO_SCHEDULER = (
    "an exchange or a queue is missing, which a scheduler or 'make migrate' has to declare"
)


async def complete_topology(connection: AbstractConnection) -> bool:
    """Declare what is missing, and nothing where all is there; whether we may declare at all.

    A declaration may have to wait for a silent node; a look never does, nor what is there already.
    What it can't see is a binding that is missing alone: the leading scheduler declares everything
    again and again.

    Raises:
        ServiceUnavailable: something is missing, and we may not declare it.
    """
    is_complete = True
    looking = connection.channel(publisher_confirms=False)
    await looking.initialize()
    try:
        await topology.look(looking)
        await looking.close()
    except aiormq.exceptions.ChannelNotFoundEntity:
        is_complete = False
    except aiormq.exceptions.ChannelAccessRefused:
        # As far as we may see; the rest is for who may declare it.
        return False
    declaring = connection.channel(publisher_confirms=False)
    await declaring.initialize()
    try:
        if is_complete:
            await topology.declare_what_is_there(declaring)
        else:
            await topology.declare(declaring)
    except aiormq.exceptions.ChannelAccessRefused as error:
        if not is_complete:
            raise ServiceUnavailable("RabbitMQ", LEFT_TO_SCHEDULER) from error
        return False
    await declaring.close()
    return True
