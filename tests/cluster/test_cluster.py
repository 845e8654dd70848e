"""
A real cluster, if KUBEWAY_TEST_KUBECONFIG names the kubeconfig of one. Nothing there is changed.

It is held to the laws that the API server of the tests obeys, so that those are the laws
of real ones; and our own list and watch ends with what a plain list shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kubeway.model.store import Store
from kubeway.shell.apiserver import ApiSource
from kubeway.shell.credentials import access
from tests.apiserver.client import Client, Reply
from tests.apiserver.history import RESOURCES
from tests.apiserver.laws import LAWS, Law

KUBECONFIG = os.environ.get("KUBEWAY_TEST_KUBECONFIG", "")
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(
    not KUBECONFIG, reason="KUBEWAY_TEST_KUBECONFIG does not name a kubeconfig, so there is no cluster to ask"
)


@asynccontextmanager
async def cluster() -> AsyncIterator[Client]:
    """A client with the kubeconfig's credentials."""
    found = await access(KUBECONFIG, "", lambda record: None)
    headers = await found.headers()
    async with Client(found.server, tls=found.ssl, headers=headers) as client:
        yield client


async def there(client: Client) -> list[str]:
    """The resources this cluster has: ServiceCIDRs came late."""
    return [plural for plural in RESOURCES if (await client.listed(plural, limit=1)).status == 200]


def run(story: Callable[[Client], Awaitable[None]]) -> None:
    async def told() -> None:
        async with cluster() as client:
            await story(client)

    asyncio.run(told())


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Law) -> None:
    async def story(client: Client) -> None:
        await asyncio.gather(*(law(client, plural) for plural in await there(client)))

    run(story)


def test_our_store_ends_as_the_cluster_is() -> None:
    async def story(client: Client) -> None:
        nodes = await client.listed("nodes", limit=1)
        node = nodes.names[0][1]
        store = Store()
        source = ApiSource(
            await access(KUBECONFIG, "", lambda record: None),
            store,
            lambda: None,
            lambda record: None,
            node=node,
        )
        running = asyncio.get_running_loop().create_task(source.run())
        try:
            async with asyncio.timeout(PATIENCE):
                await source.synced.wait()
                # A living cluster goes on changing: they are alike at some time soon.
                while not alike(store, node, *await asyncio.gather(services(client), slices(client))):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.wait([running])

    run(story)


async def services(client: Client) -> Reply:
    return await client.listed(
        "services",
        labelSelector="!service.kubernetes.io/service-proxy-name",
        fieldSelector="spec.clusterIP!=None",
    )


async def slices(client: Client) -> Reply:
    return await client.listed("endpointslices", labelSelector="!service.kubernetes.io/headless")


def alike(store: Store, node: str, services: Reply, slices: Reply) -> bool:
    """Whether the store knows those Services and EndpointSlices and no others, and this node alone."""
    snapshot = store.snapshot()
    owned = [
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in slices.body["items"]
        if item["metadata"].get("labels", {}).get("kubernetes.io/service-name")
    ]
    known = [(owner.namespace, name) for owner, pieces in snapshot.slices.items() for name in pieces]
    return (
        sorted((name.namespace, name.name) for name in snapshot.services) == sorted(services.names)
        and sorted(known) == sorted(owned)
        and list(snapshot.nodes) == [node]
    )
