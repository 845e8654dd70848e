"""Access to the API: against real TLS servers on loopback, with credentials that change under us."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp import web

from kubeway.errors import BadInput
from kubeway.records import ApiFound, ApiUnverified, CredentialsKept, Record
from kubeway.shell import clock
from kubeway.shell.access_tls import Tls, tls_context
from kubeway.shell.credentials import KeptAccess, access, server_url
from tests.shell.certificates import Authority

V1 = "client.authentication.k8s.io/v1"


class Place(NamedTuple):
    """An authority, a server's certificate for 127.0.0.1 and one for the name `kubernetes` only."""

    authority: Authority
    server: tuple[Path, Path]
    named: tuple[Path, Path]
    client: tuple[Path, Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return Place(
        authority,
        authority.sign("server", "IP:127.0.0.1,DNS:localhost"),
        authority.sign("named", "DNS:kubernetes"),
        authority.sign("node1"),
    )


@asynccontextmanager
async def serve(certificate: tuple[Path, Path] | None, ca: Path | None = None) -> AsyncIterator[str]:
    """A server that answers who asked: the header, and the certificate's common name."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert") or {}
        names = {name: value for part in peer.get("subject", ()) for name, value in part}
        return web.json_response(
            {"authorization": request.headers.get("Authorization", ""), "cn": names.get("commonName", "")}
        )

    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/version", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def ask(found: KeptAccess) -> Any:
    headers = await found.headers()
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{found.server}/version",
            headers=headers,
            ssl=found.ssl or True,
            server_hostname=found.server_hostname,
            proxy=found.proxy,
        ) as answer,
    ):
        return await answer.json()


class Files:
    """A kubeconfig and what it names."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "config"
        self.told: list[Record] = []

    def kubeconfig(self, cluster: dict[str, Any], user: dict[str, Any] | None = None) -> str:
        self.write(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [
                    {"name": "elsewhere", "context": {"cluster": "other", "user": "other"}},
                    {"name": "here", "context": {"cluster": "c", "user": "u"}},
                ],
                "clusters": [
                    {"name": "other", "cluster": {"server": "https://wrong.invalid"}},
                    {"name": "c", "cluster": cluster},
                ],
                "users": [{"name": "other", "user": {"token": "wrong"}}, {"name": "u", "user": user or {}}],
            }
        )
        return str(self.path)

    def write(self, document: Any) -> str:
        self.path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return str(self.path)

    def plugin(self, status: dict[str, str], more: str = "") -> dict[str, Any]:
        """A plugin's place in a user. It counts how often it was run in the file `runs`."""
        out = json.dumps({"kind": "ExecCredential", "apiVersion": V1, "status": status})
        path = self.root / "plugin"
        path.write_text(f"#!/bin/sh\necho run >> {self.root}/runs\n{more}\ncat <<'END'\n{out}\nEND\n")
        path.chmod(0o755)
        return {"exec": {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never", "env": None}}

    def runs(self) -> int:
        return len((self.root / "runs").read_text().split())

    async def access(self, kubeconfig: str = "", master: str = "", **environ: str) -> KeptAccess:
        return await access(
            kubeconfig, master, self.told.append, environ=environ, account=self.root / "account"
        )

    def refusal(self, kubeconfig: str = "", master: str = "", **environ: str) -> str:
        with pytest.raises(BadInput) as error:
            asyncio.run(self.access(kubeconfig, master, **environ))
        assert "\n" not in str(error.value)
        return str(error.value).replace(str(self.root), "DIR")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Clock:
    """Both clocks, to be moved on by hand."""

    def __init__(self) -> None:
        self.at = 1_795_000_000.0

    def wall(self) -> int:
        return int(self.at * 1e9)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clock, "wall", made.wall)
    monkeypatch.setattr(clock, "monotonic", made.monotonic)
    return made


def b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def header(found: KeptAccess) -> str:
    return asyncio.run(found.headers()).get("Authorization", "")


# --- kubeconfig, over the wire ----------------------------------------------------------


def test_a_token_and_an_authority_in_the_file(files: Files, place: Place) -> None:
    async def go() -> None:
        async with serve(place.server) as url:
            cluster = {"server": f"{url}/", "certificate-authority-data": b64(place.authority.ca)}
            found = await files.access(files.kubeconfig(cluster, {"token": "t0k"}))
            assert found.server == url
            assert await ask(found) == {"authorization": "Bearer t0k", "cn": ""}

    asyncio.run(go())
    assert [type(record) for record in files.told] == [ApiFound]
    assert str(files.told[0]).endswith(f"(kubeconfig {files.path}); we come with a token")


def test_client_certificates_in_files_beside_it(files: Files, place: Place) -> None:
    for source in (place.authority.ca, *place.client):
        (files.root / source.name).write_bytes(source.read_bytes())

    async def go() -> None:
        async with serve(place.server, place.authority.ca) as url:
            cluster = {"server": url, "certificate-authority": "ca.crt"}
            user = {"client-certificate": "node1.crt", "client-key": "./node1.key"}
            found = await files.access(files.kubeconfig(cluster, user))
            assert await ask(found) == {"authorization": "", "cn": "node1"}
            assert found.identity == "a client certificate"

    asyncio.run(go())


def test_client_certificates_in_the_file(files: Files, place: Place) -> None:
    async def go() -> None:
        async with serve(place.server, place.authority.ca) as url:
            cluster = {"server": url, "certificate-authority-data": b64(place.authority.ca)}
            user = {"client-certificate-data": b64(place.client[0]), "client-key-data": b64(place.client[1])}
            assert (await ask(await files.access(files.kubeconfig(cluster, user))))["cn"] == "node1"

    asyncio.run(go())


def test_client_certificates_of_a_plugin(files: Files, place: Place) -> None:
    async def go() -> None:
        async with serve(place.server, place.authority.ca) as url:
            cluster = {"server": url, "certificate-authority": str(place.authority.ca)}
            certificate, key = (path.read_text() for path in place.client)
            user = files.plugin({"clientCertificateData": certificate, "clientKeyData": key})
            found = await files.access(files.kubeconfig(cluster, user))
            assert await ask(found) == {"authorization": "", "cn": "node1"}
            assert found.identity == "credentials of ./plugin"

    asyncio.run(go())


def test_a_server_nobody_vouches_for_is_refused(files: Files, place: Place, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")

    async def go() -> None:
        async with serve(place.server) as url:
            for cluster in (
                {"server": url},  # the system's authorities
                {"server": url, "certificate-authority": str(stranger.ca)},
            ):
                found = await files.access(files.kubeconfig(cluster, {"token": "t"}))
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await ask(found)

    asyncio.run(go())


def test_a_server_of_another_name_is_refused_unless_tls_server_name_says_so(
    files: Files, place: Place
) -> None:
    async def go() -> None:
        async with serve(place.named) as url:
            cluster = {"server": url, "certificate-authority": str(place.authority.ca)}
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ask(await files.access(files.kubeconfig(cluster)))
            named = cluster | {"tls-server-name": "kubernetes"}
            assert await ask(await files.access(files.kubeconfig(named))) == {"authorization": "", "cn": ""}
            # With --master the name is another server's.
            again = await files.access(files.kubeconfig(named), url)
            assert again.server_hostname is None
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ask(again)

    asyncio.run(go())


def test_not_verifying_has_to_be_asked_for_and_is_told_once(files: Files, place: Place) -> None:
    async def go() -> str:
        async with serve(place.named) as url:
            cluster = {"server": url, "insecure-skip-tls-verify": True}
            found = await files.access(files.kubeconfig(cluster, {"token": "t"}))
            assert (await ask(found))["authorization"] == "Bearer t"
            await found.refresh()
            return url

    url = asyncio.run(go())
    warnings = [record for record in files.told if record.level == "warning"]
    assert warnings == [ApiUnverified(url, f"kubeconfig {files.path}")]


def test_a_context_stays_the_same_until_what_is_trusted_changes(files: Files, place: Place) -> None:
    authority = files.root / "ca.crt"
    authority.write_bytes(place.authority.ca.read_bytes())

    async def go() -> None:
        async with serve(place.server) as url:
            cluster = {"server": url, "certificate-authority": "ca.crt"}
            found = await files.access(files.kubeconfig(cluster))
            first = found.ssl
            await found.refresh()
            assert found.ssl is first
            stranger = Authority(files.root / "stranger", "stranger")
            authority.write_bytes(stranger.ca.read_bytes() + place.authority.ca.read_bytes())
            await found.refresh()
            assert found.ssl is not first
            await ask(found)

    asyncio.run(go())


# --- kubeadm's own ------------------------------------------------------------------------


def test_what_kubeadm_writes(files: Files, place: Place) -> None:
    """Its ConfigMap kube-proxy, key kubeconfig.conf, but for the paths."""
    account = files.root / "serviceaccount"
    account.mkdir()
    (account / "ca.crt").write_bytes(place.authority.ca.read_bytes())
    (account / "token").write_text("first\n")

    async def go() -> None:
        async with serve(place.server) as url:
            kubeconfig = files.write(f"""
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: {account}/ca.crt
    server: {url}
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: {account}/token
""")
            found = await files.access(kubeconfig)
            assert found.identity == f"the token in {account}/token"
            assert (await ask(found))["authorization"] == "Bearer first"
            (account / "token").write_text("second\n")
            await found.refresh()
            assert (await ask(found))["authorization"] == "Bearer second"

    asyncio.run(go())


# --- who we are ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, ""),
        ({"token": "a"}, "Bearer a"),
        ({"tokenFile": "token"}, "Bearer from-file"),
        ({"tokenFile": "token", "token": "a"}, "Bearer from-file"),
        ({"tokenFile": "gone", "token": "a"}, "Bearer a"),
        ({"username": "me", "password": "pw"}, "Basic bWU6cHc="),
        ({"token": None, "tokenFile": "token", "exec": None}, "Bearer from-file"),
    ],
)
def test_the_header(files: Files, user: dict[str, Any], expected: str) -> None:
    (files.root / "token").write_text("  from-file\n\n")
    kubeconfig = files.kubeconfig({"server": "http://127.0.0.1:1"}, user)
    assert header(asyncio.run(files.access(kubeconfig))) == expected


