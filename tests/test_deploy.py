"""
What lies in `deploy`: that it is what kubeadm's kube-proxy is, and that kubeway can be run by it.

Rendered by the small readers beside this file, and by kubectl's own kustomize where that is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import fields

import kubeway
from kubeway.cli import flags, goflags
from kubeway.model.config_flags import BY_NAME
from kubeway.model.configuration import Own
from kubeway.model.store import Store
from kubeway.planes.relay.stream import LIMITS
from kubeway.records import Record
from kubeway.shell.access_kubeconfig import read_kubeconfig
from kubeway.shell.apiserver import ApiSource
from kubeway.shell.asked import Asked, settle
from kubeway.shell.credentials import access
from kubeway.shell.events import Events
from kubeway.shell.options import MODES, Config, config
from tests import charts, kustomizations
from tests.apiserver.server import ApiServer
from tests.kustomizations import Doc

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = DEPLOY / "kustomize" / "overlays"
CHART = DEPLOY / "helm" / "kubeway"
UNIT = DEPLOY / "systemd" / "kubeway.service"
FOR_LEGACY = DEPLOY / "systemd" / "iptables-legacy.conf"
FOR_IPVS = DEPLOY / "systemd" / "ipvs.conf"
FOR_USERSPACE = DEPLOY / "systemd" / "userspace.conf"
CONFIG = "/var/lib/kube-proxy"
SERVER = "https://10.0.0.1:6443"

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def kubectl(*words: str, stdin: str = "") -> str:
    """What kubectl prints; it knows no cluster and no home."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"}
    done = subprocess.run(
        ["kubectl", *words], input=stdin, capture_output=True, text=True, env=env, check=True, timeout=60
    )
    return done.stdout


