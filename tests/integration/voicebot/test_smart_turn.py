"""The optional turn model on human sentences, whole and cut. Single words it takes for finished anyway."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import speech
from tests.lab import packages
from voicebot.audio import Recording, decode
from voicebot.errors import ConfigError
from voicebot.turns.smart import TurnModel

pytestmark = [pytest.mark.lab, pytest.mark.long]
REQUIREMENTS = Path(packages.__file__).parent / "requirements-turn.txt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TurnModel:
    folder = tmp_path_factory.mktemp("turn")
    (wheel,) = packages.download(REQUIREMENTS, folder)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("smart-turn-v3.2-cpu.onnx")]
        return TurnModel(Path(archive.extract(name, folder)))


async def test_it_is_right_more_often_than_not(
    model: TurnModel, human_speech: list[speech.Utterance], record_property: Callable[[str, object], None]
) -> None:
    whole, cut = [], []
    for utterance in human_speech:
        with utterance.path.open("rb") as file:
            samples = decode(file, max_seconds=60).samples
        whole.append(await model.sounds_finished(Recording(samples)))
        cut.append(await model.sounds_finished(Recording(samples[: len(samples) // 3])))
    record_property("smart_turn_finished_of_whole_and_cut", [sum(whole), sum(cut), len(whole)])
    assert sum(whole) > len(whole) / 2 > sum(cut)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"conversation\.smart_turn is .*Remedy"):
        TurnModel(path)
