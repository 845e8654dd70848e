"""
As much of kustomize as our deployment uses: a folder with a kustomization, to objects.

    resources, namespace, images, configMapGenerator (files, merge, labels), generatorOptions,
    patches (each a file with a part of an object, laid over that object)

Anything else in a kustomization is an error here, so that ours stay this simple.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]

_KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "images",
    "configMapGenerator",
    "generatorOptions",
    "patches",
}
_OF_THE_CLUSTER = {"ClusterRole", "ClusterRoleBinding"}
# By what Kubernetes tells the items of a list apart (patchMergeKey); any other list is replaced as a whole.
_TOLD_APART_BY = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}


def build(folder: Path) -> list[Doc]:
    """What `kubectl kustomize FOLDER` prints, in any order."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if strange := plan.keys() - _KNOWN:
        raise ValueError(f"{folder}: not known here: {sorted(strange)}")
    docs: list[Doc] = []
    for name in plan.get("resources", ()):
        path = folder / name
        docs += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for generator in plan.get("configMapGenerator", ()):
        _generate(docs, generator, folder)
    for patch in plan.get("patches", ()):
        if strange := patch.keys() - {"path"}:
            raise ValueError(f"{folder}: not known here: {sorted(strange)}")
        _lay_over(docs, yaml.safe_load((folder / patch["path"]).read_text()))
    for doc in docs:
        if doc["kind"] not in _OF_THE_CLUSTER:
            doc["metadata"]["namespace"] = plan["namespace"]
        for image in plan.get("images", ()):
            _name_image(doc, image)
    return docs


def _generate(docs: list[Doc], generator: Doc, folder: Path) -> None:
    data = {name: (folder / name).read_text() for name in generator["files"]}
    if generator.get("behavior") == "merge":
        known = [
            doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) == ("ConfigMap", generator["name"])
        ]
        known[0]["data"] |= data
        return
    metadata = {"name": generator["name"], "labels": generator["options"]["labels"]}
    docs.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _lay_over(docs: list[Doc], patch: Doc) -> None:
    found = [i for i, doc in enumerate(docs) if _named(doc) == _named(patch)]
    if len(found) != 1:
        raise ValueError(f"a patch for {_named(patch)}, which is there {len(found)} times")
    docs[found[0]] = _merged(docs[found[0]], patch)


def _named(doc: Doc) -> tuple[str, str]:
    return doc["kind"], doc["metadata"]["name"]


def _merged(old: Any, new: Any, field: str = "") -> Any:
    """The value with the patch over it. Values are shared in YAML (`*alias`), so none is changed."""
    if new is None:
        raise ValueError(f"{field}: taking away is not known here")
    if field.startswith("$"):
        raise ValueError(f"{field}: not known here")
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merged(old.get(name), value, name) for name, value in new.items()}
    by = _TOLD_APART_BY.get(field)
    if by is None or not old:
        return new
    patched = {item[by]: item for item in new}
    known = {item[by] for item in old}
    # What is new stands before what was there, as kustomize has it.
    added = [item for item in new if item[by] not in known]
    return added + [_merged(item, patched.get(item[by], {})) for item in old]


def _name_image(doc: Doc, image: Doc) -> None:
    pod = doc.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("initContainers", []) + pod.get("containers", []):
        if container["image"] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"
