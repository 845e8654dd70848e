"""
All that the daemon is told, in the form it needs it.

    flags ──► Asked ──► Config
    file ──┘

`asked` has one checked configuration; `config` takes it apart: what decides the meaning of Services
(`Options`), where objects come from, where to listen, what to turn in the kernel. What this version
cannot do is refused here, and so is a daemon that nobody told where Services come from.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, cast

from msgspec import Struct, field

from kubeway.errors import BadInput
from kubeway.model import config_check, config_gates, configuration
from kubeway.model.config_flags import FOR_PROXY, Flag
from kubeway.model.config_words import parse_duration, quote, split_host_port
from kubeway.model.configuration import AUTO, Configuration
from kubeway.model.conntrack import ConntrackSettings
from kubeway.model.node import DetectLocalMode, Ipvs, Options, Steering
from kubeway.model.schedulers import DEFAULT, SCHEDULERS
from kubeway.records import ConfigNoted
from kubeway.shell.asked import Asked, node_name
from kubeway.shell.configfile import ConfigFile
from kubeway.values import Ip, parse_ip, parse_prefix, show_addr

LoggingFormat = Literal["text", "json"]

MODES: Final = ("nftables", "iptables", "ipvs", "userspace")
"""The modes this version has."""

_UNTOUCHED: Final = ConntrackSettings(
    max_per_core=0, min=0, tcp_established_timeout=0.0, tcp_close_wait_timeout=0.0
)


class Address(NamedTuple):
    """Where to listen. The unspecified address means every address of both families."""

    ip: Ip
    port: int

    def __str__(self) -> str:
        return show_addr(self.ip, self.port)


class Cluster(Struct, frozen=True):
    """An API server to hear of. `master` overrides the kubeconfig's; both "": in-cluster."""

    kubeconfig: str = ""
    master: str = ""


class Relaying(Struct, frozen=True):
    """How long the relay is patient, in seconds. `udp_idle`: None for its own."""

    drain: float = 900.0
    half_closed: float = 3600.0
    udp_idle: float | None = None


RELAYING: Final = Relaying()


class Config(Struct, frozen=True, kw_only=True):
    """Either `manifests` or `cluster` is set, never both. Times are seconds."""

    options: Options
    manifests: tuple[str, ...] = ()
    cluster: Cluster | None = None
    healthz: Address | None = None  # None: no such server
    metrics: Address | None = None
    hard_fail: bool = False  # end if one of these addresses cannot be had
    profiling: bool = False
    node_ip: Ip | None = None  # bindAddress, if it is one of its own: the node's primary address
    conntrack: ConntrackSettings = _UNTOUCHED
    oom_score_adj: int | None = None  # None: leave it
    sync_period: float = 30.0
    min_sync_period: float | None = None  # None: as often as syncs are cheap
    drift_repair: bool = True
    trace_file: str = ""  # a timeline of syncs; "": none
    iptables_backend: str = AUTO
    ipvs_drain: float = 900.0  # seconds
    relaying: Relaying = RELAYING
    logging_format: LoggingFormat = "text"
    verbosity: int = 0
    reported_version: str = ""  # --version=vX.Y.Z: what to say to those who ask
    file: ConfigFile | None = None  # to be watched
    notes: tuple[ConfigNoted, ...] = ()  # to be recorded first of all
    flags: dict[str, str] = field(default_factory=dict)  # every flag's value, for /flagz
    configuration: Configuration = Configuration()  # for /configz

    def gate(self, name: str) -> bool:
        """Whether this feature gate is open."""
        return config_gates.enabled(self.configuration.feature_gates, name)


def config(asked: Asked, environ: Mapping[str, str] = os.environ) -> Config:
    """BadInput if this version cannot do it, or if it is not said where objects come from."""
    wanted, given = asked.configuration, asked.given
    manifests, cluster = _source(asked, environ)
    gap = wanted.kubeway.min_sync_gap
    version = given.get("version", "")
    return Config(
        options=model_options(wanted, this_node(wanted.hostname_override)),
        manifests=manifests,
        cluster=cluster,
        healthz=_address(wanted.healthz_bind_address),
        metrics=_address(wanted.metrics_bind_address),
        hard_fail=wanted.bind_address_hard_fail,
        profiling=wanted.enable_profiling,
        node_ip=_own_address(wanted.bind_address),
        conntrack=conntrack(asked),
        oom_score_adj=wanted.oom_score_adj if _minds(asked, "oom-score-adj") else None,
        sync_period=wanted.section.sync_period.seconds,
        min_sync_period=None if gap == AUTO else parse_duration(gap).seconds,
        drift_repair=wanted.kubeway.drift_repair,
        trace_file=wanted.kubeway.trace_file,
        iptables_backend=wanted.kubeway.iptables_backend,
        ipvs_drain=wanted.kubeway.ipvs_drain.seconds,
        relaying=_relaying(wanted),
        logging_format=cast(LoggingFormat, wanted.logging.format),
        verbosity=wanted.logging.verbosity,
        reported_version=version if version.startswith("v") else "",
        file=asked.file,
        notes=tuple(map(ConfigNoted, asked.notes)),
        flags={flag.name: _shown(flag, given) for flag in FOR_PROXY},
        configuration=wanted,
    )