def test_a_token_wins_over_a_plugin(files: Files) -> None:
    kubeconfig = files.kubeconfig(
        {"server": "http://127.0.0.1:1"}, files.plugin({"token": "x"}) | {"token": "a"}
    )
    assert header(asyncio.run(files.access(kubeconfig))) == "Bearer a"
    assert not (files.root / "runs").exists()


def test_lists_of_nothing_are_no_mistake(files: Files) -> None:
    """As tools write them; JSON is YAML too."""
    document = {
        "kind": "Config",
        "apiVersion": "v1",
        "preferences": {},
        "current-context": "x",
        "extensions": None,
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "extensions": None}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://h", "extensions": None, "proxy-url": None}}],
        "users": [{"name": "u", "user": None}],
    }
    assert header(asyncio.run(files.access(files.write(json.dumps(document))))) == ""


# --- reading again ----------------------------------------------------------------------------


def test_files_are_read_again_once_a_minute(files: Files, time: Clock) -> None:
    token = files.root / "token"
    token.write_text("one")
    found = asyncio.run(
        files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, {"tokenFile": "token"}))
    )
    token.write_text("two")
    time.at += 59
    assert header(found) == "Bearer one"
    time.at += 1
    assert header(found) == "Bearer two"


def test_the_kubeconfig_itself_is_read_again(files: Files, time: Clock) -> None:
    found = asyncio.run(files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, {"token": "a"})))
    files.kubeconfig({"server": "http://127.0.0.1:2", "proxy-url": "http://p:3"}, {"token": "b"})
    asyncio.run(found.refresh())
    assert (found.server, found.proxy, header(found)) == ("http://127.0.0.1:2", "http://p:3", "Bearer b")


