"""Human speech with transcripts (Debian's package pocketsphinx-testdata), and word error rates by jiwer."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import jiwer

DATA = Path("/usr/share/pocketsphinx/test/data")

_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NORMALISED = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.SubstituteRegexes({r"[-\u2010-\u2014]": " ", r"\bmr\b\.?": "mister"}),
        jiwer.SubstituteRegexes({rf"\b{digit}\b": word for digit, word in enumerate(_DIGITS)}),
        jiwer.SubstituteRegexes({r"[^\w\s]": ""}),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)


@dataclass(frozen=True)
class Utterance:
    """A recording and what is said in it."""

    name: str
    path: Path
    text: str


def librivox() -> list[Utterance]:
    """Five sentences of a reading of Sense and Sensibility (public domain), 16 kHz."""
    # The transcript of 0920 has "a more a amiable woman"; the reader and the book say "a more amiable woman".
    return [
        Utterance(name, path, text.replace("a more a amiable", "a more amiable"))
        for name, path, text in _transcribed("librivox", "transcription")
    ]


def cards() -> list[Utterance]:
    """Five readings of playing cards, by another voice."""
    return [Utterance(*found) for found in _transcribed("cards", "cards.transcription")]


def go_forward(folder: Path) -> Utterance:
    """A spoken command; raw samples in the package, so a WAV of it is written into `folder`."""
    path = folder / "goforward.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(_present(DATA / "goforward.raw").read_bytes())
    return Utterance("goforward", path, "go forward ten meters")


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Wrong words per word of the reference; case, punctuation, hyphens and digits make no difference."""
    return corpus_error_rate([reference], [hypothesis])


def corpus_error_rate(references: list[str], heard: list[str]) -> float:
    """The word error rate over all sentences together."""
    return float(
        jiwer.wer(references, heard, reference_transform=_NORMALISED, hypothesis_transform=_NORMALISED)
    )


def _transcribed(folder: str, index: str) -> list[tuple[str, Path, str]]:
    """Lines like `<s> words </s> (file)`."""
    found = []
    for line in _present(DATA / folder / index).read_text(encoding="utf-8").splitlines():
        text, _, name = line.rpartition(" (")
        words = " ".join(text.replace("<s>", "").replace("</s>", "").split())
        path = DATA / folder / f"{name.rstrip(') ')}.wav"
        found.append((path.stem, _present(path), words))
    return found


def _present(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Remedy: apt-get install pocketsphinx-testdata")
    return path