def named(docs: Iterable[Doc]) -> dict[tuple[str, str], Doc]:
    return {(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}


def overlay(name: str = "nftables") -> dict[tuple[str, str], Doc]:
    return named(kustomizations.build(OVERLAYS / name))


def chart(release: str = "kube-system", **values: Any) -> dict[tuple[str, str], Doc]:
    """The chart's objects with these values over its own."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    context = {
        "Values": charts.merged(yaml.safe_load((CHART / "values.yaml").read_text()), values),
        "Chart": {"AppVersion": about["appVersion"]},
        "Release": {"Namespace": release},
    }
    texts = [charts.render(path.read_text(), context) for path in sorted(CHART.glob("templates/*.yaml"))]
    return named(doc for text in texts for doc in yaml.safe_load_all(text) if doc)


def pod(docs: Mapping[tuple[str, str], Doc]) -> Doc:
    found: Doc = docs["DaemonSet", "kube-proxy"]["spec"]["template"]["spec"]
    return found


def container(docs: Mapping[tuple[str, str], Doc]) -> Doc:
    (one,) = pod(docs)["containers"]
    assert isinstance(one, dict)
    return one


OVERLAID = sorted(path.name for path in OVERLAYS.iterdir())
"""The modes there are overlays for."""

DEPLOYMENTS = {("kustomize", mode): overlay(mode) for mode in OVERLAID} | {
    ("helm", mode): chart(apiServer=SERVER, config={"mode": mode}) for mode in OVERLAID
}
each = pytest.mark.parametrize("docs", DEPLOYMENTS.values(), ids=map("-".join, DEPLOYMENTS))
each_of_a_mode = pytest.mark.parametrize(
    ("mode", "docs"),
    [(mode, docs) for (_, mode), docs in DEPLOYMENTS.items()],
    ids=map("-".join, DEPLOYMENTS),
)
each_mode = pytest.mark.parametrize("mode", OVERLAID)

Needed = tuple[list[str], list[Doc], list[Doc]]

# What a mode needs beyond the base: capabilities, mounts and volumes.
_FOR_LEGACY: Needed = (
    ["NET_ADMIN", "NET_RAW"],
    [{"name": "xtables-lock", "mountPath": "/run/xtables.lock"}],
    [{"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}}],
)
NEEDED: dict[str, Needed] = {
    "nftables": (["NET_ADMIN"], [], []),
    "iptables": _FOR_LEGACY,
    "ipvs": _FOR_LEGACY,
    "userspace": _FOR_LEGACY,
}


@each_of_a_mode
def test_the_next_pod_comes_before_the_last_one_goes_where_it_can_take_over(
    mode: str, docs: dict[tuple[str, str], Doc]
) -> None:
    spec = docs["DaemonSet", "kube-proxy"]["spec"]
    update, seconds = spec["updateStrategy"], spec.get("minReadySeconds")
    if mode != "userspace":
        assert (update, seconds) == ({"type": "RollingUpdate"}, None)
        assert "terminationGracePeriodSeconds" not in pod(docs)
        return
    assert update == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    # Two Pods of one node cannot both have a port of the host that a container says it has.
    assert not any("ports" in one for one in (*pod(docs)["containers"], *pod(docs)["initContainers"]))
    # Its own answer is not heard before the other's port is free.
    assert seconds > container(docs)["readinessProbe"]["periodSeconds"]
    assert pod(docs)["terminationGracePeriodSeconds"] == LIMITS.drain


def test_where_pods_do_not_come_before_others_go() -> None:
    docs = chart(
        apiServer=SERVER, config={"mode": "userspace"}, updateStrategy={"type": "OnDelete"}, surge=None
    )
    assert docs["DaemonSet", "kube-proxy"]["spec"]["updateStrategy"] == {"type": "OnDelete"}


# --- kustomize ------------------------------------------------------------------------------


@needs_kubectl
@pytest.mark.parametrize("folder", ["base", *(f"overlays/{mode}" for mode in OVERLAID)])
def test_kubectl_makes_the_same_of_a_kustomization(folder: str) -> None:
    there = DEPLOY / "kustomize" / folder
    theirs = named(yaml.safe_load_all(kubectl("kustomize", str(there))))
    assert theirs == named(kustomizations.build(there))


def lacks(wanted: Any, got: Any, at: str = "") -> list[str]:
    """Paths of what is wanted and not so there; what is there beyond that does not matter."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [lack for key, value in wanted.items() for lack in lacks(value, got.get(key), f"{at}.{key}")]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) <= len(got):
        pairs = enumerate(zip(wanted, got, strict=False))
        return [lack for i, (one, other) in pairs for lack in lacks(one, other, f"{at}[{i}]")]
    return [] if wanted == got else [at]


@needs_kubectl
@each
def test_kubernetes_knows_every_field_of_the_daemonset(docs: dict[tuple[str, str], Doc]) -> None:
    """kubectl reads it into Kubernetes' own types, which drop what they do not know."""
    doc = docs["DaemonSet", "kube-proxy"]

    def read(given: Doc) -> Doc:
        words = ("set", "env", "--local", "-f", "-", "-o", "json", "ADDED=1")
        result: Doc = json.loads(kubectl(*words, stdin=json.dumps(given)))
        return result

    assert lacks(doc, read(doc)) == []
    wrong = json.loads(json.dumps(doc))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["every"] = 3
    assert lacks(wrong, read(wrong)) == [".spec.template.spec.containers[0].livenessProbe.every"]


def test_a_kustomization_of_another_kind_is_not_misread(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("namePrefix: x-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        kustomizations.build(tmp_path)
    (tmp_path / "kustomization.yaml").write_text("patches: [{path: a.yaml, target: {kind: DaemonSet}}]\n")
    with pytest.raises(ValueError, match="target"):
        kustomizations.build(tmp_path)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("{kind: DaemonSet, metadata: {name: proxy}}", "0 times"),
        ("{kind: DaemonSet, metadata: {name: kube-proxy}, spec: null}", "spec"),
        ("{kind: DaemonSet, metadata: {name: kube-proxy}, spec: {$patch: replace}}", "patch"),
    ],
)
def test_a_patch_of_another_kind_is_not_misread(patch: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kustomization.yaml").write_text("{namespace: n, resources: [a.yaml]}\n")
    (tmp_path / "base" / "a.yaml").write_text("{kind: DaemonSet, metadata: {name: kube-proxy}, spec: {}}\n")
    (tmp_path / "kustomization.yaml").write_text(
        "{namespace: n, resources: [base], patches: [{path: a.yaml}]}\n"
    )
    (tmp_path / "a.yaml").write_text(patch)
    with pytest.raises(ValueError, match=message):
        kustomizations.build(tmp_path)


# --- the chart ------------------------------------------------------------------------------


@each_mode
def test_the_chart_makes_what_the_overlay_makes(mode: str) -> None:
    ours, theirs = dict(DEPLOYMENTS["helm", mode]), dict(DEPLOYMENTS["kustomize", mode])
    maps = [docs.pop(("ConfigMap", "kube-proxy")) for docs in (ours, theirs)]
    assert ours == theirs
    for name in ("config.conf", "kubeconfig.conf"):
        one, other = (yaml.safe_load(each["data"][name]) for each in maps)
        if name == "kubeconfig.conf":
            other["clusters"][0]["cluster"]["server"] = SERVER
        assert one == other
    assert {key: value for key, value in maps[0].items() if key != "data"} == {
        key: value for key, value in maps[1].items() if key != "data"
    }


def test_values_do_what_they_say() -> None:
    docs = chart(
        "elsewhere",
        apiServer=SERVER,
        image={"repository": "registry.example/kubeway", "tag": "1.2.3"},
        imagePullSecrets=[{"name": "pull"}],
        config={"mode": "nftables", "clusterCIDR": "10.244.0.0/16", "conntrack": {"min": 7}},
        extraArgs=["-v=1"],
        init=False,
        rbac={"create": False},
        serviceAccount={"create": False},
        resources={"requests": {"memory": "100Mi"}},
        podAnnotations={"a": "b"},
        podLabels={"c": "d"},
        nodeSelector={"kubernetes.io/arch": "arm64"},
        tolerations=[],
        updateStrategy={"type": "OnDelete"},
    )
    assert set(docs) == {("ConfigMap", "kube-proxy"), ("DaemonSet", "kube-proxy")}
    assert {doc["metadata"]["namespace"] for doc in docs.values()} == {"elsewhere"}
    one, spec = container(docs), pod(docs)
    assert one["image"] == "registry.example/kubeway:1.2.3"
    assert one["command"][-1] == "-v=1"
    assert one["resources"] == {"requests": {"memory": "100Mi"}}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert "initContainers" not in spec
    assert "tolerations" not in spec
    # Mappings are laid over, as with Helm.
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    template = docs["DaemonSet", "kube-proxy"]["spec"]["template"]
    assert template["metadata"] == {
        "labels": {"k8s-app": "kube-proxy", "c": "d"},
        "annotations": {"a": "b"},
    }
    assert docs["DaemonSet", "kube-proxy"]["spec"]["updateStrategy"] == {"type": "OnDelete"}
    written = yaml.safe_load(docs["ConfigMap", "kube-proxy"]["data"]["config.conf"])
    assert written["conntrack"] == {"min": 7}
    assert written["clusterCIDR"] == "10.244.0.0/16"


def test_notes_can_be_rendered() -> None:
    text = charts.render((CHART / "templates" / "NOTES.txt").read_text(), {"Release": {"Namespace": "n"}})
    assert "kubectl -n n rollout status daemonset/kube-proxy" in text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ range .Values.a }}{{ end }}", "range"),
        ("{{ if .Values.a }}", "no end"),
        ("{{ end }}", "nothing is open"),
        ("{{ .Values.b }}", "there is no b"),
        ("{{ .Values.a }}", "needs toYaml"),
        ("{{ upper .Values.a }}", "upper"),
        ("{{ if eq .Values.a }}{{ end }}", "eq"),
        ("{{ if ne .Values.a }}{{ end }}", "ne"),
    ],
)
def test_a_template_of_another_kind_is_not_misread(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        charts.render(template, {"Values": {"a": [1]}})


_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
}
_SPELLED = {
    "$schema",
    "description",
    "type",
    "properties",
    "additionalProperties",
    "required",
    "items",
    "pattern",
    "enum",
    "minLength",
    "minimum",
    "maximum",
}


