"""kubeway-proxy: kube-proxy's command line, to the letter; and what its flags do instead of the daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kubeway
from kubeway.cli import proxy, run
from kubeway.cli.goflags import HelpAsked, WrongLine, parse
from kubeway.model.config_flags import FOR_PROXY
from kubeway.shell.options import Cluster, Config

KUBEADM = Path(__file__).parent.parent / "data" / "kubeadm-config.conf"
HEAD = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n"

Said = tuple[int, str, str]
Proxy = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Proxy:
    def call(*words: str) -> Said:
        code = proxy.main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What the daemon would have been told; it is not started."""
    configs: list[Config] = []

    def take(config: Config) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(run, "run", take)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return configs


# --- the line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("--config=f", {"config": ["f"]}),
        ("--config f", {"config": ["f"]}),
        ("-config f", {"config": ["f"]}),
        ("-config=f", {"config": ["f"]}),
        ("--config=a=b", {"config": ["a=b"]}),
        ("--config=", {"config": [""]}),
        ("--config --v=2", {"config": ["--v=2"]}),
        ("--cluster_cidr 10.0.0.0/8", {"cluster-cidr": ["10.0.0.0/8"]}),
        ("-v 2", {"v": ["2"]}),
        ("-v=2", {"v": ["2"]}),
        ("-v2", {"v": ["2"]}),
        ("--v=2", {"v": ["2"]}),
        ("--v 2", {"v": ["2"]}),
        ("--cleanup", {"cleanup": ["true"]}),
        ("--cleanup=false", {"cleanup": ["false"]}),
        ("--cleanup --init-only=T", {"cleanup": ["true"], "init-only": ["T"]}),
        ("--nodeport-addresses a --nodeport-addresses b,c", {"nodeport-addresses": ["a", "b,c"]}),
        ("--version", {"version": ["true"]}),
        ("--version=v1.36.1", {"version": ["v1.36.1"]}),
        ("--", {}),
        ("", {}),
    ],
)
def test_a_line_is_read(line: str, given: dict[str, list[str]]) -> None:
    assert parse(line.split(" ")) == given


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--nonsense", "unknown flag: --nonsense"),
        ("--nonsense=1", "unknown flag: --nonsense"),
        ("--manifests=x", "unknown flag: --manifests"),
        ("-nonsense", "unknown shorthand flag: 'n' in -nonsense"),
        ("--config", "flag needs an argument: --config"),
        ("-v", "flag needs an argument: 'v' in -v"),
        ("--=x", "bad flag syntax: --=x"),
        ("---config", "bad flag syntax: ---config"),
        ("x", '"kubeway-proxy" does not take any arguments, got ["x"]'),
        ("--cleanup false", '"kubeway-proxy" does not take any arguments, got ["false"]'),
        ("-- --cleanup y", '"kubeway-proxy" does not take any arguments, got ["--cleanup" "y"]'),
        ("-v x", 'invalid argument "x" for "-v, --v" flag: "x" is not a number from 0 (quiet) up'),
        (
            "--conntrack-min=many",
            'invalid argument "many" for "--conntrack-min" flag: "many" is not a whole number of 32 bits',
        ),
        ("--bind-address x", 'invalid argument "x" for "--bind-address" flag: "x" is not an IP address'),
        ("--version=1", None),
        ("--version=x", 'invalid argument "x" for "--version" flag: "x" is neither true nor false, nor raw,'),
    ],
)
def test_a_line_that_cannot_be_read(call: Proxy, line: str, problem: str | None) -> None:
    code, out, err = call(*line.split(" "))
    if problem is None:
        assert code == 0
        return
    assert (code, out) == (1, "")
    assert err.startswith("kubeway-proxy does on a node what kube-proxy does")
    assert err.splitlines()[-1].startswith(f"Error: {problem}")


def test_an_empty_word_is_no_argument() -> None:
    assert parse(["", "--v=1", ""]) == {"v": ["1"]}


WORDS = st.lists(
    st.sampled_from(["-v", "--v", "--cleanup", "-", "--", "=", "-h=", "2", "--config"]) | st.text()
)


@given(WORDS)
def test_any_line_is_read_or_wrong(words: list[str]) -> None:
    try:
        found = parse(words)
    except (WrongLine, HelpAsked):
        return
    assert set(found) <= {flag.name for flag in FOR_PROXY}


def test_usage_names_every_flag_that_is_not_old(call: Proxy) -> None:
    for word in ("-h", "--help"):
        code, out, err = call(word)
        assert (code, err) == (0, "")
    for flag in FOR_PROXY:
        assert (f"--{flag.name}" in out) is (not flag.old or f"--{flag.name}-" in out), flag.name
    assert max(map(len, out.splitlines())) <= 100


def test_the_version(call: Proxy) -> None:
    name = f"v1.36.0+kubeway.{kubeway.__version__}"
    assert call("--version") == (0, f"Kubernetes {name}\n", "")
    code, out, _ = call("--version=raw")
    assert code == 0
    assert out.startswith(f'version.Info{{Major:"1", Minor:"36", GitVersion:"{name}", ')


def test_whoever_has_read_enough_is_no_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "kubeway.cli.proxy", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")


def test_help_imports_nothing_heavy() -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kubeway.cli.proxy", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in seen.stderr.splitlines()}
    assert "kubeway.model.config_flags" in imported
    assert not imported & {"aiohttp", "asyncio", "structlog", "yaml", "msgspec", "typer"}