def test_what_cannot_be_read_again_is_told_once_and_the_old_stays(files: Files, time: Clock) -> None:
    token = files.root / "token"
    token.write_text("one")
    kubeconfig = files.kubeconfig({"server": "http://127.0.0.1:1"}, {"tokenFile": "token"})
    found = asyncio.run(files.access(kubeconfig))
    token.unlink()
    for _ in range(3):
        time.at += 60
        assert header(found) == "Bearer one"
    at = f"{kubeconfig}: users[u].user.tokenFile: {token}: No such file or directory"
    assert files.told[1:] == [CredentialsKept(f"kubeconfig {at}")]
    assert str(files.told[1]).endswith("No such file or directory; the credentials read before stay in use")
    token.write_text("two")
    time.at += 5
    assert header(found) == "Bearer two"
    token.unlink()
    time.at += 60
    assert header(found) == "Bearer two"
    assert len(files.told) == 3  # well in between, so it is news again


def test_nothing_of_a_bad_reading_is_taken(files: Files, place: Place) -> None:
    good = {"server": "https://127.0.0.1:1", "certificate-authority": str(place.authority.ca)}
    found = asyncio.run(files.access(files.kubeconfig(good, {"token": "a"})))
    context = found.ssl
    files.kubeconfig({"server": "https://127.0.0.1:2", "certificate-authority": "config"}, {"token": "b"})
    asyncio.run(found.refresh())
    assert (found.server, header(found)) == ("https://127.0.0.1:1", "Bearer a")
    assert found.ssl is context
    assert "certificate-authority: holds no certificates in PEM" in str(files.told[1])


