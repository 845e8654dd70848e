"""
Which HTTP proxy leads to the API server, by the environment.

The variables and their meaning are those of Go's `http.ProxyFromEnvironment`, as
kube-proxy has it and as kubeadm sets them in its Pods: unlike Python's own reading of
them, `NO_PROXY` may hold networks, and loopback is never reached through a proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from kubeway.errors import BadInput
from kubeway.model.addresses import is_loopback
from kubeway.values import Ip, parse_ip, parse_prefix


def proxy_from(server: str, environ: Mapping[str, str]) -> str | None:
    """The proxy for requests to `server`, a URL; None: straight. BadInput names the variable."""
    url = urlsplit(server)
    for name in (f"{url.scheme.upper()}_PROXY", f"{url.scheme}_proxy"):
        if text := environ.get(name, "").strip():
            break
    else:
        return None
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    if _straight(host, port, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    return proxy_url(text if "://" in text else f"http://{text}", name)


def proxy_url(text: str, at: str) -> str:
    """The URL of a proxy that can be spoken to. BadInput begins with `at`."""
    try:
        url = urlsplit(text)
        good = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    else:
        if url.scheme.startswith("socks"):
            raise BadInput(f"{at}: SOCKS proxies are not supported; give http:// or https://")
        good = good and url.scheme in ("http", "https")
    if not good:
        raise BadInput(f"{at}: not the URL of a proxy; give http://HOST:PORT")
    return text


def _straight(host: str, port: int, no_proxy: str) -> bool:
    ip = _ip(host)
    if host == "localhost" or (ip is not None and is_loopback(ip)):
        return True
    return any(_matches(each.strip().lower(), host, ip, port) for each in no_proxy.split(",") if each.strip())


def _matches(entry: str, host: str, ip: Ip | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return ip is not None and parse_prefix(entry).holds(ip)
        except ValueError:
            return False
    name, wanted = _host_and_port(entry)
    if wanted and wanted != str(port):
        return False
    if (address := _ip(name)) is not None:
        return address == ip
    suffix = name.removeprefix("*")
    return host.endswith(suffix if suffix.startswith(".") else f".{suffix}") or host == name


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _ip(text: str) -> Ip | None:
    try:
        return parse_ip(text)
    except ValueError:
        return None
