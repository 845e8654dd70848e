"""
As much of kustomize as our deployment uses: a folder with a kustomization, to objects.

    resources, namespace, images, configMapGenerator (files, merge, labels), generatorOptions

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
}
_OF_THE_CLUSTER = {"ClusterRole", "ClusterRoleBinding"}


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


def _name_image(doc: Doc, image: Doc) -> None:
    pod = doc.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("initContainers", []) + pod.get("containers", []):
        if container["image"] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"