def test_a_plugin_is_run_again_when_it_has_expired_and_not_before(files: Files, time: Clock) -> None:
    expires = "2026-11-18T11:16:40Z"  # ten minutes from the clock's beginning
    user = files.plugin({"token": "one", "expirationTimestamp": expires})
    found = asyncio.run(files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, user)))
    for _ in range(9):
        time.at += 60
        assert header(found) == "Bearer one"
    assert files.runs() == 1
    files.plugin({"token": "two", "expirationTimestamp": "2026-11-18T12:00:00Z"})
    time.at += 49
    assert header(found) == "Bearer one"
    time.at += 2  # less than ten seconds are left
    assert header(found) == "Bearer two"
    assert files.runs() == 2


def test_a_plugin_is_run_again_when_the_server_refuses(files: Files, time: Clock) -> None:
    user = files.plugin({"token": "one"})
    found = asyncio.run(files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, user)))
    files.plugin({"token": "two"})
    time.at += 3600
    assert header(found) == "Bearer one"
    asyncio.run(found.refresh())
    assert header(found) == "Bearer two"


def test_several_who_are_refused_at_once_run_a_plugin_once(files: Files, time: Clock) -> None:
    async def go() -> None:
        user = files.plugin({"token": "one"})
        found = await files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, user))
        user = files.plugin({"token": "two"}, "sleep 0.2")
        time.at += 2
        await asyncio.gather(*(found.refresh() for _ in range(4)))
        assert await found.headers() == {"Authorization": "Bearer two"}

    asyncio.run(go())
    assert files.runs() == 2


def test_another_plugin_is_run_at_once(files: Files, time: Clock) -> None:
    user = files.plugin({"token": "one"})
    kubeconfig = files.kubeconfig({"server": "http://127.0.0.1:1"}, user)
    found = asyncio.run(files.access(kubeconfig))
    user["exec"]["args"] = ["--other"]
    files.plugin({"token": "two"})
    files.kubeconfig({"server": "http://127.0.0.1:1"}, user)
    time.at += 60
    assert header(found) == "Bearer two"


def test_a_plugin_that_fails_later_leaves_what_it_handed_out(files: Files, time: Clock) -> None:
    user = files.plugin({"token": "one"})
    found = asyncio.run(files.access(files.kubeconfig({"server": "http://127.0.0.1:1"}, user)))
    files.plugin({}, "echo 'no network' >&2; exit 1")
    time.at += 60
    asyncio.run(found.refresh())
    assert header(found) == "Bearer one"
    assert "plugin failed with exit code 1: no network; the credentials" in str(files.told[1])


# --- in a Pod ------------------------------------------------------------------------------------


def test_in_a_pod(files: Files, place: Place) -> None:
    account = files.root / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(place.authority.ca.read_bytes())
    (account / "token").write_text("one")

    async def go() -> None:
        async with serve(place.server) as url:
            host, port = url.removeprefix("https://").split(":")
            found = await files.access(KUBERNETES_SERVICE_HOST=host, KUBERNETES_SERVICE_PORT=port)
            assert (await ask(found))["authorization"] == "Bearer one"
            (account / "token").write_text("two")
            await found.refresh()
            assert (await ask(found))["authorization"] == "Bearer two"

    asyncio.run(go())
    assert str(files.told[0]).endswith("(in-cluster); we come with the service account's token")


def test_in_a_pod_with_ipv6(files: Files, place: Place) -> None:
    account = files.root / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(place.authority.ca.read_bytes())
    (account / "token").write_text("t")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00:10:96::1", "KUBERNETES_SERVICE_PORT": "443"}
    proxies = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"}
    assert asyncio.run(files.access(**environ)).server == "https://[fd00:10:96::1]:443"
    assert asyncio.run(files.access(**environ, **proxies)).proxy is None
    assert asyncio.run(files.access(**environ, HTTPS_PROXY="http://p:1")).proxy == "http://p:1"


