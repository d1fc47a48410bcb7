"""Rules of this repository that the linters do not know."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PRODUCTION = ("roles", "playbooks", "plugins", "src", "inventory/example", "inventory/local", "site.yml")
LAB_ONLY = ("roles/virtual_spark/", "playbooks/lab.yml")
MAX_LINES = 400


def tracked(*patterns: str) -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in out.stdout.splitlines() if (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def production_files() -> list[Path]:
    return [
        p for p in tracked(*PRODUCTION)
        if not str(p.relative_to(ROOT)).startswith(LAB_ONLY) and p.suffix in {".yml", ".j2", ".py", ".sh"}
    ]  # fmt: skip


ANSIBLE = [p for p in tracked("roles", "playbooks", "molecule") if p.suffix in {".yml", ".j2"}]
ROLES = sorted(p.name for p in (ROOT / "roles").iterdir() if p.is_dir())


def test_no_production_file_names_anything_of_the_lab() -> None:
    word = re.compile(
        r"virtual.?spark|smollm|\blab[-_/.]|tests[./]lab|\.lab\b|172\.31\.|stand-in|runc-clamp", re.I
    )
    named = [
        f"{p.relative_to(ROOT)}:{number}: {line.strip()}"
        for p in production_files()
        for number, line in enumerate(text_of(p).splitlines(), 1)
        if word.search(line)
    ]
    assert named == []


def test_no_floating_image_tag_and_no_remote_code() -> None:
    bad = re.compile(r":latest\b|trust[-_]remote[-_]code")
    assert [str(p) for p in production_files() if bad.search(text_of(p))] == []


def test_no_swallowed_error_in_ansible() -> None:
    bad = re.compile(r"ignore_errors|ignore_unreachable|\|\| true")
    assert [str(p) for p in ANSIBLE if bad.search(text_of(p))] == []


def test_facts_are_read_by_subscript() -> None:
    """ansible_facts.x and the injected ansible_x facts hide a misspelling."""
    bad = re.compile(
        r"ansible_facts\.[a-z]|\bansible_(architecture|distribution|memtotal_mb|os_family|hostname)\b"
    )
    assert [str(p) for p in ANSIBLE if bad.search(text_of(p))] == []


@pytest.mark.parametrize(
    "path", sorted(tracked("*.py", "*.yml", "*.j2", "*.sh")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_are_short_enough_to_hold_in_mind(path: Path) -> None:
    assert len(text_of(path).splitlines()) <= MAX_LINES


@pytest.mark.parametrize("role", ROLES)
def test_role_has_its_parts(role: str) -> None:
    base = ROOT / "roles" / role
    for part in (
        "README.md",
        "tasks/main.yml",
        "defaults/main.yml",
        "meta/main.yml",
        "meta/argument_specs.yml",
    ):
        assert (base / part).is_file(), f"{role} lacks {part}"
    assert text_of(base / "tasks/main.yml").startswith(("#", "---\n#")), (
        "tasks/main.yml says first what it does"
    )


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_equal_defaults(role: str) -> None:
    base = ROOT / "roles" / role
    defaults = yaml.safe_load(text_of(base / "defaults/main.yml")) or {}
    options = yaml.safe_load(text_of(base / "meta/argument_specs.yml"))["argument_specs"]["main"]["options"]
    assert set(defaults) == {name for name, option in options.items() if not option.get("required")}
    for name, value in defaults.items():
        assert name.startswith(f"{role}_")
        assert options[name].get("default", value) == value, name


@pytest.mark.parametrize("role", ROLES)
def test_role_keeps_to_itself(role: str) -> None:
    """A role names no inventory group, no vault variable, and no other role's variable."""
    others = "|".join(other for other in ROLES if other != role)
    foreign = re.compile(rf"\b(?:{others})_[a-z_]+\b|groups\[|vault_")
    passed_on = re.compile(r"python_venv_[a-z_]+")
    for path in tracked(f"roles/{role}"):
        if path.suffix not in {".yml", ".j2"}:
            continue
        for line in text_of(path).splitlines():
            code = line.split(" #")[0]
            hits = [h for h in foreign.findall(code) if not passed_on.fullmatch(h)]
            assert hits == [], f"{path.relative_to(ROOT)}: {line.strip()}"


def test_every_playbook_says_first_what_it_does() -> None:
    for path in tracked("playbooks/*.yml"):
        if path.parent.name == "playbooks":
            head = text_of(path).removeprefix("---\n")
            assert head.startswith("#"), f"{path.name}: begin with what it does, changes, and how to undo it"


def test_repository_names_no_package_registry() -> None:
    hosts = re.compile(
        r"(?:files\.python"
        + r"hosted|py"
        + r"pi\.org|registry\.np"
        + r"mjs|deb\.deb"
        + r"ian|snapshot\.deb"
        + r"ian)"
    )
    assert [str(p) for p in tracked() if hosts.search(text_of(p))] == []


def test_no_binary_over_one_megabyte() -> None:
    assert [str(p) for p in tracked() if p.stat().st_size > 1 << 20] == []
