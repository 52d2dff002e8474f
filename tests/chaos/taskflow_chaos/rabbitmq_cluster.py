"""A RabbitMQ cluster of three nodes whose network is in the suite's hands.

The nodes find each other by name servers of the suite's, which lead every connection between two of
them through a proxy of its own; clients reach a node by a proxy as well, and the services by a load
balancer before those. A node that is cut off is one whose cable is pulled: nothing is reset or
refused, bytes just don't arrive, and what TCP still holds arrives when it is plugged in again.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from taskflow_chaos.balancer import Balancer
from taskflow_chaos.epmd import NameServer
from taskflow_local.component import Program
from taskflow_local.ports import LOOPBACK, Port, choose_free
from taskflow_local.private_file import write_private
from taskflow_local.rabbitmq import RabbitMQ
from taskflow_testing.own_servers import Server, ServerSet, four_servers
from taskflow_testing.tcp_proxy import TcpProxy

NODES = 3
NET_TICK_SECONDS = 12
"""A silent peer counts as gone after 9 to 15 s. RabbitMQ's default of 60 is longer than a cut of
30 s, and all that time a queue whose leader is cut off stands still on the other nodes, too: they
go on to ask the old leader, for the new one is written down together with the one that is silent.
"""
_HOST = "localhost"


@dataclass(frozen=True)
class NodeComponent:
    """One node: a broker of its own that knows the cluster it belongs to.

    `short_name` is its Erlang name without the host, `cluster` those of all nodes.
    """

    broker: RabbitMQ
    short_name: str
    cluster: Sequence[str]
    cookie: str

    @property
    def name(self) -> str:
        """What its log is called."""
        return self.short_name

    @property
    def start_timeout_seconds(self) -> float:
        """As long as any broker, and the joining."""
        return self.broker.start_timeout_seconds

    def ports(self) -> Sequence[Port]:
        """Those of the broker."""
        return self.broker.ports()

    def prepare(self) -> None:
        """The broker's configuration, and the cluster's."""
        home = self.broker.directory / "home"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(home / ".erlang.cookie", self.cookie, mode=0o400)
        self.broker.prepare()
        with (self.broker.directory / "rabbitmq.conf").open("a") as config:
            config.write("cluster_formation.peer_discovery_backend = classic_config\n")
            for number, name in enumerate(self.cluster, start=1):
                config.write(f"cluster_formation.classic_config.nodes.{number} = {name}@{_HOST}\n")
            # What RabbitMQ's manual says for a cluster of three.
            config.write("cluster_partition_handling = pause_minority\n")
            config.write(f"net_ticktime = {NET_TICK_SECONDS}\n")

    def programs(self) -> Sequence[Program]:
        """The broker alone: the name server is the suite's."""
        program = self.broker.programs()[-1]
        environment = {**program.environment, "RABBITMQ_NODENAME": f"{self.short_name}@{_HOST}"}
        return [replace(program, name=self.short_name, environment=environment)]

    def is_ready(self) -> bool:
        """Whether clients may log in and the virtual host is there."""
        return self.broker.is_ready()


class Node(Server):
    """A server that can be cut off from the others, from its clients, or from both."""

    def __init__(self, component: NodeComponent, url: str, folder: Path) -> None:
        super().__init__(component, url, folder)
        self.short_name = component.short_name
        self.broker = component.broker
        self.links: list[TcpProxy] = []
        """All ways between this node and its peers."""
        self.door = TcpProxy(url)
        """Where clients come in."""

    def cut_off(self, *, from_clients: bool) -> None:
        """Let nothing through from its peers and to them; the same for its clients, if so."""
        self._begin_outage()
        for proxy in [*self.links, self.door] if from_clients else self.links:
            proxy.freeze()

    def plug_in(self) -> None:
        """Undo it."""
        for proxy in [*self.links, self.door]:
            proxy.thaw()
        self._end_outage()


class BrokerCluster(Server):
    """The nodes as one server that a load balancer leads to; faults are for its `nodes`."""

    def __init__(self, nodes: Sequence[Node], folder: Path) -> None:
        super().__init__(nodes[0].component, nodes[0].url, folder)
        self.nodes = nodes
        self._network = contextlib.AsyncExitStack()

    async def start(self) -> float:
        """Start every node that does not run, the first one before the others, who join it."""
        began = time.monotonic()
        if not self._is_prepared:
            await self._open_network()
            self._is_prepared = True
        first, *others = self.nodes
        await first.start()
        await asyncio.gather(*(node.start() for node in others))
        return time.monotonic() - began

    def pids(self) -> list[int]:
        """All processes of all nodes."""
        return [pid for node in self.nodes for pid in node.pids()]

    async def destroy(self) -> None:
        """Kill every node, and close what led to them."""
        for node in self.nodes:
            await node.destroy()
        await self._network.aclose()

    def node(self, erlang_name: str) -> Node:
        """The node that Erlang knows by this name."""
        return next(each for each in self.nodes if f"{each.short_name}@{_HOST}" == erlang_name)

    async def _open_network(self) -> None:
        enter = self._network.enter_async_context
        registered: dict[str, int] = {}
        for node in self.nodes:
            peers = {}
            for peer in self.nodes:
                if peer is not node:
                    link = await enter(
                        TcpProxy(f"tcp://{LOOPBACK}:{peer.broker.distribution_port}")
                    )
                    node.links.append(link)
                    peer.links.append(link)
                    peers[peer.short_name] = urlsplit(link.url).port or 0
            await enter(NameServer(node.broker.epmd_port, peers, registered))
            await enter(node.door)
        self.url = (await enter(Balancer([node.door.url for node in self.nodes]))).url


def three_nodes(folder: Path) -> ServerSet:
    """As `four_servers`, with a cluster for a broker; its management is the first node's."""
    servers = four_servers(folder)
    first = servers.rabbitmq.component
    assert isinstance(first, RabbitMQ)
    names = [f"rabbitmq{number}" for number in range(1, NODES + 1)]
    cookie = secrets.token_hex(20)
    nodes = []
    for name in names:
        ports = choose_free(5)
        broker = replace(
            first,
            directory=first.directory / name,
            port=ports[0],
            management_port=ports[1],
            prometheus_port=ports[2],
            epmd_port=ports[3],
            distribution_port=ports[4],
        )
        url = servers.rabbitmq.url.replace(f":{first.port}/", f":{broker.port}/")
        nodes.append(Node(NodeComponent(broker, name, names, cookie), url, folder))
    management = servers.rabbitmq_management_url.replace(
        f":{first.management_port}", f":{nodes[0].broker.management_port}"
    )
    cluster = BrokerCluster(nodes, folder)
    return replace(servers, rabbitmq=cluster, rabbitmq_management_url=management)