def wrong(schema: Any, value: Any, at: str = "") -> list[str]:
    """Where the value is not as the schema has it. Knows the words our schema uses, and no others."""
    if isinstance(schema, bool):
        return [] if schema else [at]
    assert schema.keys() <= _SPELLED
    if not isinstance(value, _TYPES[schema["type"]]) or (schema["type"] == "integer" and value is True):
        return [at]
    found: list[str] = []
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{at}.{name}" for name in schema.get("required", ()) if name not in value]
        for name, inner in value.items():
            found += wrong(known.get(name, other), inner, f"{at}.{name}")
    elif isinstance(value, list):
        found += [
            place for i, inner in enumerate(value) for place in wrong(schema["items"], inner, f"{at}[{i}]")
        ]
    elif isinstance(value, str):
        good = re.search(schema.get("pattern", ""), value) and value in schema.get("enum", [value])
        found += [] if good and len(value) >= schema.get("minLength", 0) else [at]
    elif not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(at)
    return found


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ({"apiServer": SERVER}, []),
        ({}, [".apiServer"]),
        ({"apiServer": "10.0.0.1:6443"}, [".apiServer"]),
        ({"apiServer": SERVER, "apiserver": SERVER}, [".apiserver"]),
        ({"apiServer": SERVER, "config": {"clientConnection": {}}}, [".config.clientConnection"]),
        ({"apiServer": SERVER, "config": {"oomScoreAdj": -1001}}, [".config.oomScoreAdj"]),
        ({"apiServer": SERVER, "config": {"conntrack": {"min": 5}}}, []),
        ({"apiServer": SERVER, "config": {"mode": "iptables"}}, []),
        ({"apiServer": SERVER, "config": {"mode": "ipvs"}}, []),
        ({"apiServer": SERVER, "config": {"mode": "userspace", "kubeway": {"relayWorkers": 2}}}, []),
        (
            {"apiServer": SERVER, "config": {"kubeway": {"relayWorkers": 65}}},
            [".config.kubeway.relayWorkers"],
        ),
        ({"apiServer": SERVER, "config": {"mode": "winkernel"}}, [".config.mode"]),
        ({"apiServer": SERVER, "config": {"mode": ""}}, [".config.mode"]),
        ({"apiServer": SERVER, "config": {"mode": None}}, [".config.mode"]),
        ({"apiServer": SERVER, "config": {"kubeway": {"iptablesBackend": "legacy"}}}, []),
        (
            {"apiServer": SERVER, "config": {"kubeway": {"iptablesBackend": "nft"}}},
            [".config.kubeway.iptablesBackend"],
        ),
        ({"apiServer": SERVER, "extraArgs": ["v"]}, [".extraArgs[0]"]),
        ({"apiServer": SERVER, "image": {"pullPolicy": "Sometimes"}}, [".image.pullPolicy"]),
    ],
)
def test_the_schema_knows_good_values(values: dict[str, Any], places: list[str]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert wrong(schema, charts.merged(defaults, values)) == places


def test_the_schema_knows_the_modes_there_are_overlays_for() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert sorted(schema["properties"]["config"]["properties"]["mode"]["enum"]) == OVERLAID == sorted(MODES)
    assert NEEDED.keys() == set(OVERLAID)


def test_every_value_is_in_the_schema_and_in_a_template() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert defaults.keys() == schema["properties"].keys() - {"global"}
    templates = "".join(path.read_text() for path in CHART.glob("templates/*"))
    used = set(re.findall(r"\.Values\.(\w+)", templates))
    assert used == defaults.keys()


# --- as kubeadm has it, and as kubeway needs it ------------------------------------------------


@each_of_a_mode
def test_names_labels_and_places_are_those_of_kubeadm(mode: str, docs: dict[tuple[str, str], Doc]) -> None:
    assert {kind for kind, _ in docs} == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
    }
    for kind in ("ServiceAccount", "ConfigMap", "DaemonSet"):
        assert docs[kind, "kube-proxy"]["metadata"]["namespace"] == "kube-system"
    assert docs["ConfigMap", "kube-proxy"]["metadata"]["labels"] == {"app": "kube-proxy"}
    assert set(docs["ConfigMap", "kube-proxy"]["data"]) == {"config.conf", "kubeconfig.conf"}
    daemonset, spec, one = docs["DaemonSet", "kube-proxy"], pod(docs), container(docs)
    label = {"k8s-app": "kube-proxy"}
    assert daemonset["metadata"]["labels"] == label
    assert daemonset["spec"]["selector"] == {"matchLabels": label}
    assert daemonset["spec"]["template"]["metadata"]["labels"] == label
    assert (spec["hostNetwork"], spec["priorityClassName"]) == (True, "system-node-critical")
    assert (spec["serviceAccountName"], spec["tolerations"]) == ("kube-proxy", [{"operator": "Exists"}])
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    _, mounts, volumes = NEEDED[mode]
    assert spec["volumes"] == [*volumes, {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}}]
    assert one["name"] == "kube-proxy"
    assert one["command"] == [
        "/usr/local/bin/kubeway-proxy",
        f"--config={CONFIG}/config.conf",
        "--hostname-override=$(NODE_NAME)",
    ]
    assert one["volumeMounts"] == [*mounts, {"name": "kube-proxy", "mountPath": CONFIG}]


