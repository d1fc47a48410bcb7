"""When does somebody speak, and when is their turn over? On the audio clock only."""

from voicebot.turns.endpoint import Ended, Endpointer, Insisted, Paused, Resumed, Signal, Started
from voicebot.turns.rules import PRESETS, TurnRules
from voicebot.turns.vad import WINDOW, VoiceModel

__all__ = [
    "PRESETS", "WINDOW", "Ended", "Endpointer", "Insisted", "Paused", "Resumed", "Signal", "Started",
    "TurnRules", "VoiceModel",
]  # fmt: skip
