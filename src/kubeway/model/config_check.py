"""
What a configuration may be: kube-proxy's rules, with its paths and its words.

The rules are those of pkg/proxy/apis/config/validation; all that is wrong is found and told
together, so that a file is mended in one go. Three rules are ours: names of interfaces have to
be such (the kernel would refuse them later), the shortest time between syncs is at most an hour
(kube-proxy accepts a longer one and then panics), and an empty metrics address is not refused, as
it is how the metrics server is switched off (kube-proxy says so in its help and refuses it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kubeway.model import config_gates
from kubeway.model.config_words import (
    Duration,
    is_ip,
    is_port,
    is_zero,
    parse_duration,
    quote,
    split_host_port,
)
from kubeway.model.configuration import (
    AUTO,
    BACKENDS,
    KUBERNETES,
    SECOND,
    STEERING,
    Configuration,
    Conntrack,
    Ipvs,
    Logging,
)
from kubeway.values import family_of, parse_prefix

MODES: Final = ("iptables", "ipvs", "nftables", "userspace")
"""kube-proxy 1.36 has the first three; userspace it had until 1.25."""

LOCAL_MODES: Final = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
PRIMARY: Final = "primary"
LONGEST_GAP: Final = Duration(3600 * SECOND)
MOST_WORKERS: Final = 64

_ROOT: Final = "KubeProxyConfiguration"
_NEGATIVE: Final = "must be greater than or equal to 0"
_NOT_POSITIVE: Final = "must be greater than 0"
_CIDR_EXAMPLE: Final = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
_PAIR: Final = (
    "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"
)
# include/uapi/linux/if.h: IFNAMSIZ is 16 with the closing zero; dev_valid_name() refuses the rest.
_INTERFACE: Final = re.compile(r"(?!\.{1,2}$)[^\s/:]{1,15}")
_NO_INTERFACE: Final = "must be the name of an interface: at most 15 characters, no space, / or :"
_MAX_INT32: Final = 2**31 - 1


def problems(config: Configuration) -> list[str]:
    """All that is wrong, each with its path; nothing twice."""
    return list(dict.fromkeys(_all(config)))


def summary(problems: Sequence[str]) -> str:
    """One line of several problems, as kube-proxy joins them."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def _all(config: Configuration) -> Iterator[str]:
    gates = config_gates.problems(config.feature_gates)
    if gates:
        shown = " ".join(f"{name}:{str(on).lower()}" for name, on in sorted(config.feature_gates.items()))
        yield _invalid("featureGates", f"map[{shown}]", summary(gates))
    yield from _mask("KubeProxyIPTablesConfiguration", config.iptables.masquerade_bit)
    if config.mode == "ipvs":
        yield from _ipvs("KubeProxyIPVSConfiguration", config.ipvs)
    if config.mode == "nftables":
        yield from _mask("KubeProxyNFTablesConfiguration", config.nftables.masquerade_bit)
    yield from _conntrack("KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration", config.conntrack)
    if not -1000 <= config.oom_score_adj <= 1000:
        at = "KubeProxyLinuxConfiguration.OOMScoreAdj"
        yield _invalid(at, config.oom_score_adj, "must be within the range [-1000, 1000]")
    yield from _mode(config.mode)
    if config.client_connection.burst < 0:
        yield _invalid("ClientConnection.Burst", config.client_connection.burst, _NEGATIVE)
    yield from _periods(config)
    if not is_ip(config.bind_address):
        text = "not a valid textual representation of an IP address"
        yield _invalid("BindAddress", quote(config.bind_address), text)
    yield from _host_port("HealthzBindAddress", config.healthz_bind_address)
    yield from _host_port("MetricsBindAddress", config.metrics_bind_address)
    yield from _node_ports("NodePortAddresses", config.node_port_addresses or ())
    yield from _hidden_metrics(config.show_hidden_metrics_for_version)
    yield from _detect_local("DetectLocalConfiguration", config)
    yield from _logging("logging", config)
    yield from _own(config)


# --- the parts ---------------------------------------------------------------------------


def _mask(path: str, bit: int) -> Iterator[str]:
    if not 0 <= bit <= 31:
        yield _invalid(f"{path}.MasqueradeBit", bit, "must be within the range [0, 31]")