def asked(docs: Mapping[tuple[str, str], Doc], folder: Path, command: list[str]) -> Asked:
    """What the command and the ConfigMap ask of kubeway, laid out in a folder as a Pod has them."""
    for name, text in docs["ConfigMap", "kube-proxy"]["data"].items():
        (folder / name).write_text(text)
    words = [word.replace(CONFIG, str(folder)).replace("$(NODE_NAME)", "node1") for word in command[1:]]
    return settle(goflags.parse(words))


def configured(docs: Mapping[tuple[str, str], Doc], folder: Path, command: list[str]) -> Config:
    """What kubeway makes of that."""
    return config(asked(docs, folder, command), {})


@each_of_a_mode
def test_kubeway_reads_command_and_configuration(
    mode: str, docs: dict[tuple[str, str], Doc], tmp_path: Path
) -> None:
    one, (init,) = container(docs), pod(docs)["initContainers"]
    made = configured(docs, tmp_path, one["command"])
    assert made.options.mode == mode
    assert made.options.hostname == "node1"
    assert made.cluster is not None
    assert made.cluster.kubeconfig == f"{CONFIG}/kubeconfig.conf"
    assert not made.notes
    assert made.healthz is not None
    for probe in ("livenessProbe", "readinessProbe"):
        ask = one[probe]["httpGet"]
        assert (ask["port"], ask["host"]) == (made.healthz.port, "127.0.0.1")
    assert one["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert one["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # The init container does as the proxy would, by the same words.
    assert init["command"] == [*one["command"], "--init-only"]
    assert configured(docs, tmp_path, init["command"]).conntrack == made.conntrack
    assert init["env"] == one["env"]
    assert (init["image"], init["volumeMounts"]) == (one["image"], one["volumeMounts"])


@each
def test_the_kubeconfig_is_the_service_accounts(docs: dict[tuple[str, str], Doc], tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig.conf"
    path.write_text(docs["ConfigMap", "kube-proxy"]["data"]["kubeconfig.conf"])
    chosen = read_kubeconfig(path)
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert chosen.user.token_file == f"{account}/token"
    assert chosen.cluster.certificate_authority == f"{account}/ca.crt"
    assert chosen.cluster.server.startswith("https://")


@each_of_a_mode
def test_a_deployment_asks_for_its_mode(mode: str, docs: dict[tuple[str, str], Doc], tmp_path: Path) -> None:
    made = asked(docs, tmp_path, container(docs)["command"])
    assert made.configuration.mode == mode
    assert not made.notes


async def asked_for() -> set[tuple[str, str, str]]:
    """Group, resource and verb of all that kubeway asks an API server for."""
    verbs = {"POST": "create", "PATCH": "patch"}
    records: list[Record] = []
    async with ApiServer() as server:
        reach = await access("", server.url, records.append)
        source = ApiSource(reach, Store(), lambda: None, records.append, node="node1")
        events = Events(reach, "node1", records.append, series=0.0)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (source.run(), events.run())]
            await source.synced.wait()
            while not any(one.method == "PATCH" for one in server.requests):
                events.emit("Starting", "", type="Normal")
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
        found = set()
        for one in server.requests:
            path = re.fullmatch(
                r"/(?:api|apis/([^/]+))/v1/(?:namespaces/[^/]+/)?([^/]+)(?:/[^/]+)?", one.path
            )
            assert path, one.path
            if one.method == "GET":
                # Whoever watches lists too, when it has to begin anew.
                found |= {(path[1] or "", path[2], verb) for verb in ("list", "watch")}
            else:
                found.add((path[1] or "", path[2], verbs[one.method]))
        return found


@each
def test_all_that_is_asked_for_is_granted_and_no_more(docs: dict[tuple[str, str], Doc]) -> None:
    granted = {
        (group, resource, verb)
        for rule in docs["ClusterRole", "kubeway"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == asyncio.run(asked_for())
    binding = docs["ClusterRoleBinding", "kubeway"]
    (subject,) = binding["subjects"]
    assert binding["roleRef"]["name"] == "kubeway"
    assert ("ServiceAccount", subject["name"]) in docs
    assert subject["namespace"] == docs["ServiceAccount", subject["name"]]["metadata"]["namespace"]


# --- the container --------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, each with its words."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.M))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_container_is_made_of_what_is_there() -> None:
    said = instructions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = [words.split() for word, words in said if word == "COPY"]
    for *sources, _ in (words for words in copied if not words[0].startswith("--from")):
        assert all((ROOT / source).exists() for source in sources), sources
    sources = {source for words in copied for source in words[:-1]}
    assert project["readme"] in sources
    assert set(project["license-files"]) <= sources
    # The lock's Python, in both stages.
    bases = [words.split()[0] for word, words in said if word == "FROM"]
    assert len(bases) == 2
    assert all(re.search(r":3\.11-", base) for base in bases)
    runs = "\n".join(words for word, words in said if word == "RUN")
    for line in re.findall(r"pip install [^&\n]*-r \S+", runs):
        assert "--require-hashes" in line
        assert (ROOT / line.split()[-1]).exists()
    links = re.findall(r"/opt/kubeway/bin/([\w-]+)", runs)
    assert set(project["scripts"]) <= set(links)
    assert "/usr/local/bin/kube-proxy" in runs
    assert ("ENTRYPOINT", '["/usr/local/bin/kubeway-proxy"]') in said


def test_the_image_has_the_tools_of_iptables_legacy_and_no_others() -> None:
    said = instructions()
    last = max(i for i, (word, _) in enumerate(said) if word == "FROM")
    assert not [words for word, words in said[:last] if "apt-get" in words]
    (steps,) = [words for word, words in said[last:] if word == "RUN" and "apt-get" in words]
    update, install, clean = steps.split(" && ")
    assert update == "apt-get update"
    assert install.split() == ["apt-get", "install", "--yes", "--no-install-recommends", "iptables"]
    assert clean == "rm -rf /var/lib/apt/lists/*"


def test_versions_are_this_one() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == kubeway.__version__
    assert {container(docs)["image"] for docs in DEPLOYMENTS.values()} == {f"kubeway:{kubeway.__version__}"}
    told = [path for path in (DEPLOY / "Containerfile", ROOT / "docs" / "deploy.md") if path.exists()]
    for path in told:
        tags = re.findall(r"kubeway:(\d[\w.]*\d)", path.read_text())
        assert set(tags) == {kubeway.__version__}, path


# --- the unit -------------------------------------------------------------------------------


def unit(file: Path = UNIT) -> dict[str, list[str]]:
    """The settings of a unit, or of what is laid over one; some stand there twice."""
    settings: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", file.read_text(), flags=re.M):
        settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_runs_a_command_that_is_there() -> None:
    program, command, *words = unit()["ExecStart"][0].split()
    assert (program, command) == ("/opt/kubeway/bin/kubeway", "run")
    names = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert names == ["manifests"]
    assert all(BY_NAME[name] in flags.DAEMON for name in names)
    # What it follows is there, as systemd makes it.
    made = {f"/etc/{name}" for name in unit()["ConfigurationDirectory"][0].split()}
    assert words[-1] in made


def test_for_ipvs_the_unit_prepares_what_it_runs() -> None:
    """First with all privileges, which `+` is, and then as before: nothing else of the unit is another."""
    more = unit(FOR_IPVS)
    assert more.keys() == {"ExecStartPre", "ExecStart"}
    # Of a service there is one command, so the unit's own goes first.
    empty, command = more["ExecStart"]
    assert empty == ""
    assert command == f"{unit()['ExecStart'][0]} --proxy-mode=ipvs"
    assert more["ExecStartPre"] == [f"+{command} --init-only"]
    names = [word[2:].partition("=")[0] for word in more["ExecStartPre"][0].split() if word.startswith("--")]
    assert all(BY_NAME[name] in flags.DAEMON for name in names)
    assert "ipvs" in MODES


def test_the_schema_knows_our_own_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["config"]["properties"]["kubeway"]["properties"]
    assert known.keys() <= {field.encode_name for field in fields(Own)}
    assert {"relayWorkers", "relayDrain", "relayHalfClosed"} <= known.keys()


def test_for_userspace_the_unit_gets_what_the_container_has() -> None:
    more = unit(FOR_USERSPACE)
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (base,), (added,) = unit()[name], more[name]
        assert [f"CAP_{one}" for one in NEEDED["userspace"][0]] == [base, added]
    empty, command = more["ExecStart"]
    assert (empty, command) == ("", f"{unit()['ExecStart'][0]} --proxy-mode=userspace")
    # Who carries connections is not ended with the daemon.
    assert more["KillMode"] == ["process"]
    # Its user and the rest of what the unit forbids stay.
    assert more.keys() == {
        "AmbientCapabilities",
        "CapabilityBoundingSet",
        "LimitNOFILE",
        "KillMode",
        "ExecStart",
    }


def test_unit_and_container_have_the_capabilities_they_need() -> None:
    assert unit()["AmbientCapabilities"] == unit()["CapabilityBoundingSet"] == ["CAP_NET_ADMIN"]
    for (_, mode), docs in DEPLOYMENTS.items():
        context = container(docs)["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": NEEDED[mode][0]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert "privileged" not in context


def test_for_iptables_legacy_the_unit_gets_what_the_container_has() -> None:
    """Lists of capabilities add up; and root it must be, as the lock is root's own file."""
    more = unit(FOR_LEGACY)
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (base,), (added,) = unit()[name], more[name]
        assert [f"CAP_{one}" for one in NEEDED["iptables"][0]] == [base, added]
    assert (more["User"], more["DynamicUser"]) == (["root"], ["no"])
    _, (mount,), _ = NEEDED["iptables"]
    assert more["ExecStartPre"][0].split()[-1] == mount["mountPath"]
    # Raw sockets are of these families.
    families = unit()["RestrictAddressFamilies"][0].split()
    assert {"AF_INET", "AF_INET6", "AF_NETLINK"} <= set(families)
    # The rest of what the unit forbids stays forbidden.
    assert more.keys() == {
        "AmbientCapabilities",
        "CapabilityBoundingSet",
        "User",
        "DynamicUser",
        "ExecStartPre",
    }


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_knows_every_setting(tmp_path: Path) -> None:
    """It says what it does not know; that kubeway is not installed here is nothing of the unit."""

    def verify(text: str, *more: str) -> str:
        path = tmp_path / "kubeway.service"
        path.write_text(text.replace("/opt/kubeway/bin/kubeway", "/bin/true"))
        shutil.rmtree(tmp_path / "kubeway.service.d", ignore_errors=True)
        (tmp_path / "kubeway.service.d").mkdir()
        for number, over in enumerate(more):
            over = over.replace("/opt/kubeway/bin/kubeway", "/bin/true")
            (tmp_path / "kubeway.service.d" / f"{number}.conf").write_text(over)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--recursive-errors=no", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return "\n".join(line for line in done.stderr.splitlines() if "kubeway.service" in line)

    text = UNIT.read_text()
    assert verify(text) == ""
    assert "NoNewPowers" in verify(text.replace("NoNewPrivileges", "NoNewPowers"))
    more = FOR_LEGACY.read_text()
    assert verify(text, more) == ""
    assert "DynamicPerson" in verify(text, more.replace("DynamicUser", "DynamicPerson"))
    for_ipvs = FOR_IPVS.read_text()
    assert verify(text, more, for_ipvs) == ""
    assert "more than one" in verify(text, more, for_ipvs.replace("ExecStart=\n", ""))
    for_userspace = FOR_USERSPACE.read_text()
    assert verify(text, for_userspace) == ""
    assert "KillMood" in verify(text, for_userspace.replace("KillMode", "KillMood"))
