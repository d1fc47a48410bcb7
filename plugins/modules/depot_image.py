#!/usr/bin/python3
"""Ansible module: one image in a depot, by digest, as the OCI lays it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.depot_layout import ARCHITECTURES, Layout
from ansible.module_utils.depot_registry import Copy, Registry
from ansible.module_utils.hub_job import Job, Progress
from ansible.module_utils.hub_pin import Refused

DOCUMENTATION = r"""
module: depot_image
short_description: Have an image in a depot, by digest
description:
  - Fetches manifests and blobs that the depot lacks over the registry's HTTP API, each blob from the byte
    where an earlier run stopped, hashed while it streams. Blobs that images share are there once.
  - Of an index, only the manifests of the named architectures.
options:
  root: {type: path, required: true, description: The depot.}
  image: {type: str, required: true, description: "REGISTRY/REPOSITORY@sha256:DIGEST"}
  architectures: {type: list, elements: str, required: true, description: "As a kernel says it: aarch64."}
  registries: {type: dict, default: {}, description: "REGISTRY to {url, ca}, where another place answers."}
  tries: {type: int, default: 6, description: Requests without progress until it is given up.}
  pause: {type: float, default: 1, description: Seconds until one is repeated; doubles each time.}
"""

EXAMPLES = r"""
- name: Have the engine's image
  depot_image:
    root: /srv/depot
    image: nvcr.io/nvidia/vllm@sha256:…
    architectures: [aarch64]
"""

RETURN = r"""
lacks: {description: Digests that were not there, so far as could be told., type: list, returned: success}
received: {description: Bytes out of the network., type: int, returned: success}
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "required": True},
    "image": {"type": "str", "required": True},
    "architectures": {"type": "list", "elements": "str", "required": True},
    "registries": {"type": "dict", "default": {}},
    "tries": {"type": "int", "default": 6},
    "pause": {"type": "float", "default": 1},
}


def run(given: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the options ask for, or raise Refused."""
    repository, _, digest = given["image"].partition("@")
    server, _, path = repository.partition("/")
    if not path or not {".", ":"} & set(server):
        raise Refused(
            f"The image is {given['image']!r}. Rule: REGISTRY/REPOSITORY@sha256:DIGEST. "
            "Remedy: name the registry."
        )
    architectures = [ARCHITECTURES.get(name, name) for name in given["architectures"]]
    layout = Layout(Path(given["root"]) / "images")
    lacks = layout.lacks(digest, architectures)
    place = given["registries"].get(server, {})
    url = place.get("url", f"https://{server}").rstrip("/")
    registry = Registry(url, path, digest, "", given["tries"], given["pause"], place.get("ca", ""))
    if check and lacks:
        registry.probe(f"manifests/{digest}")
    if check or not lacks:
        return {"changed": bool(lacks), "lacks": lacks, "received": 0}
    job = Job(f"{given['root']}/.run", "images", digest.removeprefix("sha256:")[:12])
    if not job.take():
        raise Refused(
            f"Process {job.read().get('pid', '?')} is fetching {given['image']} already. "
            "Rule: one at a time. "
            "Remedy: wait for it, or end that process; the next run goes on where it stopped."
        )
    try:
        progress, copy = Progress(job), Copy(registry, layout, architectures)
        copy.run(progress.begin, progress.tell)
        layout.name(digest, given["image"])
    finally:
        job.release()
    return {"changed": True, "lacks": lacks, "received": copy.received}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = module.params["root"]
        module.fail_json(msg=f"{error}. Rule: this user writes below {where}. Remedy: see that place.")


if __name__ == "__main__":
    main()
