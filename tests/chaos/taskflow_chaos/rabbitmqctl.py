"""RabbitMQ's own command line, as its operator uses it."""

import asyncio
import os
import subprocess

from taskflow_local import system_packages
from taskflow_testing.own_servers import Server

LIMIT_SECONDS = 60.0


class RabbitmqctlFailed(Exception):
    """The command was refused, or took too long; the text is its own."""


async def rabbitmqctl(node: Server, *arguments: str, tool: str = "rabbitmqctl") -> str:
    """Run a command of one of RabbitMQ's tools against a node that runs; what it printed.

    Raises:
        RabbitmqctlFailed: it didn't end well within `LIMIT_SECONDS`.
    """
    program = node.component.programs()[-1]
    process = await asyncio.create_subprocess_exec(
        system_packages.RABBITMQ.require().with_name(tool),
        "--silent",
        *arguments,
        cwd=program.directory,
        env=os.environ
        | dict(program.environment)
        | {"RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = " ".join((tool, *arguments))
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    except TimeoutError:
        raise RabbitmqctlFailed(f"{said}: no end in {LIMIT_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RabbitmqctlFailed(f"{said}: {output.decode(errors='replace')}")
    return output.decode()
