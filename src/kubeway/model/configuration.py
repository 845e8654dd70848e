"""
KubeProxyConfiguration: all that can be set, in kube-proxy's shape and with its defaults.

A `Configuration` is `kubeproxy.config.k8s.io/v1alpha1` as Kubernetes 1.36 has it
(staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go, defaults.go, conversion.go), and two
things more: `udpIdleTimeout`, which userspace mode had until 1.25, and the section `kubeway` for
what only kubeway has. `decode` makes one of a document, `encode` a document of one; they are
opposites but for what kube-proxy forgets too: the settings of the modes that are not in use.

Knows no file, no flag and no rule of what is allowed: `config_check` has those.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import fields, replace

from kubeway.errors import BadInput
from kubeway.model.config_words import (
    Duration,
    append_port,
    is_v4,
    parse_duration,
    parse_quantity,
    quote,
)

API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
KIND: Final = "KubeProxyConfiguration"
KUBERNETES: Final = (1, 36)
"""The minor version of kube-proxy that is stood in for."""

HEALTHZ_PORT: Final = 10256
METRICS_PORT: Final = 10249
AUTO: Final = "auto"
BACKENDS: Final = (AUTO, "nf_tables", "legacy")
STEERING: Final = (AUTO, "nft", "xtables")
"""Of the kernel's two iptables, in the words of `iptables --version`."""

SECOND: Final = 10**9
_NOTHING: Final = Duration(0)

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class Quantity(str):
    """An amount such as `64Ki`, as it was written."""

    __slots__ = ()


class _Section(Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class ClientConnection(_Section, frozen=True, kw_only=True):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: Int32 = 10


class VmoduleItem(_Section, frozen=True, kw_only=True):
    file_pattern: str = ""
    verbosity: UInt32 = 0


class LoggingFormatOptions(_Section, frozen=True, kw_only=True):
    split_stream: bool = False
    info_buffer_size: Quantity = Quantity("0")


class LoggingOptions(_Section, frozen=True, kw_only=True):
    text: LoggingFormatOptions = LoggingFormatOptions()
    json: LoggingFormatOptions = LoggingFormatOptions()


class Logging(_Section, frozen=True, kw_only=True):
    format: str = "text"
    flush_frequency: Duration = Duration(5 * SECOND)
    verbosity: UInt32 = 0
    vmodule: tuple[VmoduleItem, ...] = ()
    options: LoggingOptions = LoggingOptions()


class Iptables(_Section, frozen=True, kw_only=True):
    masquerade_bit: Int32 = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: Duration = Duration(30 * SECOND)
    min_sync_period: Duration = Duration(1 * SECOND)


class Ipvs(_Section, frozen=True, kw_only=True):
    sync_period: Duration = Duration(30 * SECOND)
    min_sync_period: Duration = _NOTHING
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] | None = field(default=None, name="excludeCIDRs")
    strict_arp: bool = field(default=False, name="strictARP")
    tcp_timeout: Duration = _NOTHING
    tcp_fin_timeout: Duration = _NOTHING
    udp_timeout: Duration = _NOTHING


class Nftables(_Section, frozen=True, kw_only=True):
    masquerade_bit: Int32 = 14
    masquerade_all: bool = False
    sync_period: Duration = Duration(30 * SECOND)
    min_sync_period: Duration = Duration(1 * SECOND)


class Winkernel(_Section, frozen=True, kw_only=True):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = field(default=False, name="enableDSR")
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class DetectLocal(_Section, frozen=True, kw_only=True):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Conntrack(_Section, frozen=True, kw_only=True):
    """A timeout of 0: the kernel's stays as it is."""

    max_per_core: Int32 = 32768
    min: Int32 = 131072
    tcp_established_timeout: Duration = Duration(24 * 3600 * SECOND)
    tcp_close_wait_timeout: Duration = Duration(3600 * SECOND)
    tcp_be_liberal: bool = False
    udp_timeout: Duration = _NOTHING
    udp_stream_timeout: Duration = _NOTHING


class Own(_Section, frozen=True, kw_only=True):
    """What only kubeway has.

    `min_sync_gap`: the least time between two syncs, or `auto`: as often as they are cheap.
    "": as the mode's minSyncPeriod says if that was set, else `auto`. `trace_file`: where
    to keep a timeline of syncs; "" keeps none. `iptables_backend`: which of the kernel's two
    iptables the modes iptables and ipvs write to, or `auto`: the one the node uses.
    `ipvs_drain`: how long an endpoint that has left keeps the connections it has, in mode ipvs.
    Of mode userspace: `steering`: what leads packets to the relay, or `auto`: nft where it is there;
    `relay_workers`: how many processes carry connections, 0: as many as suit this machine; `relay_drain`: as
    `ipvs_drain`; `relay_half_closed`: how long a connection of which one side has ended may stay when nothing
    moves.
    """

    min_sync_gap: str = ""
    drift_repair: bool = True
    trace_file: str = ""
    iptables_backend: str = AUTO
    ipvs_drain: Duration = Duration(900 * SECOND)
    steering: str = AUTO
    relay_workers: Int32 = 0
    relay_drain: Duration = Duration(900 * SECOND)
    relay_half_closed: Duration = Duration(3600 * SECOND)