def test_what_is_missing_in_a_pod(files: Files) -> None:
    assert files.refusal().startswith("no API server: give --kubeconfig or --master, or run in a Pod")
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    at = "DIR/account/{}: No such file or directory"
    assert files.refusal(**environ) == f"service account: token: {at.format('token')}"
    account = files.root / "account"
    account.mkdir()
    (account / "token").write_text("\n")
    assert (
        files.refusal(**environ)
        == "service account: token: DIR/account/token is empty; it has to hold a token"
    )
    (account / "token").write_text("t")
    assert files.refusal(**environ) == f"service account: ca.crt: {at.format('ca.crt')}"
    (account / "ca.crt").write_text("")
    assert files.refusal(**environ).startswith("DIR/account/ca.crt: holds no certificates in PEM")
    assert "is not the URL" in files.refusal(**environ | {"KUBERNETES_SERVICE_PORT": "https"})


# --- --master ---------------------------------------------------------------------------------------


def test_a_bare_url(files: Files) -> None:
    async def go() -> None:
        async with serve(None) as url:
            found = await files.access(master=url, KUBERNETES_SERVICE_HOST="10.96.0.1")
            assert found.ssl is None
            assert await ask(found) == {"authorization": "", "cn": ""}

    asyncio.run(go())
    assert str(files.told[0]).endswith("(--master); we come with no credentials")


def test_it_replaces_the_servers_of_the_kubeconfig(files: Files, place: Place) -> None:
    async def go() -> None:
        async with serve(place.server) as url:
            cluster = {"server": "https://gone.invalid", "certificate-authority": str(place.authority.ca)}
            kubeconfig = files.kubeconfig(cluster, {"token": "t"})
            assert (await ask(await files.access(kubeconfig, url)))["authorization"] == "Bearer t"
            # A kubeconfig without a server is whole with it, and what is known of certificates means https.
            del cluster["server"]
            found = await files.access(
                files.kubeconfig(cluster, {"token": "t"}), url.removeprefix("https://")
            )
            assert (await ask(found))["authorization"] == "Bearer t"

    asyncio.run(go())


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://h:6443", "https://h:6443"),
        ("https://h/k8s/clusters/c-1/", "https://h/k8s/clusters/c-1"),
        ("h:8080", "http://h:8080"),
        ("http://[fd00::1]:8080", "http://[fd00::1]:8080"),
    ],
)
def test_urls_of_servers(text: str, url: str) -> None:
    assert server_url(text, "--master") == url


@pytest.mark.parametrize(
    "text",
    [
        "ftp://h",
        "https://",
        "https://h:port",
        "https://h:0",
        "https://h?x=1",
        "https://u:p@h",
        "https://a b",
        "://",
    ],
)
def test_what_is_no_url_of_a_server(files: Files, text: str) -> None:
    problem = f"{text!r} is not the URL of an API server; give https://HOST:PORT"
    assert files.refusal(master=text) == f"--master: {problem}"
    kubeconfig = files.kubeconfig({"server": text})
    assert files.refusal(kubeconfig) == f"kubeconfig DIR/config: clusters[c].cluster.server: {problem}"


# --- mistakes, each in one line ------------------------------------------------------------------------


def without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        del at[path[-1]]

    return change