def model_options(wanted: Configuration, hostname: str = "") -> Options:
    """What decides the meaning of Services. BadInput for a mode this version does not have."""
    if wanted.mode not in MODES:
        raise BadInput(f"mode: {quote(wanted.mode)} is not in this version, which has: {', '.join(MODES)}")
    words = wanted.node_port_addresses or ()
    primary = words == (config_check.PRIMARY,)
    # Other modes do not look at clusterCIDR, and it is not checked for them.
    cidrs = wanted.cluster_cidrs if wanted.detect_local_mode == "ClusterCIDR" else ()
    return Options(
        hostname=hostname,
        mode=wanted.mode,
        cluster_cidrs=tuple(map(parse_prefix, cidrs)),
        detect_local=cast(DetectLocalMode, wanted.detect_local_mode),
        bridge_interface=wanted.detect_local.bridge_interface,
        interface_prefix=wanted.detect_local.interface_name_prefix,
        masquerade_all=wanted.masquerade_all,
        masquerade_bit=wanted.masquerade_bit,
        node_port_addresses="primary" if primary else tuple(map(parse_prefix, words)),
        localhost_node_ports=wanted.iptables.localhost_node_ports,
        drop_invalid=not wanted.conntrack.tcp_be_liberal,
        external_ips=config_gates.enabled(wanted.feature_gates, "AllowServiceExternalIPs"),
        ipvs=_ipvs(wanted.ipvs) if wanted.mode == "ipvs" else Ipvs(),
        steering=cast(Steering, wanted.kubeway.steering),
        relay_workers=wanted.kubeway.relay_workers if wanted.mode == "userspace" else 0,
    )


def _ipvs(wanted: configuration.Ipvs) -> Ipvs:
    scheduler = wanted.scheduler or DEFAULT
    if scheduler not in SCHEDULERS:
        raise BadInput(f"ipvs.scheduler: {quote(scheduler)} is none of {', '.join(SCHEDULERS)}")
    return Ipvs(
        scheduler=scheduler,
        strict_arp=wanted.strict_arp,
        tcp_timeout=int(wanted.tcp_timeout.seconds),
        tcp_fin_timeout=int(wanted.tcp_fin_timeout.seconds),
        udp_timeout=int(wanted.udp_timeout.seconds),
        exclude=tuple(map(parse_prefix, wanted.exclude_cidrs or ())),
    )


def _relaying(wanted: Configuration) -> Relaying:
    # The default of old is in many a file that was written by a tool, and lost slow answers: nobody means it.
    idle = wanted.udp_idle_timeout
    return Relaying(
        drain=wanted.kubeway.relay_drain.seconds,
        half_closed=wanted.kubeway.relay_half_closed.seconds,
        udp_idle=None if idle == Configuration().udp_idle_timeout else idle.seconds,
    )


def conntrack(asked: Asked) -> ConntrackSettings:
    """What to make of connection tracking."""
    if not _minds(asked, "conntrack-"):
        return _UNTOUCHED
    wanted = asked.configuration.conntrack
    return ConntrackSettings(
        max_per_core=wanted.max_per_core,
        min=wanted.min,
        tcp_established_timeout=wanted.tcp_established_timeout.seconds,
        tcp_close_wait_timeout=wanted.tcp_close_wait_timeout.seconds,
        tcp_be_liberal=wanted.tcp_be_liberal,
        udp_timeout=wanted.udp_timeout.seconds,
        udp_stream_timeout=wanted.udp_stream_timeout.seconds,
    )


def this_node(override: str) -> str:
    """The name of the node we run on: the host's unless overridden."""
    name = node_name("hostnameOverride", override) or node_name("host name", socket.gethostname())
    if not name:
        raise BadInput("--hostname-override: needed, as this host has no name")
    return name


def _minds(asked: Asked, flags: str) -> bool:
    """Whether to turn what these flags are about.

    In a cluster that is the proxy's part, asked or not. On a machine of its own, on manifests,
    nothing is turned that nobody asked for.
    """
    if "manifests" not in asked.given or asked.file is not None:
        return True
    return any(name.startswith(flags) for name in asked.given)


def _source(asked: Asked, environ: Mapping[str, str]) -> tuple[tuple[str, ...], Cluster | None]:
    manifests = tuple(asked.given.get("manifests", ()))
    cluster = Cluster(asked.configuration.client_connection.kubeconfig, asked.given.get("master", ""))
    named = "a kubeconfig" if cluster.kubeconfig else "--master" if cluster.master else ""
    if manifests and named:
        raise BadInput(f"--manifests: there is {named} too; objects come from one of them")
    if manifests:
        return manifests, None
    in_cluster = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
    if not (named or in_cluster):
        raise BadInput(
            "nobody says where Services come from: give --kubeconfig or --master (`kubeway run` takes "
            "--manifests too), or run in a Pod: KUBERNETES_SERVICE_HOST and _PORT are not set"
        )
    return (), cluster


def _address(text: str) -> Address | None:
    if not text:
        return None
    host, port = split_host_port(text)
    return Address(parse_ip(host), int(port))


def _own_address(text: str) -> Ip | None:
    """None for an unspecified address, which is nobody's own."""
    ip = parse_ip(text)
    return ip if any(ip) else None


def _shown(flag: Flag, given: Mapping[str, Any]) -> str:
    """A flag's value as text; its default if it was not given."""
    value = given.get(flag.name, flag.default)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{name}={str(on).lower()}" for name, on in value.items())
    if isinstance(value, list):
        return ",".join(
            f"{item['filePattern']}={item['verbosity']}" if isinstance(item, dict) else item for item in value
        )
    return f"{value:g}" if isinstance(value, float) else str(value)
