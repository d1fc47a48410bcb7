"""Counters and histograms in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        place = next((i for i, bound in enumerate(_BUCKETS) if value <= bound), len(_BUCKETS))
        self.counts[place] += 1
        self.total += value


class Metrics:
    """Of the whole service; nothing in it tells who said what."""

    def __init__(self, queue: Callable[[], int] = lambda: 0) -> None:
        """`queue` tells how many calls wait for the recogniser."""
        self._queue = queue
        self._sessions = 0
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._stages: dict[str, _Histogram] = {}

    def session(self, change: int) -> None:
        """One more (1) or one less (-1) is open."""
        self._sessions += change
        if change > 0:
            self._counts["sessions_total", "", ""] += 1

    @property
    def sessions(self) -> int:
        """Open now."""
        return self._sessions

    def refused(self) -> None:
        """A session too many."""
        self._counts["sessions_refused_total", "", ""] += 1

    def barge_in(self) -> None:
        """Speech interrupted an answer."""
        self._counts["barge_ins_total", "", ""] += 1

    def backchannel(self) -> None:
        """ "Mm-hm" did not."""
        self._counts["backchannels_total", "", ""] += 1

    def speculation(self, fate: str, happened: bool = True) -> None:
        """A transcript begun in a pause was `used` or `dropped`."""
        self._counts["speculations_total", "fate", fate] += happened

    def turn(self, status: str, spans: Mapping[str, float]) -> None:
        """An answer ended; its stages in seconds."""
        self._counts["turns_total", "status", status] += 1
        for name, seconds in spans.items():
            self._stages.setdefault(name.removesuffix("_s"), _Histogram()).observe(seconds)

    def text(self) -> str:
        """All of it."""
        lines = [
            "# TYPE voicebot_sessions gauge",
            f"voicebot_sessions {self._sessions}",
            "# TYPE voicebot_stt_queue gauge",
            f"voicebot_stt_queue {self._queue()}",
        ]
        seen = ""
        for (name, label, value), count in sorted(self._counts.items()):
            if name != seen:
                lines.append(f"# TYPE voicebot_{name} counter")
                seen = name
            labels = f'{{{label}="{value}"}}' if label else ""
            lines.append(f"voicebot_{name}{labels} {count}")
        if self._stages:
            lines.append("# TYPE voicebot_stage_seconds histogram")
        for stage, histogram in sorted(self._stages.items()):
            running = 0
            for bound, count in zip([*map(str, _BUCKETS), "+Inf"], histogram.counts, strict=True):
                running += count
                lines.append(f'voicebot_stage_seconds_bucket{{stage="{stage}",le="{bound}"}} {running}')
            lines.append(f'voicebot_stage_seconds_sum{{stage="{stage}"}} {histogram.total:.4f}')
            lines.append(f'voicebot_stage_seconds_count{{stage="{stage}"}} {running}')
        return "\n".join(lines) + "\n"