class Configuration(_Section, frozen=True, kw_only=True):
    """Everything, resolved or on its way there; in the order of kube-proxy's own type."""

    feature_gates: dict[str, bool] = field(default_factory=dict)
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"
    healthz_bind_address: str = f"0.0.0.0:{HEALTHZ_PORT}"
    metrics_bind_address: str = f"127.0.0.1:{METRICS_PORT}"
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: Iptables = Iptables()
    ipvs: Ipvs = Ipvs()
    nftables: Nftables = Nftables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: str = field(default="", name="clusterCIDR")
    node_port_addresses: tuple[str, ...] | None = None
    oom_score_adj: Int32 = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period: Duration = Duration(15 * 60 * SECOND)
    port_range: str = ""
    udp_idle_timeout: Duration = Duration(SECOND // 4)
    windows_run_as_service: bool = False
    kubeway: Own = Own()

    # kube-proxy keeps one of each of these inside, and takes it from the section of the mode.

    @property
    def section(self) -> Iptables | Ipvs | Nftables:
        """The section that says how often to sync in this mode."""
        if self.mode == "ipvs":
            return self.ipvs
        return self.nftables if self.mode == "nftables" else self.iptables

    @property
    def masquerade_all(self) -> bool:
        return self.nftables.masquerade_all if self.mode == "nftables" else self.iptables.masquerade_all

    @property
    def masquerade_bit(self) -> int:
        return self.nftables.masquerade_bit if self.mode == "nftables" else self.iptables.masquerade_bit

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """Set apart by commas, and not trimmed, as kube-proxy does."""
        return tuple(self.cluster_cidr.split(",")) if self.cluster_cidr else ()


# --- changing --------------------------------------------------------------------------


def section_name(mode: str) -> str:
    """Whose syncPeriod and minSyncPeriod count in this mode."""
    return mode if mode in ("ipvs", "nftables") else "iptables"


def put(config: Configuration, path: str, value: Any) -> Configuration:
    """The configuration with another value at a path such as `iptables.syncPeriod`."""
    changed: Configuration = _put(config, path.split("."), value)
    return changed


def _put(into: Any, path: list[str], value: Any) -> Any:
    name = next(f.name for f in fields(into) if f.encode_name == path[0])
    return replace(into, **{name: _put(getattr(into, name), path[1:], value) if path[1:] else value})


def get(config: Configuration, path: str) -> Any:
    """The value at a path such as `iptables.syncPeriod`."""
    value: Any = config
    for step in path.split("."):
        value = getattr(value, next(f.name for f in fields(value) if f.encode_name == step))
    return value


def only_in_use(config: Configuration) -> Configuration:
    """Without what other modes' sections say of syncing and masquerading, which nobody reads."""
    used = section_name(config.mode)
    masquerading = "nftables" if used == "nftables" else "iptables"
    for name in ("iptables", "ipvs", "nftables"):
        if name != used:
            config = put(put(config, f"{name}.syncPeriod", _NOTHING), f"{name}.minSyncPeriod", _NOTHING)
        if name not in (masquerading, "ipvs"):
            config = put(config, f"{name}.masqueradeAll", False)
    return config


# --- decoding ------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """`unknown`: paths of fields nobody knows. `min_sync_period`: one was set for this mode."""

    configuration: Configuration
    unknown: tuple[str, ...]
    min_sync_period: bool


# What is empty or 0 there stands for the default (defaults.go); elsewhere it is meant.
_ZERO_IS_DEFAULT: Final = (
    "bindAddress",
    "clientConnection.contentType",
    "clientConnection.qps",
    "clientConnection.burst",
    "logging.format",
    "logging.flushFrequency",
    "iptables.syncPeriod",
    "iptables.minSyncPeriod",
    "ipvs.syncPeriod",
    "nftables.syncPeriod",
    "nftables.minSyncPeriod",
    "configSyncPeriod",
    "udpIdleTimeout",
)
_DEFAULT: Final = Configuration()


def decode(document: object, where: str) -> Decoded:
    """The configuration a document holds. BadInput names the field that cannot be read.

    Fields nobody knows are no error, as kube-proxy has it, but for those of the section
    `kubeway`. Null is the same as not being there.
    """
    if not isinstance(document, dict):
        raise BadInput(f"{where}: not a mapping; a {KIND} of {API_VERSION} is needed")
    bare = _without_nulls(document)
    kind, version = bare.pop("kind", ""), bare.pop("apiVersion", "")
    if (kind, version) != (KIND, API_VERSION):
        raise BadInput(
            f"{where}: kind {quote(str(kind))} of apiVersion {quote(str(version))}; "
            f"{KIND} of {API_VERSION} is needed"
        )
    unknown = tuple(_unknown(bare, Configuration))
    for path in unknown:
        if path.startswith("kubeway."):
            known = ", ".join(f.encode_name for f in fields(Own))
            raise BadInput(f"{where}: {path}: no such setting; there are {known}")
    # Of all durations this one may be a number too, of nanoseconds (logs/api/v1, TimeOrMetaDuration).
    if isinstance(often := _lookup(bare, "logging.flushFrequency"), int):
        bare["logging"]["flushFrequency"] = f"{often}ns"
    try:
        config = msgspec.convert(bare, Configuration, dec_hook=_read_word)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {_place(error)}") from None
    for path in _ZERO_IS_DEFAULT:
        if not get(config, path):
            config = put(config, path, get(_DEFAULT, path))
    named = _lookup(bare, f"{section_name(config.mode)}.minSyncPeriod")
    is_set = isinstance(named, str) and parse_duration(named) != 0
    return Decoded(only_in_use(_with_addresses(config, bare)), unknown, is_set)


def _with_addresses(config: Configuration, bare: Mapping[str, Any]) -> Configuration:
    any_host, own_host = ("0.0.0.0", "127.0.0.1") if is_v4(config.bind_address) else ("[::]", "[::1]")
    healthz = append_port(bare.get("healthzBindAddress", ""), HEALTHZ_PORT)
    metrics = append_port(bare.get("metricsBindAddress", ""), METRICS_PORT)
    return replace(
        config,
        healthz_bind_address=healthz or f"{any_host}:{HEALTHZ_PORT}",
        metrics_bind_address=metrics or f"{own_host}:{METRICS_PORT}",
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {str(key): _without_nulls(inner) for key, inner in value.items() if inner is not None}


def _read_word(kind: type, value: object) -> object:
    if kind is Duration:
        if isinstance(value, str):
            return parse_duration(value)
        raise ValueError(f"{value!r} is not text; a duration such as 1s, 500ms or 1m30s is needed")
    if kind is Quantity and isinstance(value, str | int) and not isinstance(value, bool):
        return Quantity(parse_quantity(str(value)))
    raise ValueError(f"{value!r} is not an amount such as 512, 64Ki or 1M")


def _place(error: msgspec.ValidationError) -> str:
    """msgspec's `what - at `$.path``, the path first."""
    what, at, path = str(error).rpartition(" - at `$.")
    return f"{path.removesuffix('`')}: {what}" if at else str(error)


def _unknown(document: Mapping[str, Any], kind: type[Struct], above: str = "") -> Iterator[str]:
    known = {f.encode_name: f.type for f in fields(kind)}
    for name, value in document.items():
        if name not in known:
            yield above + name
            continue
        of = _struct(known[name])
        if of is not None:
            items = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, item in items:
                if isinstance(item, dict):
                    at = name if index is None else f"{name}[{index}]"
                    yield from _unknown(item, of, f"{above}{at}.")


def _struct(kind: Any) -> type[Struct] | None:
    """The struct that a field holds, or holds several of."""
    if get_origin(kind) in (tuple, Union, types.UnionType):
        return next(filter(None, map(_struct, get_args(kind))), None)
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


def _lookup(document: Mapping[str, Any], path: str) -> object:
    value: Any = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


# --- encoding ------------------------------------------------------------------------------


def encode(config: Configuration) -> dict[str, Any]:
    """The document that says the same, in the order of kube-proxy's type.

    As kube-proxy does, it leaves out what is empty of `featureGates`, `logging.vmodule`,
    `splitStream` and `windowsRunAsService`; and of `udpIdleTimeout`, which it no longer has,
    the default.
    """
    document: dict[str, Any] = {"kind": KIND, "apiVersion": API_VERSION}
    document |= msgspec.to_builtins(only_in_use(config), enc_hook=str)
    for name in ("featureGates", "windowsRunAsService"):
        if not document[name]:
            del document[name]
    if config.udp_idle_timeout == _DEFAULT.udp_idle_timeout and config.mode != "userspace":
        del document["udpIdleTimeout"]
    logging = document["logging"]
    if not logging["vmodule"]:
        del logging["vmodule"]
    for options in logging["options"].values():
        if not options["splitStream"]:
            del options["splitStream"]
    if config.client_connection.qps.is_integer():
        document["clientConnection"]["qps"] = int(config.client_connection.qps)
    return document
