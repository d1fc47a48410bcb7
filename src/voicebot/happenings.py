"""What happens in a session; each way in translates it for its clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from voicebot.conversation import Item
from voicebot.errors import VoicebotError

Status = Literal["completed", "incomplete", "cancelled", "failed"]


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks; an answer that was going on has been interrupted. Times: the session's audio clock."""

    item_id: str
    at_ms: int


@dataclass(frozen=True)
class SpeechStopped:
    """Their turn is over."""

    item_id: str
    at_ms: int


@dataclass(frozen=True)
class Committed:
    """Their sound has become an item."""

    item: Item
    previous_id: str | None


@dataclass(frozen=True)
class Partial:
    """Words that two looks at unfinished speech agree on, in addition to earlier ones."""

    item_id: str
    text: str


@dataclass(frozen=True)
class Transcribed:
    """What they said."""

    item_id: str
    text: str
    seconds: float


@dataclass(frozen=True)
class NotTranscribed:
    """The recogniser failed."""

    item_id: str
    error: VoicebotError


@dataclass(frozen=True)
class ReplyStarted:
    """An answer begins."""

    reply: ReplyInfo


@dataclass(frozen=True)
class ReplyItem:
    """It has words: an item, behind the named one."""

    reply: ReplyInfo
    previous_id: str | None


@dataclass(frozen=True)
class ReplyText:
    """A piece of its text."""

    reply: ReplyInfo
    text: str


@dataclass(frozen=True)
class ReplyAudio:
    """A piece of its speech: 16-bit mono PCM at the voice's rate."""

    reply: ReplyInfo
    pcm: bytes


@dataclass(frozen=True)
class ReplyDone:
    """It is over, for whatever reason."""

    reply: ReplyInfo
    status: Status
    text: str
    """What was handed out: of speech, the clauses that were spoken."""
    reason: str = ""
    error: VoicebotError | None = None
    calls: tuple[Item, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Truncated:
    """The memory of an answer was cut to what was heard."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True)
class ReplyInfo:
    """Which answer."""

    id: str
    item_id: str
    aloud: bool
    remembered: bool = True


Happening = (
    SpeechStarted | SpeechStopped | Committed | Partial | Transcribed | NotTranscribed
    | ReplyStarted | ReplyItem | ReplyText | ReplyAudio | ReplyDone | Truncated
)  # fmt: skip
