#!/usr/bin/python3
"""Ansible module: seals, verifies and imports a bundle, on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.bundle_parts import Bundle, pack_project
from ansible.module_utils.hub_pin import Refused

DOCUMENTATION = r"""
module: bundle
short_description: Seal, verify or import a bundle
description:
  - A bundle is a depot, what another controller needs, a manifest with the sha256 of every part, and a
    signature by ssh-keygen. Nothing is imported before all of it is verified, and every part that is
    missing, altered or too many is named.
options:
  path: {type: path, required: true, description: The bundle's folder.}
  action: {type: str, choices: [seal, verify, import], required: true, description: What to do.}
  project: {type: path, default: "", description: "Seal: the clone that goes along."}
  key: {type: path, default: "", description: "Seal: the private key."}
  about: {type: dict, default: {}, description: "Seal: what the manifest tells people."}
  signers: {type: path, default: "", description: "Verify, import: file of allowed signers."}
  depot: {type: path, default: "", description: "Import: where to."}
"""

EXAMPLES = r"""
- name: Import
  bundle:
    path: /media/usb/bundle
    action: import
    signers: /etc/spark-voicebot/signers
    depot: /srv/depot
"""

RETURN = r"""
parts: {description: How many parts the bundle has., type: int, returned: success}
bytes: {description: Their size., type: int, returned: success}
signer: {description: Who signed it., type: str, returned: verify and import}
copied: {description: Parts that the depot lacked., type: list, returned: import}
"""


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Do what the options ask for, or raise Refused."""
    bundle = Bundle(Path(given["path"]))
    told: dict[str, Any] = {"changed": given["action"] == "seal"}
    if given["action"] == "seal":
        pack_project(Path(given["project"]), bundle.root / "controller/project.tar")
        parts = bundle.seal(given["key"], given["about"])
    else:
        told["signer"], parts = bundle.verify(given["signers"])
    if given["action"] == "import":
        told["copied"] = bundle.fill(Path(given["depot"]), parts)
        told["changed"] = bool(told["copied"])
    return {**told, "parts": len(parts), "bytes": sum(part["size"] for part in parts.values())}


def main() -> None:
    """Run as an Ansible module."""
    text = {"type": "path", "default": ""}
    arguments = {
        "path": {"type": "path", "required": True},
        "action": {"type": "str", "choices": ["seal", "verify", "import"], "required": True},
        "about": {"type": "dict", "default": {}},
        **dict.fromkeys(("project", "key", "signers", "depot"), text),
    }
    module = AnsibleModule(argument_spec=arguments)
    try:
        module.exit_json(**run(module.params))
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = module.params["path"]
        module.fail_json(msg=f"{error}. Rule: {where} can be read and written. Remedy: see that place.")


if __name__ == "__main__":
    main()