def having(value: Any, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return change


CLUSTER, USER = ("clusters", 1, "cluster"), ("users", 1, "user")
NO_PEM = "not a certificate and its unencrypted key in PEM: "


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (having("Pod", "kind"), "is v1 Pod; a kubeconfig is v1 Config"),
        (having("v2", "apiVersion"), "is v2 Config; a kubeconfig is v1 Config"),
        (without("current-context"), "current-context: missing; name one of contexts"),
        (having("gone", "current-context"), "current-context: of the contexts, none is called 'gone'"),
        (
            without("contexts", 1, "context", "user"),
            "contexts[here].context.user: missing; name one of users",
        ),
        (
            having("x", "contexts", 1, "context", "cluster"),
            "contexts[here].context.cluster: of the clusters, none is called 'x'",
        ),
        (
            having("c", "clusters", 0, "name"),
            "contexts[here].context.cluster: of the clusters, 2 are called 'c'",
        ),
        (having({}, "users"), "users: Expected `array`, got `object`"),
        (having(5, *USER, "token"), "users[1].user.token: Expected `str`, got `int`"),
        (without(*CLUSTER, "server"), "clusters[c].cluster.server: missing; give https://HOST:PORT"),
        (
            having("%", *CLUSTER, "certificate-authority-data"),
            "clusters[c].cluster.certificate-authority-data: not base64",
        ),
        (
            having("eA==", *CLUSTER, "certificate-authority-data"),
            "clusters[c].cluster.certificate-authority: holds no certificates in PEM: ",
        ),
        (
            having("gone.crt", *CLUSTER, "certificate-authority"),
            "clusters[c].cluster.certificate-authority: DIR/gone.crt: No such file or directory",
        ),
        (
            having(
                {"server": "https://h", "insecure-skip-tls-verify": True, "certificate-authority": "x"},
                *CLUSTER,
            ),
            "clusters[c].cluster.certificate-authority: DIR/x: No such file or directory",
        ),
        (
            having(
                {"server": "https://h", "insecure-skip-tls-verify": True, "certificate-authority": "config"},
                *CLUSTER,
            ),
            "clusters[c].cluster: insecure-skip-tls-verify and an authority to verify by; one is too much",
        ),
        (
            having("socks5://p:1", *CLUSTER, "proxy-url"),
            "clusters[c].cluster.proxy-url: SOCKS proxies are not supported; give http:// or https://",
        ),
        (
            having({"tokenFile": "gone"}, *USER),
            "users[u].user.tokenFile: DIR/gone: No such file or directory",
        ),
        (having({"tokenFile": "."}, *USER), "users[u].user.tokenFile: DIR: Is a directory"),
        (
            having({"token": "a\nb"}, *USER),
            "users[u].user.token: holds no token: there are spaces or control characters inside",
        ),
        (
            having({"client-certificate": "a"}, *USER),
            "users[u].user.client-key: missing; a certificate and its key go together",
        ),
        (
            having({"client-key": "a"}, *USER),
            "users[u].user.client-certificate: missing; a certificate and its key go together",
        ),
        (
            having({"client-certificate-data": "eA==", "client-key-data": "eA=="}, *USER),
            "users[u].user.client-certificate: " + NO_PEM,
        ),
        (
            having({"token": "a", "username": "b"}, *USER),
            "users[u].user: both a token and a username; one of them",
        ),
        (
            having({"auth-provider": {"name": "oidc"}}, *USER),
            "users[u].user.auth-provider: not supported, as in",
        ),
        (having({"token": "a", "as": "root"}, *USER), "users[u].user.as: impersonation is not supported; "),
        (having({"as-groups": ["x"]}, *USER), "users[u].user.as-groups: impersonation is not supported; "),
        (having({"exec": {"command": "x"}}, *USER), "users[u].user.exec.apiVersion: '' is none of "),
    ],
)
def test_a_mistake_in_a_kubeconfig(
    files: Files, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    files.kubeconfig({"server": "https://127.0.0.1:1"}, {"token": "t"})
    document = yaml.safe_load(files.path.read_text())
    change(document)
    assert files.refusal(files.write(document)).startswith(f"kubeconfig DIR/config: {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": holds 0 documents; a kubeconfig is one"),
        ("{}\n---\n{}\n", ": holds 2 documents; a kubeconfig is one"),
        ("[]", ": Expected `object`, got `array`"),
        ("a: [", ":2:1: did not find expected node content"),
        ("a: \0", ":1:4: not text: "),
    ],
)
def test_a_file_that_is_no_kubeconfig(files: Files, text: str, problem: str) -> None:
    assert files.refusal(files.write(text)).startswith(f"kubeconfig DIR/config{problem}")


def test_no_file(files: Files) -> None:
    assert files.refusal(str(files.path)) == "kubeconfig DIR/config: No such file or directory"


# --- certificates and keys that do not fit ------------------------------------------------------------------


def test_a_key_under_a_password_is_refused_and_nobody_is_asked_for_it(place: Place) -> None:
    certificate, key = place.client[0], place.authority.encrypted("node1")
    with pytest.raises(BadInput, match=f"^here: {NO_PEM}"):
        tls_context(Tls(certificate=certificate.read_bytes(), key=key.read_bytes(), pair_at="here"))


def test_a_key_of_another_certificate_is_refused(place: Place) -> None:
    certificate, key = place.client[0], place.server[1]
    with pytest.raises(BadInput, match=f"^here: {NO_PEM}.*mismatch"):
        tls_context(Tls(certificate=certificate.read_bytes(), key=key.read_bytes(), pair_at="here"))


def test_no_key_is_left_anywhere(place: Place) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    certificate, key = place.client
    assert tls_context(Tls(certificate=certificate.read_bytes(), key=key.read_bytes())).check_hostname
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)
