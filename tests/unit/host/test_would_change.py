"""The action would_change on a real playbook: what it foresees, gets to know, and leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.unit.contract.conftest import Run, play, write  # noqa: F401 (a fixture)

INNER = """
- hosts: spark
  gather_facts: false
  tasks:
    - name: Write
      ansible.builtin.copy: {content: new, dest: "{{ folder }}/file", mode: "0600"}
    - name: Leave out
      ansible.builtin.copy: {content: new, dest: "{{ folder }}/other", mode: "0600"}
      tags: left_out
    - name: Know the secret
      ansible.builtin.assert: {that: token == 'sesame'}
    - name: Refuse
      ansible.builtin.fail: {msg: refused}
      when: inventory_hostname == 'bad'
"""
OUTER = """
- hosts: spark
  gather_facts: false
  tasks:
    - would_change:
        playbook: "{{ playbook_dir }}/inner.yml"
        skip_tags: [left_out]
      register: seen
    - ansible.builtin.debug: {msg: "{{ seen.would }}"}
"""


def test_each_host_is_asked_by_itself_with_this_runs_secrets(
    play: Callable[..., Run],  # noqa: F811
    tmp_path: Path,
) -> None:
    key = write(tmp_path / "key", "password\n")
    vault = str(Path(sys.executable).with_name("ansible-vault"))
    argv = [vault, "encrypt_string", "--vault-id", f"mine@{key}", "sesame"]
    vaulted = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    hosts = {"good": {"ansible_connection": "local"}, "bad": {"ansible_connection": "local"}}
    hosts["away"] = {"ansible_host": "127.0.0.1", "ansible_port": "1"}
    write(tmp_path / "inventory/hosts.yml", json.dumps({"spark": {"hosts": hosts}}))
    write(tmp_path / "inventory/group_vars/spark.yml", f"token: {vaulted}")
    write(tmp_path / "inner.yml", INNER)
    outer = write(tmp_path / "outer.yml", OUTER)
    run = play(outer, tmp_path / "inventory", "--vault-id", f"mine@{key}", "-e", f"folder={tmp_path}")
    assert run.code == 0, run.text
    told = run.report["plays"][0]["tasks"][1]["hosts"]
    would = {name: told[name]["msg"] for name in hosts}
    assert would["good"] == {"tasks": 2, "changed": ["Write"], "failed": [], "unreachable": False}
    assert would["bad"]["changed"] == ["Write"]
    assert would["bad"]["failed"] == [{"task": "Refuse", "msg": "refused"}]
    assert would["away"]["unreachable"] is True and would["away"]["changed"] == []
    assert not (tmp_path / "file").exists() and run.changed() == 0
    assert "password" not in run.text