def _ipvs(path: str, ipvs: Ipvs) -> Iterator[str]:
    for name, timeout in (
        ("TCPTimeout", ipvs.tcp_timeout),
        ("TCPFinTimeout", ipvs.tcp_fin_timeout),
        ("UDPTimeout", ipvs.udp_timeout),
    ):
        if timeout < 0:
            yield _invalid(f"{path}.{name}", timeout, _NEGATIVE)
    for index, cidr in enumerate(ipvs.exclude_cidrs or ()):
        if not _is_cidr(cidr):
            yield _invalid(f"{path}.ExcludeCidrs[{index}]", quote(cidr), "must be a valid CIDR")


def _conntrack(path: str, conntrack: Conntrack) -> Iterator[str]:
    for name, value in (
        ("MaxPerCore", conntrack.max_per_core),
        ("Min", conntrack.min),
        ("TCPEstablishedTimeout", conntrack.tcp_established_timeout),
        ("TCPCloseWaitTimeout", conntrack.tcp_close_wait_timeout),
        ("UDPTimeout", conntrack.udp_timeout),
        ("UDPStreamTimeout", conntrack.udp_stream_timeout),
    ):
        if value < 0:
            yield _invalid(f"{path}.{name}", value, _NEGATIVE)


def _mode(mode: str) -> Iterator[str]:
    if mode and mode not in MODES:
        words = f"must be {', '.join(MODES)} or blank (blank means the best-available proxy)"
        yield _invalid("Mode.ProxyMode", quote(mode), words)


def _periods(config: Configuration) -> Iterator[str]:
    sync, least = config.section.sync_period, config.section.min_sync_period
    if config.config_sync_period <= 0:
        yield _invalid("ConfigSyncPeriod", config.config_sync_period, _NOT_POSITIVE)
    if sync <= 0:
        yield _invalid("SyncPeriod", sync, _NOT_POSITIVE)
    if least < 0:
        yield _invalid("MinSyncPeriod", least, _NEGATIVE)
    if least > sync:
        # kube-proxy shows the smaller of the two here, and attaches it to the larger.
        yield _invalid("SyncPeriod", least, f"must be greater than or equal to {_ROOT}.MinSyncPeriod")
    if least > LONGEST_GAP:
        yield _invalid("MinSyncPeriod", least, f"must be at most {LONGEST_GAP}")
    if config.udp_idle_timeout <= 0:
        yield _invalid("UDPIdleTimeout", config.udp_idle_timeout, _NOT_POSITIVE)


def _host_port(name: str, address: str) -> Iterator[str]:
    if not address:
        return
    try:
        host, port = split_host_port(address)
    except ValueError:
        yield _invalid(name, quote(address), "must be IP:port")
        return
    if not is_ip(host):
        yield _invalid(name, quote(host), "must be a valid IP")
    if not is_port(port):
        yield _invalid(name, quote(port), "must be a valid port")


def _node_ports(name: str, words: Sequence[str]) -> Iterator[str]:
    for index, word in enumerate(words):
        if word == PRIMARY:
            if len(words) != 1:
                yield _invalid(f"{name}[{index}]", quote(word), "can't use both 'primary' and CIDRs")
            return
        if not _is_cidr(word):
            yield _invalid(f"{name}[{index}]", quote(word), "must be a valid CIDR")


def _hidden_metrics(version: str) -> Iterator[str]:
    previous = f"{KUBERNETES[0]}.{KUBERNETES[1] - 1}"
    if version not in ("", previous):
        words = (
            f"--show-hidden-metrics-for-version must be omitted or have the value '{previous}'. "
            "Only the previous minor version is allowed"
        )
        yield _invalid("ShowHiddenMetricsForVersion", quote(version), words)


def _detect_local(path: str, config: Configuration) -> Iterator[str]:
    mode, detect = config.detect_local_mode, config.detect_local
    if mode and mode not in LOCAL_MODES:
        known = ", ".join(map(quote, (*LOCAL_MODES, "")))
        yield f"{_ROOT}.DetectLocalMode: Unsupported value: {quote(mode)}: supported values: {known}"
    elif mode == "BridgeInterface":
        yield from _interface(f"{path}.InterfaceName", detect.bridge_interface)
    elif mode == "InterfaceNamePrefix":
        yield from _interface(f"{path}.InterfacePrefix", detect.interface_name_prefix)
    elif mode == "ClusterCIDR":
        yield from _cluster_cidrs(f"{path}.ClusterCIDRs", config.cluster_cidrs)


def _interface(path: str, name: str) -> Iterator[str]:
    if not name:
        yield _invalid(path, quote(name), "must not be empty")
    elif not _INTERFACE.fullmatch(name):
        yield _invalid(path, quote(name), _NO_INTERFACE)


