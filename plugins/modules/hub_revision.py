#!/usr/bin/python
"""Ask the model hub which revision a branch is at, and which files it holds."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hub_revision
short_description: Resolve a branch of a model repository to its revision and file list
description:
  - Asks a Hugging Face hub for the commit that a branch (or a revision) names, and for its files,
    with size and hash as the repository itself lists them; on request for its config.json. Reads only.
options:
  repository:
    description: The repository, as OWNER/NAME.
    type: str
    required: true
  revision:
    description: A branch, a tag or a commit.
    type: str
    default: main
  config:
    description: Whether to read the revision's config.json, too.
    type: bool
    default: false
  endpoint:
    description: The hub's base URL.
    type: str
    default: https://huggingface.co
  token:
    description: An access token for gated repositories; empty for none, also when one is stored here.
    type: str
    default: ""
requirements: [huggingface_hub]
author: [spark-voicebot]
"""

EXAMPLES = r"""
- name: Resolve the branch
  hub_revision:
    repository: TheBloke/Mistral-7B-Instruct-v0.2-GPTQ
  delegate_to: localhost
  register: __pin_snapshot
"""

RETURN = r"""
revision:
  description: The commit, 40 hex digits.
  type: str
  returned: success
files:
  description: By path, the file's size and its sha256 (large files) or git_oid (the others).
  type: dict
  returned: success
config:
  description: What the revision's config.json says; empty if there is none.
  type: dict
  returned: if asked for
"""

import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule, missing_required_lib  # noqa: E402

try:
    import huggingface_hub
    from huggingface_hub import errors
except ImportError:
    huggingface_hub = None  # type: ignore[assignment]


def records(info: Any) -> dict[str, dict[str, Any]]:
    """The files of a model, as pins.yml holds them."""
    files: dict[str, dict[str, Any]] = {}
    for file in info.siblings or []:
        hashed = {"sha256": file.lfs.sha256} if file.lfs else {"git_oid": file.blob_id}
        files[file.rfilename] = {"size": file.size, **hashed}
    return files


def config_of(api: Any, repository: str, info: Any, folder: str) -> Any:
    """What config.json says at that very revision."""
    if all(file.rfilename != "config.json" for file in info.siblings or []):
        return {}
    path = api.hf_hub_download(repository, "config.json", revision=info.sha, local_dir=folder)
    return json.loads(Path(path).read_text(encoding="utf-8"))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "revision": {"type": "str", "default": "main"},
            "config": {"type": "bool", "default": False},
            "endpoint": {"type": "str", "default": "https://huggingface.co"},
            "token": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    if huggingface_hub is None:
        module.fail_json(msg=missing_required_lib("huggingface_hub"))
    given = module.params
    what = f"{given['repository']} at {given['revision']} ({given['endpoint']})"
    api = huggingface_hub.HfApi(endpoint=given["endpoint"], token=given["token"] or False)
    try:
        info = api.model_info(
            given["repository"], revision=given["revision"], files_metadata=True, timeout=30
        )
        config = (
            {"config": config_of(api, given["repository"], info, module.tmpdir)} if given["config"] else {}
        )
    except errors.RevisionNotFoundError:
        module.fail_json(
            msg=f"{what} does not exist. Rule: a branch, tag or commit of the repository. "
            "Remedy: correct the entry's branch in the catalogue, or the revision in pins.yml."
        )
    except errors.RepositoryNotFoundError:
        module.fail_json(
            msg=f"{what} is not to be seen. Rule: a public repository, or one that model_store_token "
            "may read. Remedy: correct the entry's repository in the catalogue, or set model_store_token."
        )
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError, ValueError) as error:
        module.fail_json(
            msg=f"{what} cannot be resolved: {error}. Rule: the hub answers. "
            "Remedy: look at network, proxy and model_store_endpoint, then run this again."
        )
    module.exit_json(changed=False, revision=info.sha, files=records(info), **config)


if __name__ == "__main__":
    main()
