"""
What was asked for: one configuration out of a command line and a file.

`settle` decides which word counts where both speak, as kube-proxy does: with --config the file
counts, and of the flags only those that `config_flags` marks `always`. A mistake is `BadInput` that
names the flag or the field, shows the value and says what would be right; all that is wrong with a
configuration is told at once. What becomes of it is `options`' business.

Where kube-proxy is odd and here it is not:

- An empty --healthz-bind-address or --metrics-bind-address switches that server off, as its help
  says; so does --metrics-port=0. kube-proxy keeps the default address, or refuses to start.
- `minSyncPeriod` and the flags for it are minded if given. If not, syncs are as often as they are
  cheap, instead of once a second at most.
- No mode means iptables to kube-proxy. Here it means nftables that does what iptables was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from kubeway.errors import BadInput
from kubeway.model import config_check, config_gates, configuration
from kubeway.model.config_flags import BY_NAME, FLAGS, Flag, read_all
from kubeway.model.config_words import append_port
from kubeway.model.configuration import AUTO, Configuration, Nftables, VmoduleItem, put, section_name
from kubeway.shell import configfile
from kubeway.shell.configfile import ConfigFile

Given = Mapping[str, Sequence[str]]
"""The flags that stand on the command line, each with the texts of its mentions in their order."""

EVERYWHERE: Final = ("0.0.0.0/0", "::/0")

# Accepted, for they are in configurations that are there; and told once, for they change nothing.
_NO_EFFECT: Final = (
    "clientConnection.acceptContentTypes",
    "clientConnection.contentType",
    "clientConnection.qps",
    "clientConnection.burst",
    "configSyncPeriod",
    "logging.flushFrequency",
    "logging.vmodule",
    "logging.options.text.splitStream",
    "logging.options.text.infoBufferSize",
    "logging.options.json.splitStream",
    "logging.options.json.infoBufferSize",
    "showHiddenMetricsForVersion",
    "winkernel.networkName",
    "winkernel.sourceVip",
    "winkernel.enableDSR",
    "winkernel.rootHnsEndpointName",
    "winkernel.forwardHealthCheckVip",
    "windowsRunAsService",
    "portRange",
)
_MODE_FLAGS: Final = {
    "iptables-sync-period": ("iptables", "nftables"),
    "iptables-min-sync-period": ("iptables", "nftables"),
    "ipvs-sync-period": ("ipvs",),
    "ipvs-min-sync-period": ("ipvs",),
}


class Asked(Struct, frozen=True, kw_only=True):
    """One configuration out of all that was said; and what has no place in it."""

    configuration: Configuration
    given: dict[str, Any]
    file: ConfigFile | None = None
    notes: tuple[str, ...] = ()


def settle(given: Given) -> Asked:
    """BadInput for a flag or a file that cannot be read, and for a configuration that may not be."""
    values = {name: _read(BY_NAME[name], texts) for name, texts in given.items()}
    notes: list[str] = []
    file: ConfigFile | None = None
    path = values.get("config", "")
    if path:
        found = configfile.read(path)
        file, config, min_set = found.file, found.decoded.configuration, found.decoded.min_sync_period
        notes += _notes_of(found)
        ignored = [f"--{name}" for name in values if not BY_NAME[name].always]
        if ignored:
            notes.append(f"not minded, as --config is given: {', '.join(ignored)}")
        config = _logging_flags(config, values)
    else:
        config, min_set = _from_flags(values)
    config, more = _finish(config, values, min_set)
    notes += more
    problems = config_check.problems(config)
    if problems:
        raise BadInput(f"failed validate: {config_check.summary(problems)}")
    notes += _without_effect(config)
    return Asked(configuration=config, given=values, file=file, notes=tuple(notes))


def _read(flag: Flag, texts: Sequence[str]) -> Any:
    try:
        return read_all(flag, texts)
    except ValueError as error:
        raise BadInput(f"--{flag.name}: {error}") from None


def _notes_of(found: configfile.Read) -> list[str]:
    notes = []
    if found.twice:
        notes.append(f"{found.file.path}: given twice, the last one counts: {', '.join(found.twice)}")
    if found.decoded.unknown:
        notes.append(f"{found.file.path}: not known, left out: {', '.join(found.decoded.unknown)}")
    return notes


def _apply(config: Configuration, values: Mapping[str, Any], flags: Sequence[Flag]) -> Configuration:
    for flag in flags:
        if flag.path and flag.name in values:
            config = put(config, flag.path, _as_field(flag, values[flag.name]))
    return config


def _as_field(flag: Flag, value: Any) -> Any:
    if flag.kind == "vmodule":
        return tuple(
            VmoduleItem(file_pattern=item["filePattern"], verbosity=item["verbosity"]) for item in value
        )
    if flag.kind == "quantity":
        return configuration.Quantity(value)
    return tuple(value) if flag.kind == "list" else value


def _logging_flags(config: Configuration, values: Mapping[str, Any]) -> Configuration:
    """What counts beside a file: the flags of the log and our own. Of vmodule the flag's come first."""
    vmodule = config.logging.vmodule
    config = _apply(config, values, [flag for flag in FLAGS if flag.always])
    if "vmodule" in values:
        config = put(config, "logging.vmodule", (*config.logging.vmodule, *vmodule))
    return config


