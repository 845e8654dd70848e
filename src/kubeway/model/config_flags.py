"""
The flags of the daemon, as data: kube-proxy 1.36's, and after them our own.

One table for both command lines: `kubeway-proxy` reads it as Go programs read theirs, `kubeway run`
makes its options of it, and documents are held against it. Nothing heavy is imported, so that
`--help` answers at once. What a flag changes is its `path` in the configuration, or, where that is
empty, up to `shell.options`. Knows no configuration and no command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from kubeway.model import config_words as words

Kind = Literal[
    "address",
    "bool",
    "duration",
    "endpoint",
    "float32",
    "gates",
    "int32",
    "list",
    "quantity",
    "string",
    "strings",
    "verbosity",
    "version",
    "vmodule",
]


class Flag(NamedTuple):
    """`default`: as help shows it. `always`: it counts beside --config too; others are ignored then.

    `only`: the flag is not kube-proxy's: `run` for those of `kubeway` alone, `both` for those that
    kubeway-proxy takes too. `old`: no longer kube-proxy's, or no longer to be used; what to do instead.
    """

    name: str
    kind: Kind
    default: str
    path: str
    help: str
    metavar: str = ""
    always: bool = False
    short: str = ""
    only: Literal["", "run", "both"] = ""
    old: str = ""


FLAGS: Final[tuple[Flag, ...]] = (
    # --- what to do ---
    Flag("config", "string", "", "", "The configuration file; most flags are ignored then.", "FILE", True),
    Flag("write-config-to", "string", "", "", "Write the configuration there, and end.", "FILE", True),
    Flag("cleanup", "bool", "false", "", "Remove all rules from the kernel, and end.", always=True),
    Flag("init-only", "bool", "false", "", "Do what needs full root privileges, and end.", always=True),
    Flag("version", "version", "false", "", "Print the version, and end.", "[raw|vX.Y.Z]", always=True),
    Flag("feature-gates", "gates", "", "featureGates", "Feature gates.", "GATE=BOOL,…"),
    # --- the API ---
    Flag("kubeconfig", "string", "", "clientConnection.kubeconfig", "How to reach the API server.", "FILE"),
    Flag("master", "string", "", "", "The API server's URL, whatever the kubeconfig says.", "URL", True),
    Flag(
        "kube-api-content-type",
        "string",
        "application/vnd.kubernetes.protobuf",
        "clientConnection.contentType",
        "Accepted; JSON is spoken.",
        "TYPE",
    ),
    Flag("kube-api-burst", "int32", "10", "clientConnection.burst", "Accepted; requests are few.", "N"),
    Flag("kube-api-qps", "float32", "5", "clientConnection.qps", "Accepted; requests are few.", "N"),
    Flag(
        "config-sync-period",
        "duration",
        "15m0s",
        "configSyncPeriod",
        "Accepted; what is known is not gone over again by the clock.",
        "DURATION",
    ),
    # --- this node and its servers ---
    Flag("hostname-override", "string", "", "", "This node's name; by default the host's.", "NAME", True),
    Flag("bind-address", "address", "0.0.0.0", "bindAddress", "The node's primary address.", "IP"),
    Flag(
        "healthz-bind-address",
        "endpoint",
        "0.0.0.0:10256",
        "healthzBindAddress",
        "Where /healthz, /livez and /readyz answer; empty: nowhere.",
        "IP[:PORT]",
    ),
    Flag(
        "metrics-bind-address",
        "endpoint",
        "127.0.0.1:10249",
        "metricsBindAddress",
        "Where /metrics answers; empty: nowhere.",
        "IP[:PORT]",
    ),
    Flag("bind-address-hard-fail", "bool", "false", "bindAddressHardFail", "End if these are taken."),
    Flag("profiling", "bool", "false", "enableProfiling", "Answer /debug on the metrics address too."),
    Flag(
        "show-hidden-metrics-for-version",
        "string",
        "",
        "showHiddenMetricsForVersion",
        "Show the metrics that were hidden after this version, the last one.",
        "X.Y",
    ),
    Flag("oom-score-adj", "int32", "-999", "oomScoreAdj", "oom_score_adj of this process.", "N"),
    # --- how packets are led ---
    Flag("proxy-mode", "string", "", "mode", "How packets are led: nftables, iptables or ipvs.", "MODE"),
    Flag(
        "masquerade-all",
        "bool",
        "false",
        "",
        "Masquerade everything that is sent to ClusterIPs.",
    ),
    Flag(
        "detect-local-mode",
        "string",
        "",
        "detectLocalMode",
        "How a Pod's packet is told: ClusterCIDR (the default), NodeCIDR, BridgeInterface or "
        "InterfaceNamePrefix.",
        "MODE",
    ),
    Flag(
        "cluster-cidr",
        "string",
        "",
        "clusterCIDR",
        "Addresses of Pods: one CIDR, or one of each family.",
        "CIDR[,CIDR]",
    ),
    Flag(
        "pod-bridge-interface",
        "string",
        "",
        "detectLocal.bridgeInterface",
        "The bridge of Pods, for BridgeInterface.",
        "NAME",
    ),
    Flag(
        "pod-interface-name-prefix",
        "string",
        "",
        "detectLocal.interfaceNamePrefix",
        "What names of Pods' interfaces begin with, for InterfaceNamePrefix.",
        "PREFIX",
    ),
    Flag(
        "nodeport-addresses",
        "list",
        "",
        "nodePortAddresses",
        "Which addresses of the node accept node ports: CIDRs, or 'primary' for the Node's own.",
        "CIDRS",
    ),
    Flag(
        "iptables-masquerade-bit",
        "int32",
        "14",
        "iptables.masqueradeBit",
        "The bit of the packet mark that asks for masquerading, in the modes iptables and ipvs.",
        "BIT",
    ),
    Flag(
        "iptables-localhost-nodeports",
        "bool",
        "true",
        "iptables.localhostNodePorts",
        "Node ports on 127.0.0.0/8, in the mode iptables.",
    ),
    Flag(
        "iptables-sync-period",
        "duration",
        "30s",
        "",
        "How soon a failed sync is tried again at the latest; for nftables too.",
        "DURATION",
    ),
    Flag(
        "iptables-min-sync-period",
        "duration",
        "1s",
        "",
        "The least time between syncs; for nftables too.",
        "DURATION",
    ),
    Flag(
        "ipvs-sync-period",
        "duration",
        "30s",
        "",
        "How soon a failed sync is tried again at the latest, in the mode ipvs.",
        "DURATION",
    ),
    Flag(
        "ipvs-min-sync-period",
        "duration",
        "1s",
        "",
        "The least time between syncs, in the mode ipvs.",
        "DURATION",
    ),
    Flag(
        "ipvs-scheduler",
        "string",
        "",
        "ipvs.scheduler",
        "How the mode ipvs chooses an endpoint: rr (if empty), lc, sh, mh or another of the kernel's.",
        "NAME",
    ),
    Flag(
        "ipvs-exclude-cidrs",
        "list",
        "",
        "ipvs.excludeCIDRs",
        "Virtual servers in these CIDRs are others': the mode ipvs deletes none there.",
        "CIDRS",
    ),
    Flag(
        "ipvs-strict-arp",
        "bool",
        "false",
        "ipvs.strictARP",
        "In the mode ipvs, answer no ARP for Services' addresses (arp_ignore=1, arp_announce=2).",
    ),
    Flag(
        "ipvs-tcp-timeout",
        "duration",
        "0s",
        "ipvs.tcpTimeout",
        "Idle TCP of ipvs, in whole seconds; 0: as it is.",
        "DURATION",
    ),
    Flag(
        "ipvs-tcpfin-timeout",
        "duration",
        "0s",
        "ipvs.tcpFinTimeout",
        "TCP of ipvs after a FIN, in whole seconds; 0: as it is.",
        "DURATION",
    ),
    Flag(
        "ipvs-udp-timeout",
        "duration",
        "0s",
        "ipvs.udpTimeout",
        "Idle UDP of ipvs, in whole seconds; 0: as it is.",
        "DURATION",
    ),
    # --- connection tracking ---
    Flag(
        "conntrack-max-per-core",
        "int32",
        "32768",
        "conntrack.maxPerCore",
        "Tracked flows per core at most; 0: the limit stays, and --conntrack-min means nothing.",
        "N",
    ),
    Flag("conntrack-min", "int32", "131072", "conntrack.min", "Tracked flows that there is room for.", "N"),
    Flag(
        "conntrack-tcp-timeout-established",
        "duration",
        "24h0m0s",
        "conntrack.tcpEstablishedTimeout",
        "Idle established TCP; 0: as it is.",
        "DURATION",
    ),
    Flag(
        "conntrack-tcp-timeout-close-wait",
        "duration",
        "1h0m0s",
        "conntrack.tcpCloseWaitTimeout",
        "TCP in CLOSE_WAIT; 0: as it is.",
        "DURATION",
    ),
    Flag(
        "conntrack-tcp-be-liberal",
        "bool",
        "false",
        "conntrack.tcpBeLiberal",
        "Track TCP that is out of its window too.",
    ),
    Flag(
        "conntrack-udp-timeout",
        "duration",
        "0s",
        "conntrack.udpTimeout",
        "UDP that was not answered; 0: as it is.",
        "DURATION",
    ),
    Flag(
        "conntrack-udp-timeout-stream",
        "duration",
        "0s",
        "conntrack.udpStreamTimeout",
        "UDP that goes both ways; 0: as it is.",
        "DURATION",
    ),
    # --- the log ---
    Flag("logging-format", "string", "text", "logging.format", "text or json.", "FORMAT", True),
    Flag("v", "verbosity", "0", "logging.verbosity", "1 and more: debug records too.", "N", True, "v"),
    Flag("vmodule", "vmodule", "", "logging.vmodule", "Accepted; there are no modules.", "PATTERN=N,…", True),
    Flag(
        "log-flush-frequency",
        "duration",
        "5s",
        "logging.flushFrequency",
        "Accepted; each line is written at once.",
        "DURATION",
        True,
    ),
    Flag(
        "log-text-split-stream",
        "bool",
        "false",
        "logging.options.text.splitStream",
        "Accepted with the gate LoggingAlphaOptions; the log goes to stderr.",
        always=True,
    ),
    Flag(
        "log-text-info-buffer-size",
        "quantity",
        "0",
        "logging.options.text.infoBufferSize",
        "Accepted with the gate LoggingAlphaOptions; nothing is buffered.",
        "AMOUNT",
        True,
    ),
    Flag(
        "log-json-split-stream",
        "bool",
        "false",
        "logging.options.json.splitStream",
        "Accepted with the gate LoggingAlphaOptions; the log goes to stderr.",
        always=True,
    ),
    Flag(
        "log-json-info-buffer-size",
        "quantity",
        "0",
        "logging.options.json.infoBufferSize",
        "Accepted with the gate LoggingAlphaOptions; nothing is buffered.",
        "AMOUNT",
        True,
    ),
    # --- accepted, and of no use ---
    Flag(
        "boot-id-file",
        "string",
        "/proc/sys/kernel/random/boot_id",
        "",
        "Accepted; kube-proxy makes no use of it either.",
        "FILES",
        True,
    ),
    Flag(
        "machine-id-file",
        "string",
        "/etc/machine-id,/var/lib/dbus/machine-id",
        "",
        "Accepted; kube-proxy makes no use of it either.",
        "FILES",
        True,
    ),
    Flag(
        "healthz-port",
        "int32",
        "10256",
        "",
        "The port of --healthz-bind-address if it has none; 0: no health server.",
        "PORT",
        old="use --healthz-bind-address instead",
    ),
    Flag(
        "metrics-port",
        "int32",
        "10249",
        "",
        "The port of --metrics-bind-address if it has none; 0: no metrics server.",
        "PORT",
        old="use --metrics-bind-address instead",
    ),
    Flag(
        "udp-timeout",
        "duration",
        "250ms",
        "udpIdleTimeout",
        "How long an idle UDP client is remembered, in the mode userspace.",
        "DURATION",
        only="both",
    ),
    Flag(
        "proxy-port-range",
        "string",
        "",
        "portRange",
        "Ports of the host that may be taken, in the mode userspace.",
        "FROM-TO",
        only="both",
    ),
    # --- kubeway's own ---
    Flag(
        "kubeway-min-sync-gap",
        "string",
        "auto",
        "kubeway.minSyncGap",
        "The least time between syncs, whatever the mode's section says; auto: as often as they are cheap.",
        "DURATION",
        True,
        only="both",
    ),
    Flag(
        "kubeway-drift-repair",
        "bool",
        "true",
        "kubeway.driftRepair",
        "Watch the kernel for the writing of others, and repair what they broke.",
        always=True,
        only="both",
    ),
    Flag(
        "kubeway-trace-file",
        "string",
        "",
        "kubeway.traceFile",
        "Keep a timeline of syncs here, in the format of chrome://tracing and Perfetto.",
        "PATH",
        True,
        only="both",
    ),
    Flag(
        "kubeway-iptables-backend",
        "string",
        "auto",
        "kubeway.iptablesBackend",
        "Of the kernel's two iptables, the one the modes iptables and ipvs write to: nf_tables, legacy, or "
        "auto: the one this node uses.",
        "NAME",
        True,
        only="both",
    ),
    Flag(
        "kubeway-ipvs-drain",
        "duration",
        "15m0s",
        "kubeway.ipvsDrain",
        "How long an endpoint that has left keeps the connections it has, in the mode ipvs.",
        "DURATION",
        True,
        only="both",
    ),
    Flag(
        "kubeway-steering",
        "string",
        "auto",
        "kubeway.steering",
        "What leads packets to the relay in the mode userspace: nft, xtables (legacy iptables, and ipset), "
        "or auto: nft where this kernel has it.",
        "NAME",
        True,
        only="both",
    ),
    Flag(
        "kubeway-relay-workers",
        "int32",
        "0",
        "kubeway.relayWorkers",
        "How many processes carry connections, in the mode userspace; 1 for strict round robin; 0: half as "
        "many as there are processors, from 1 to 4.",
        "NUMBER",
        True,
        only="both",
    ),
    Flag(
        "kubeway-relay-drain",
        "duration",
        "15m0s",
        "kubeway.relayDrain",
        "How long an endpoint that has left keeps the connections it has, in the mode userspace.",
        "DURATION",
        True,
        only="both",
    ),
    Flag(
        "kubeway-relay-half-closed",
        "duration",
        "1h0m0s",
        "kubeway.relayHalfClosed",
        "How long a connection of which one side has ended may stay when nothing moves, in the mode "
        "userspace.",
        "DURATION",
        True,
        only="both",
    ),
    Flag(
        "manifests",
        "strings",
        "",
        "",
        "File or directory (*.yaml, *.yml, *.json) of Kubernetes objects, instead of an API server; "
        "repeatable.",
        "PATH",
        True,
        only="run",
    ),
    Flag(
        "masquerade-bit",
        "int32",
        "14",
        "",
        "The bit of the packet mark that asks for masquerading, in the mode there is.",
        "BIT",
        only="run",
    ),
)

BY_NAME: Final = {flag.name: flag for flag in FLAGS}
FOR_PROXY: Final = tuple(flag for flag in FLAGS if flag.only != "run")
"""What kubeway-proxy takes."""

_READERS: Final[dict[Kind, Callable[[str], Any]]] = {
    "address": words.parse_address,
    "bool": words.parse_bool,
    "duration": words.parse_duration,
    "endpoint": words.parse_endpoint,
    "float32": words.parse_float32,
    "gates": words.parse_gates,
    "int32": words.parse_int32,
    "list": words.parse_list,
    "quantity": words.parse_quantity,
    "string": str,
    "strings": lambda text: [text],
    "verbosity": words.parse_verbosity,
    "version": str,
    "vmodule": words.parse_vmodule,
}
_MAY_BE_EMPTY: Final = ("address", "endpoint")


def read(flag: Flag, text: str) -> Any:
    """The value one mention of the flag gives it. ValueError says what would be right."""
    if not text and flag.kind in _MAY_BE_EMPTY:
        return ""
    return _READERS[flag.kind](text)


def read_all(flag: Flag, texts: Sequence[str]) -> Any:
    """The value of all mentions together: lists and gates add up, of others the last one counts."""
    values = [read(flag, text) for text in texts]
    if flag.kind in ("list", "strings", "vmodule"):
        return [item for value in values for item in value]
    if flag.kind == "gates":
        return {name: on for value in values for name, on in value.items()}
    return values[-1]