def _cluster_cidrs(path: str, cidrs: Sequence[str]) -> Iterator[str]:
    shown = f"[{', '.join(map(quote, cidrs))}]"
    if len(cidrs) > 2:
        yield _invalid(path, shown, _PAIR)
        return
    bad = [index for index, cidr in enumerate(cidrs) if not _is_cidr(cidr)]
    for index in bad:
        yield _invalid(f"{path}[{index}]", quote(cidrs[index]), _CIDR_EXAMPLE)
    if len(cidrs) == 2 and not bad and len({family_of(parse_prefix(cidr).ip) for cidr in cidrs}) == 1:
        yield _invalid(path, shown, _PAIR)


def _logging(path: str, config: Configuration) -> Iterator[str]:
    logging = config.logging
    if logging.format not in ("text", "json"):
        yield _invalid(f"{path}.format", quote(logging.format), "Unsupported log format")
    elif logging.format == "json" and not _gate(config, "LoggingBetaOptions"):
        words = "Log format json is disabled, see LoggingBetaOptions feature"
        yield f"{_ROOT}.{path}.format: Forbidden: {words}"
    if logging.verbosity > _MAX_INT32:
        yield _invalid(f"{path}.verbosity", logging.verbosity, f"Must be <= {_MAX_INT32}")
    yield from _vmodule(f"{path}.vmodule", logging)
    if not _gate(config, "LoggingAlphaOptions"):
        for form, options in (("text", logging.options.text), ("json", logging.options.json)):
            for name, is_set in (
                ("splitStream", options.split_stream),
                ("infoBufferSize", not is_zero(options.info_buffer_size)),
            ):
                if is_set:
                    words = "Feature LoggingAlphaOptions is disabled"
                    yield f"{_ROOT}.{path}.options.{form}.{name}: Forbidden: {words}"


def _vmodule(path: str, logging: Logging) -> Iterator[str]:
    if logging.vmodule and logging.format != "text":
        yield f"{_ROOT}.{path}: Forbidden: Only supported for text log format"
    for index, item in enumerate(logging.vmodule):
        if not item.file_pattern:
            yield f"{_ROOT}.{path}[{index}]: Required value: File pattern must not be empty"
        if set(item.file_pattern) & set("=,"):
            words = "File pattern must not contain equal sign or comma"
            yield _invalid(f"{path}[{index}]", quote(item.file_pattern), words)
        if item.verbosity > _MAX_INT32:
            yield _invalid(f"{path}[{index}]", item.verbosity, f"Must be <= {_MAX_INT32}")


def _own(config: Configuration) -> Iterator[str]:
    backend = config.kubeway.iptables_backend
    if backend not in BACKENDS:
        yield _invalid("kubeway.iptablesBackend", quote(backend), f"must be one of {', '.join(BACKENDS)}")
    steering = config.kubeway.steering
    if steering not in STEERING:
        yield _invalid("kubeway.steering", quote(steering), f"must be one of {', '.join(STEERING)}")
    workers = config.kubeway.relay_workers
    if not 0 <= workers <= MOST_WORKERS:
        yield _invalid("kubeway.relayWorkers", workers, f"must be within the range [0, {MOST_WORKERS}]")
    if config.kubeway.relay_drain < 0:
        yield _invalid("kubeway.relayDrain", config.kubeway.relay_drain, _NEGATIVE)
    if config.kubeway.relay_half_closed <= 0:
        yield _invalid("kubeway.relayHalfClosed", config.kubeway.relay_half_closed, _NOT_POSITIVE)
    gap = config.kubeway.min_sync_gap
    if gap in ("", AUTO):
        return
    try:
        if not 0 <= parse_duration(gap) <= LONGEST_GAP:
            yield _invalid("kubeway.minSyncGap", quote(gap), f"must be from 0s to {LONGEST_GAP}")
    except ValueError:
        yield _invalid("kubeway.minSyncGap", quote(gap), "must be auto, or a duration such as 500ms")


# --- words ------------------------------------------------------------------------------------


def _invalid(path: str, value: object, what: str) -> str:
    return f"{_ROOT}.{path}: Invalid value: {value}: {what}"


def _gate(config: Configuration, name: str) -> bool:
    return config_gates.enabled(config.feature_gates, name)


def _is_cidr(text: str) -> bool:
    try:
        parse_prefix(text)
    except ValueError:
        return False
    return True
