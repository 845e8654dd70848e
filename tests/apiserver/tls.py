"""
Certificates for a test: an authority of its own, a server's, a client's; made by `openssl` in a directory.
"""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

SERVER = "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName={names}\n"
CLIENT = "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n"


class Tls:
    """`names` are the server's, as openssl spells them. Valid for a day, from now."""

    def __init__(self, directory: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> None:
        self._directory = directory
        self.ca = directory / "ca.crt"
        self.client_cert, self.client_key = directory / "client.crt", directory / "client.key"
        self._openssl("req", "-x509", *self._fresh("ca"), "-out", "ca.crt", "-subj", "/CN=test-ca")
        self._issue("server", "/CN=kube-apiserver", SERVER.format(names=names))
        self._issue("client", "/O=system:nodes/CN=system:kube-proxy", CLIENT)

    def server_context(self) -> ssl.SSLContext:
        """Shows the server's certificate and looks at the client's, if it has one."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca))
        context.load_cert_chain(self._directory / "server.crt", self._directory / "server.key")
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client_context(self, *, certificate: bool = False) -> ssl.SSLContext:
        """Trusts the authority; with `certificate`, shows the client's."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    def _issue(self, name: str, subject: str, extensions: str) -> None:
        (self._directory / f"{name}.ext").write_text(extensions)
        self._openssl("req", *self._fresh(name), "-out", f"{name}.csr", "-subj", subject)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-days", "1", "-out", f"{name}.crt")

    def _fresh(self, name: str) -> list[str]:
        # Elliptic curves: an RSA key takes long to find.
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        return [*curve, "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._directory, capture_output=True, check=True)
