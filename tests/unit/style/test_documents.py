"""What README.md and docs/ say: every command is shown to work, every name and link is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documented import REAL, RUN_BY

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?ms)^[ ]*```(\w*)\n(.*?)^[ ]*```")
# What begins a command in a table; elsewhere in a line of prose, a program's name is a name.
PROGRAMS = re.compile(
    r"(?:ansible|ansible-playbook|ansible-vault|apt-get|cat|cp|curl|df|docker|free|jq|journalctl|ls|make"
    r"|nvidia-smi|openssl|ps|rm|ss|ssh|ssh-\w+|systemctl|tar|timedatectl|touch|uname|voicebot|/opt/voicebot\S+)"
    r"(?: .*)?"
)
NAMES_ALONE = {"nvidia-smi", "rm", "touch", "voicebot", "docker"}  # … as here, without a single argument
PLAYBOOK = re.compile(
    r"(?:ansible-playbook (?:-i inventory/\S+ )?)?(?:playbooks/)?(?P<name>[a-z_]+\.yml)(?P<rest>(?: .*)?)"
)
# Names in documents that look like a variable of a role and are none.
NO_VARIABLES = re.compile(
    r"vllm_guard|voicebot_\w+_(?:total|seconds)|memory_(?:plan|min)|smoke_\w+_s|gateway_edge$"
)


def tables(text: str) -> Iterator[str]:
    """The code of a document's tables."""
    for line in FENCE.sub("", text).splitlines():
        if line.lstrip().startswith("|"):
            yield from re.findall(r"`([^`]+)`", line.replace("\\|", "|"))


def normal(command: str) -> str:
    """A command as tests/documented.py has it."""
    command = command.removesuffix(" &").strip()
    if match := PLAYBOOK.fullmatch(command):
        return match["name"] + match["rest"]
    return command


def commands(text: str) -> Iterator[str]:
    """Every command of a document: each line of its sh blocks, and what looks like one in its tables."""
    for language, block in FENCE.findall(text):
        lines = re.sub(r"\\\n\s*", "", block).splitlines() if language == "sh" else []
        for line in lines:
            if command := re.sub(r"(?:^|\s)#\s.*", "", line).strip():
                yield normal(command)
    for code in tables(text):
        match = PLAYBOOK.fullmatch(code)
        ours = match and (ROOT / "playbooks" / match["name"]).exists()
        if ours or (PROGRAMS.fullmatch(code) and code not in NAMES_ALONE):
            yield normal(code)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_is_run_by_the_suite_or_needs_a_real_spark(path: Path) -> None:
    unknown = sorted(set(commands(path.read_text(encoding="utf-8"))) - set(RUN_BY) - set(REAL))
    assert unknown == [], "say in tests/documented.py what runs it, or why nothing can"


def test_what_runs_them_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for command, runs in RUN_BY.items():
        if runs.startswith("make "):
            assert runs.removeprefix("make ") in targets, f"{command}: no target {runs}"
            continue
        file, test = runs.split("::")
        source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else ""
        assert re.search(rf"(?m)^def {test}\(", source), f"{command}: there is no {runs}"
    assert not set(RUN_BY) & set(REAL)
    assert all(REAL.values())


def test_what_runs_a_playbook_names_it() -> None:
    for command, runs in RUN_BY.items():
        name = command.split()[0]
        if name.endswith(".yml") and "::" in runs:
            folder = (ROOT / runs.split("::")[0]).parent
            sources = "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.py"))
            wanted = (
                "rollout_batches.yml" if name == "rollout.yml" else name
            )  # its first plays are prefetch.yml's
            assert wanted in sources, f"{command}: nothing beside {runs} runs {name}"


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *sorted(ROOT.glob("roles/*/README.md"))], ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def tracked() -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {Path(name).name.removesuffix(".j2") for name in done.stdout.splitlines()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"(?<![\w*/<>.-])((?:[\w.-]+/)*[a-z_]+\.yml)\b", path.read_text(encoding="utf-8"))
    known = tracked()
    assert sorted({name for name in named if Path(name).name not in known}) == []


def variables() -> set[str]:
    """Options of roles, the playbooks' own variables, and those of their plays."""
    known: set[str] = set()
    for file in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values():
            known |= set(entry.get("options") or {})
    for file in ROOT.glob("playbooks/group_vars/all/*.yml"):
        known |= set(yaml.safe_load(file.read_text(encoding="utf-8")))
    for file in ROOT.glob("playbooks/*.yml"):
        for play in yaml.safe_load(file.read_text(encoding="utf-8")) or []:
            known |= set(play.get("vars") or {})
    return known


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_variables_that_are_named_are_known(path: Path) -> None:
    known = variables()
    prefixes = {folder.name for folder in (ROOT / "roles").iterdir() if folder.is_dir()} | {
        "memory",
        "maintain",
        "rollout",
    }
    code = " ".join(re.findall(r"`([^`]+)`", path.read_text(encoding="utf-8")))
    named = re.findall(rf"(?<![\w/.-])((?:{'|'.join(sorted(prefixes))})_[a-z_]+)(?![\w/*.-]*\.py)", code)
    unknown = {name.rstrip("_") for name in named} - known
    assert sorted(name for name in unknown if not NO_VARIABLES.search(name)) == []


def test_commands_are_found_and_made_equal() -> None:
    text = (
        "```sh\nmake x   # why\n# only why\n\nansible-playbook -i inventory/home playbooks/smoke.yml\n```\n"
    )
    text += (
        "| a | `docker ps`, `nvidia-smi`, `ps \\| head`, `status.yml -e x=y`, `hosts.yml` |\nprose `make y`\n"
    )
    assert list(commands(text)) == ["make x", "smoke.yml", "docker ps", "ps | head", "status.yml -e x=y"]
