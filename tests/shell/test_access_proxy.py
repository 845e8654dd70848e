"""Which HTTP proxy leads to the API server. What is expected is what Go's httpproxy package answers."""

from __future__ import annotations

import pytest

from kubeway.errors import BadInput
from kubeway.shell.access_proxy import proxy_from, proxy_url

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("server", "environ", "proxy"),
    [
        ("https://api.example:6443", {}, None),
        ("https://api.example:6443", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://api.example:6443", {"https_proxy": PROXY}, PROXY),
        ("https://api.example:6443", {"HTTPS_PROXY": "", "https_proxy": PROXY}, PROXY),
        ("https://api.example:6443", {"HTTP_PROXY": PROXY}, None),
        ("http://api.example:8080", {"HTTP_PROXY": PROXY}, PROXY),
        ("https://api.example:6443", {"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": PROXY}, None),
        ("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": PROXY}, None),
    ],
)
def test_the_variables(server: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_from(server, environ) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "server", "straight"),
    [
        ("*", "https://api.example", True),
        ("example", "https://api.example", True),
        (".example", "https://api.example", True),
        ("*.example", "https://api.example", True),
        ("api.example", "https://api.example", True),
        (".api.example", "https://api.example", False),
        ("pi.example", "https://api.example", False),
        ("other, API.example ,", "https://api.example", True),
        ("api.example:6443", "https://api.example:6443", True),
        ("api.example:443", "https://api.example", True),
        ("api.example:443", "https://api.example:6443", False),
        ("10.96.0.1", "https://10.96.0.1", True),
        ("10.96.0.1:443", "https://10.96.0.1:443", True),
        ("10.96.0.1:444", "https://10.96.0.1:443", False),
        ("10.96.0.0/12", "https://10.96.0.1", True),
        ("10.0.0.0/16", "https://10.96.0.1", False),
        ("10.96.0.0/99", "https://10.96.0.1", False),
        ("fd00::/8", "https://[fd00::1]:6443", True),
        ("fd00::1", "https://[fd00::1]:6443", True),
        ("[fd00::1]:6443", "https://[fd00::1]:6443", True),
        ("[fd00::1]:6443", "https://[fd00::1]:443", False),
        ("10.96.0.0/12", "https://api.example", False),
    ],
)
def test_no_proxy(no_proxy: str, server: str, straight: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = proxy_from(server, {"HTTPS_PROXY": PROXY, name: no_proxy})
        assert found == (None if straight else PROXY)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("socks5://p:1080", "SOCKS proxies are not supported; give http:// or https://"),
        ("ftp://p:21", "not the URL of a proxy; give http://HOST:PORT"),
        ("http://", "not the URL of a proxy; give http://HOST:PORT"),
        ("http://p:99999", "not the URL of a proxy; give http://HOST:PORT"),
        ("http://[p", "not the URL of a proxy; give http://HOST:PORT"),
    ],
)
def test_what_is_no_proxy(text: str, problem: str) -> None:
    with pytest.raises(BadInput) as error:
        proxy_url(text, "here")
    assert str(error.value) == f"here: {problem}"
    with pytest.raises(BadInput, match=r"^HTTPS_PROXY: "):
        proxy_from("https://api.example", {"HTTPS_PROXY": text})
