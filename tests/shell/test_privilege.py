"""Without the right to configure the network, one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeway.errors import Unsupported
from kubeway.shell.privilege import need_net_admin


@pytest.mark.parametrize("effective", ["0000000000000000", "000001ffffffefff"])
def test_without_it(tmp_path: Path, effective: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
    with pytest.raises(Unsupported, match="CAP_NET_ADMIN: run as root, or in a container with") as error:
        need_net_admin(str(status))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("effective", ["0000000000001000", "000001ffffffffff"])
def test_with_it(tmp_path: Path, effective: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t{effective}\n")
    need_net_admin(str(status))