# --- what becomes of it ---------------------------------------------------------------------


def test_kubeadm_s_pod_starts_as_it_is(call: Proxy, told: list[Config]) -> None:
    assert call(f"--config={KUBEADM}", "--hostname-override=Node1") == (0, "", "")
    (config,) = told
    assert config.cluster == Cluster("/var/lib/kube-proxy/kubeconfig.conf", "")
    assert (config.options.hostname, config.options.mode) == ("node1", "nftables")
    assert [str(prefix) for prefix in config.options.cluster_cidrs] == ["10.244.0.0/16", "fd00:10:244::/56"]
    assert (str(config.healthz), str(config.metrics)) == ("0.0.0.0:10256", "127.0.0.1:10249")
    assert (config.min_sync_period, config.oom_score_adj, config.conntrack.min) == (None, -999, 131072)
    assert config.file is not None
    assert len(config.notes) == 1
    assert str(config.notes[0]).startswith("configuration: mode is not set, which means iptables")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--proxy-mode=nftables"], "nobody says where Services come from: give --kubeconfig or --master"),
        (["--proxy-mode=iptables"], "nobody says where Services come from"),
        (["--master=x", "--proxy-mode=kernelspace"], "failed validate: KubeProxyConfiguration"),
        (["--config=/no/such"], "--config: /no/such: No such file or directory"),
        (["--oom-score-adj=1001"], "failed validate: KubeProxyConfiguration.KubeProxyLinuxConfiguration."),
        (["--hostname-override= "], "--hostname-override: ' ' is blank; give the name of a Node object"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_1(
    call: Proxy, told: list[Config], words: Sequence[str], problem: str
) -> None:
    code, out, err = call(*words)
    assert (code, out, told) == (1, "", [])
    assert err.startswith(f"kubeway-proxy: {problem}")
    assert err.count("\n") == 1


def test_old_flags_work_and_warn(call: Proxy, told: list[Config]) -> None:
    code, out, err = call("--master=x", "--healthz-port=0", "--metrics-port", "7", "--proxy-mode=nftables")
    assert (code, out) == (0, "")
    assert err == (
        "Flag --healthz-port has been deprecated, use --healthz-bind-address instead\n"
        "Flag --metrics-port has been deprecated, use --metrics-bind-address instead\n"
    )
    assert told[0].healthz is None


def test_the_configuration_is_written(call: Proxy, told: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "written"
    line = ("--proxy-mode=nftables", "--conntrack-min=7", "--masquerade-all", f"--write-config-to={path}")
    assert call(*line) == (0, "", "")
    assert told == []
    text = path.read_text()
    assert "\n  min: 7\n" in text
    assert "\nmode: nftables\n" in text
    assert call(f"--config={path}", "--master=x")[0] == 0
    assert (told[0].conntrack.min, told[0].options.masquerade_all) == (7, True)


def test_a_wrong_configuration_is_not_written(call: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert call("--oom-score-adj=1001", f"--write-config-to={path}")[0] == 1
    assert not path.exists()


def test_the_flag_s_version_is_reported(call: Proxy, told: list[Config]) -> None:
    assert call("--version=v1.36.9", "--master=x", "--proxy-mode=nftables")[0] == 0
    assert told[0].reported_version == "v1.36.9"


# --- in a kernel ------------------------------------------------------------------------------

NFT = """
add table ip kube-proxy
add chain ip kube-proxy a
add table ip6 kube-proxy
add chain ip6 kube-proxy a
add chain ip6 kube-proxy b
add rule ip6 kube-proxy a jump b
add table ip kubeway
add chain ip kubeway a
add table ip others
"""
in_kernel = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes kernel rules, so it needs root"),
    pytest.mark.skipif(not shutil.which("nft"), reason="nft is not installed"),
]


def in_namespace(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A shell script in a network namespace of its own; `$P` is kubeway-proxy, `$@` the words."""
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", *words],
        env={**os.environ, "P": f"{sys.executable} -m kubeway.cli.proxy"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


class TestInKernel:
    pytestmark = in_kernel

    def test_cleanup_takes_ours_and_kube_proxy_s_tables(self, tmp_path: Path) -> None:
        rules = tmp_path / "rules"
        rules.write_text(NFT)
        script = 'nft -f "$1" && $P --cleanup --proxy-mode=ipvs && nft list tables && $P --cleanup'
        done = in_namespace(script, str(rules))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "removed: table ip kubeway, table ip kube-proxy, table ip6 kube-proxy",
            "table ip others",
            "nothing to remove",
        ]

    def test_init_only_turns_what_was_asked_and_writes_no_rule(self) -> None:
        script = (
            "$P --proxy-mode=nftables --init-only --conntrack-max-per-core=0 "
            "--conntrack-udp-timeout=77s --conntrack-tcp-timeout-established=0 "
            "--conntrack-tcp-timeout-close-wait=0 && "
            "cat /proc/sys/net/netfilter/nf_conntrack_udp_timeout && nft list ruleset"
        )
        done = in_namespace(script)
        assert (done.returncode, done.stdout) == (0, "77\n")
        assert "nf_conntrack_udp_timeout" in done.stderr

    def test_init_only_refuses_a_mode_that_is_not_there(self) -> None:
        done = in_namespace("$P --proxy-mode=kernelspace --init-only")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("kubeway-proxy: failed validate: KubeProxyConfiguration")
        assert "kernelspace" in line
