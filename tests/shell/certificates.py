"""Certificates for tests, made with the openssl command: an authority, servers and clients."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """Signs what it is asked to. All files are in `root`; `ca.crt` is the authority's own."""

    def __init__(self, root: Path, name: str = "kubernetes") -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.ca = root / "ca.crt"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", f"/CN={name}"),
        )

    def sign(self, name: str, san: str = "") -> tuple[Path, Path]:
        """Certificate and key for `name`; `san` as openssl writes them, `IP:127.0.0.1,DNS:kubernetes`."""
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/O=system:nodes/CN={name}"),
        )
        extensions = self.root / f"{name}.ext"
        extensions.write_text(f"subjectAltName={san}\n" if san else "basicConstraints=CA:FALSE\n")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.crt", "-days", "2", "-extfile", extensions.name),
        )
        return self.root / f"{name}.crt", self.root / f"{name}.key"

    def encrypted(self, name: str) -> Path:
        """The key of `name`, under a password."""
        self._openssl("ec", "-in", f"{name}.key", "-out", f"{name}.enc", "-aes128", "-passout", "pass:secret")
        return self.root / f"{name}.enc"

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.root, check=True, capture_output=True, timeout=60)
