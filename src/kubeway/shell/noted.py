"""
The times that the cluster notes on EndpointSlices, handed to `machines.triggers`.

A slice that goes is told by its name alone, so whose each slice is, is remembered here.
What becomes of the times is not known here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from kubeway.machines.triggers import ANNOTATION, Triggers, parse
from kubeway.model.forward import ServiceName
from kubeway.model.objects import EndpointSlice, Identity


class _Annotations(Struct, gc=False):
    noted: Any = msgspec.field(name=ANNOTATION, default=None)


class _Meta(Struct, gc=False):
    annotations: _Annotations | None = None


class _Annotated(Struct, gc=False):
    metadata: _Meta | None = None


_ANNOTATED: Final = msgspec.json.Decoder(_Annotated)


class Noted:
    """Tells `Triggers` what the cluster noted on slices. Remembers whose each is: they go by name alone."""

    def __init__(self, triggers: Triggers) -> None:
        self._triggers = triggers
        self._services: dict[Identity, ServiceName] = {}

    def put(self, piece: EndpointSlice, raw: Raw, news: bool) -> None:
        """The slice, and its JSON. `news`: a change that happened while we looked."""
        if piece.service is None:
            self.drop(piece.identity)
            return
        self._services[piece.identity] = piece.service
        if news and (at := _noted(raw)) is not None:
            self._triggers.noted(piece.service, piece.family, at)

    def drop(self, key: Identity) -> None:
        service = self._services.pop(key, None)
        if service is not None:
            self._triggers.gone(service)


def _noted(raw: Raw) -> int | None:
    try:
        meta = _ANNOTATED.decode(raw).metadata
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    text = meta.annotations.noted if meta is not None and meta.annotations is not None else None
    return parse(text) if isinstance(text, str) else None
