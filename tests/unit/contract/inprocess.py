"""The contract as playbooks/contract.yml runs it, without a process of Ansible around it."""

from __future__ import annotations

from pathlib import Path

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.playbook.play_context import PlayContext
from ansible.plugins import loader as plugins
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).parents[3]
plugins.init_plugin_loader([])
plugins.filter_loader.add_directory(str(ROOT / "plugins/filter"))
plugins.action_loader.add_directory(str(ROOT / "plugins/action"))
LOADER = DataLoader()  # remembers the files that all cases read
LOADER.set_basedir(str(ROOT / "playbooks"))


def contract(folder: Path) -> str:
    """What the contract says of the first host of an inventory's folder; empty if all is sound."""
    loader = LOADER
    inventory = InventoryManager(loader=loader, sources=[str(folder / "hosts.yml")])
    manager = VariableManager(loader=loader, inventory=inventory)
    HostVars(inventory, manager, loader)  # what one host's variables say of another's
    plays = Playbook.load(
        str(ROOT / "playbooks/contract.yml"), variable_manager=manager, loader=loader
    ).get_plays()
    [play] = [play for play in plays if "spark" in play.hosts]
    host = inventory.get_hosts("spark")[0]
    [task] = [t for block in play.tasks if isinstance(block, Block) for t in block.block]
    variables = manager.get_vars(play=play, host=host, task=task)
    templar = Templar(loader=loader, variables=variables)
    task = task.copy()
    task.post_validate(templar._engine)  # what a TaskExecutor hands over
    context = PlayContext()
    connection = plugins.connection_loader.get("ansible.builtin.local", context)
    action = plugins.action_loader.get(
        task.action, task=task, connection=connection, play_context=context, loader=loader, templar=templar,
        shared_loader_obj=plugins,
    )  # fmt: skip
    result = action.run(task_vars=variables)
    return str(result["msg"]) if result.get("failed") else ""
