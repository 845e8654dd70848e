"""Names and numbers of sets in the bytes of a socket option, and that no bytes do harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire import xt_set as x

VERSION = bytes((6, 0, 0, 0))


def test_the_number_of_a_name_is_asked_as_the_kernel_reads_it() -> None:
    asked = x.ask_index("KUBE-CLUSTER-IP")
    assert asked == bytes((6, 0, 0, 0)) + VERSION + b"KUBE-CLUSTER-IP".ljust(32, b"\0")
    # The number takes the place of the first letters of the name.
    assert x.read_index(asked[:8] + b"\x02\0" + asked[10:]) == 2
    assert x.read_index(asked[:8] + b"\xff\xff" + asked[10:]) is None


def test_the_name_of_a_number_is_asked_as_the_kernel_reads_it() -> None:
    asked = x.ask_name(0x0102)
    assert asked == bytes((7, 0, 0, 0)) + VERSION + b"\x02\x01".ljust(32, b"\0")
    assert x.read_name(asked[:8] + b"KUBE-LOOP-BACK".ljust(32, b"\0")) == "KUBE-LOOP-BACK"
    assert x.read_name(asked[:8] + b"\0" + asked[9:]) is None


@pytest.mark.parametrize("name", ["", "x" * 32, "ü" * 16, "a\0b"])
def test_a_name_that_no_set_can_have_is_not_asked_for(name: str) -> None:
    """The kernel would cut it off, and find another set."""
    with pytest.raises(ValueError, match="no set can be called"):
        x.ask_index(name)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    for read in (x.read_index, x.read_name):
        with suppress(Malformed):
            read(data)
            assert len(data) == 40
