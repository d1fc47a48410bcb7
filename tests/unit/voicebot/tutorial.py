"""The logic of the tutorial that users come from, as it is published: its defects are ours not to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

FRAME_S = 0.03
SILENCE_LIMIT_S = 1.0
MIN_SPEECH_S = 2.0
MAX_ROUNDS = 5

DEVICES = ("cpu", "gpu")
COMPUTE_TYPES = ("int8", "int4", "float16")
IMPORTS = ("torch", "faster_whisper", "webrtcvad", "sounddevice", "requests")
USED = ("faster_whisper", "webrtcvad", "sounddevice", "requests")
DISK_GB = 15.0
DOCKER_RUN = (
    "docker run --gpus all --ipc=host -it -p 8000:8000 -v ~/models:/models nvcr.io/nvidia/vllm:25.11-py3"
    " vllm serve /models/mistral-7b --quantization gptq --gpu-memory-utilization 0.9 --dtype float16"
)


class Tutorial:
    """Collects voiced frames; when the wall clock says silence, transcribes, asks, prints."""

    def __init__(
        self,
        transcribe: Callable[[int], str],
        ask: Callable[[Sequence[dict[str, str]], int], str],
        clock: Callable[[], float],
        load: Callable[[], None],
        system_prompt: str = "Be kind.",
    ) -> None:
        """`transcribe` gets the number of frames; `ask` the messages and max_tokens; `load` makes a model."""
        self._load = load
        self._transcribe = transcribe
        self._ask = ask
        self._clock = clock
        self._system_prompt = system_prompt
        self._voiced = 0
        self._last_voice = clock()
        self._history: list[dict[str, str]] = []

    def frame(self, voiced: bool) -> None:
        """One frame from the queue."""
        if voiced:
            self._voiced += 1
            self._last_voice = self._clock()
            return
        silent = self._clock() - self._last_voice > SILENCE_LIMIT_S
        if not silent or self._voiced * FRAME_S < MIN_SPEECH_S:
            return
        self._load()
        text = self._transcribe(self._voiced)
        print(f"User: {text}")
        content = text if self._history else f"{self._system_prompt}\n\n{text}"
        messages = [*self._history[-2 * MAX_ROUNDS :], {"role": "user", "content": content}]
        try:
            answer = self._ask(messages, min(256, max(64, 5 * len(text.split()))))
        except ConnectionError as error:
            print(f"API error: {error}")
            return
        print(f"Bot: {answer}")
        self._history += [messages[-1], {"role": "assistant", "content": answer}]
        self._voiced = 0

    def play(self, seconds: float, voiced: bool, tick: Callable[[float], None]) -> None:
        """So many seconds of frames; `tick` passes time before each."""
        for _ in range(round(seconds / FRAME_S)):
            tick(FRAME_S)
            self.frame(voiced)