def _from_flags(values: Mapping[str, Any]) -> tuple[Configuration, bool]:
    """The defaults as the flags change them, and whether one of them says how often to sync."""
    # An empty --bind-address says nothing; what empty addresses of servers say is up to _finish.
    said = {name: value for name, value in values.items() if value != "" or name != "bind-address"}
    config = _apply(Configuration(), said, FLAGS)
    if "ipvs-min-sync-period" not in said and config.mode == "ipvs":
        config = put(config, "ipvs.minSyncPeriod", config.iptables.min_sync_period)  # 1s by flags, 0s by file
    section = section_name(config.mode)
    masks = "nftables" if section == "nftables" else "iptables"
    if "masquerade-all" in said:
        config = put(config, f"{masks}.masqueradeAll", said["masquerade-all"])
    if "masquerade-bit" in said:
        config = put(config, f"{masks}.masqueradeBit", said["masquerade-bit"])
    min_set = False
    for name, sections in _MODE_FLAGS.items():
        if name in said and section in sections:
            least = "-min-" in name
            config = put(config, f"{section}.{'minSyncPeriod' if least else 'syncPeriod'}", said[name])
            min_set |= least
    return _with_ports(config, said), min_set


def _with_ports(config: Configuration, values: Mapping[str, Any]) -> Configuration:
    """Addresses of servers without a port get theirs; a port of 0 switches the server off."""
    for path, flag, default in (
        ("healthzBindAddress", "healthz-port", configuration.HEALTHZ_PORT),
        ("metricsBindAddress", "metrics-port", configuration.METRICS_PORT),
    ):
        address = configuration.get(config, path)
        # The deprecated flags are not for files that are to be written.
        port = default if values.get("write-config-to") else values.get(flag, default)
        config = put(config, path, append_port(address, port) if port and address else "")
    return config


def _finish(
    config: Configuration, values: Mapping[str, Any], min_set: bool
) -> tuple[Configuration, list[str]]:
    """What follows once it is known what was said: kube-proxy's defaults for Linux, and our own."""
    notes = []
    if not config.mode:
        config = _instead_of_iptables(config)
        notes.append(
            "mode is not set, which means iptables to kube-proxy; here nftables is taken, "
            "with the settings for iptables"
        )
    elif config.mode == "nftables" and not config.node_port_addresses:
        config = replace(config, node_port_addresses=(config_check.PRIMARY,))
    if not config.detect_local_mode:
        config = replace(config, detect_local_mode="ClusterCIDR")
    if "hostname-override" in values and (
        name := node_name("--hostname-override", values["hostname-override"])
    ):
        config = replace(config, hostname_override=name)
    if not config.kubeway.min_sync_gap:
        gap = str(config.section.min_sync_period) if min_set else AUTO
        config = put(config, "kubeway.minSyncGap", gap)
    for what, address in (("health", config.healthz_bind_address), ("metrics", config.metrics_bind_address)):
        if not address:
            notes.append(f"the {what} server is off, as it is given no address")
    return configuration.only_in_use(config), notes


def _instead_of_iptables(config: Configuration) -> Configuration:
    """nftables mode that does what iptables mode was asked for: node ports at all addresses too."""
    asked = config.iptables
    return replace(
        config,
        mode="nftables",
        nftables=Nftables(
            masquerade_bit=asked.masquerade_bit,
            masquerade_all=asked.masquerade_all,
            sync_period=asked.sync_period,
            min_sync_period=asked.min_sync_period,
        ),
        node_port_addresses=config.node_port_addresses or EVERYWHERE,
    )


def _without_effect(config: Configuration) -> list[str]:
    default = Configuration()
    idle = [
        path for path in _NO_EFFECT if configuration.get(config, path) != configuration.get(default, path)
    ]
    if config.mode != "userspace" and config.udp_idle_timeout != default.udp_idle_timeout:
        idle.append("udpIdleTimeout")
    idle += [f"featureGates.{name}" for name in config_gates.idle(config.feature_gates)]
    notes = [f"accepted, and without effect here: {', '.join(idle)}"] if idle else []
    if config.mode == "userspace" and config.bind_address != default.bind_address:
        notes.append(
            f"bindAddress: {config.bind_address} is taken for this node's own address, as in other modes, "
            "but nothing listens there: the relay is on loopback"
        )
    return notes


def node_name(flag: str, text: str) -> str:
    """A node's name as Kubernetes writes it: trimmed, lower case. "" stays that."""
    name = text.strip().lower()
    if text and not name:
        raise BadInput(f"{flag}: {text!r} is blank; give the name of a Node object")
    return name
