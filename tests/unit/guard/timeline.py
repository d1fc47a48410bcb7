"""An engine drawn as a line of characters, one second each; what the judge makes of it, drawn the same way.

The engine's letters:
    -  unit stopped
    !  unit failed
    a  unit activating
    l  loading: the port refuses
    i  idle: a probe is answered at once
    b  busy: tokens flow, a probe waits
    p  prefill: only the KV usage moves, a probe waits
    w  one long step: metrics stand still, /health 200, a probe waits; only the processor is busy
    f  frozen core: metrics freeze, /health 200, a probe hangs
    s  frozen server: nothing answers
    d  dead core: metrics freeze, /health 503, a probe fails
    e  idle, and a probe is refused
    x  frozen, and the metrics page lacks the series
    |  a new start of the engine; takes no time
The judge's: `.` unknown, `-` stopped, `!` given up, `l` loading, `o` overdue, `R` ready, `S` suspect, `F`
failing, `W` wedged, `H` hands off, `r` the second in which it restarts the engine.
"""

from __future__ import annotations

from vllm_guard.config import Judgement
from vllm_guard.judge import Action, Health, Judge, Metrics, Outcome, Probe, Sight, State, Unit, View

DRAWN = {
    State.UNKNOWN: ".", State.STOPPED: "-", State.GIVEN_UP: "!", State.LOADING: "l", State.OVERDUE: "o",
    State.READY: "R", State.SUSPECT: "S", State.FAILING: "F", State.WEDGED: "W", State.HANDS_OFF: "H",
}  # fmt: skip
HEALTH = {"l": Health.BAD, "d": Health.BAD, "s": Health.SILENT}
NO_METRICS: dict[str, View] = {"l": View.BLIND, "a": View.BLIND, "x": View.BLIND, "s": View.SILENT}


class Timeline:
    """Plays a drawing through a judge."""

    def __init__(self, rules: Judgement | None = None, restarts: int = 3, age: float = 0.0) -> None:
        self.judge = Judge(rules or Judgement())
        self.restarts_left = restarts
        self.restart_works = True
        self.sees_work = True
        self.now = 1000.0
        self.run, self.began = 1, self.now - age
        self.tokens, self.kv = 0, 0
        self.consumed = 0.0
        self.probed: float | None = None
        self.probes = 0
        self.restarts_at: list[float] = []

    def play(self, drawing: str) -> str:
        """The judge's states, one character for each second."""
        return "".join(self._second(c) for c in drawing if c != "|" or self._new_run())

    def _new_run(self) -> bool:
        self.run, self.began, self.tokens, self.kv = self.run + 1, self.now, 0, 0
        return False

    def _second(self, engine: str) -> str:
        self.now += 1
        probe = self._probe(engine)
        self.tokens += engine == "b" or (probe is not None and probe.outcome is Outcome.OK)
        self.kv += engine in "bp"
        self.consumed += 1.5 if engine in "bpw" else 0.02
        unit = {"-": Unit.INACTIVE, "!": Unit.FAILED, "a": Unit.ACTIVATING}.get(engine, Unit.ACTIVE)
        health = HEALTH.get(engine, Health.OK) if self.judge.asks_health else None
        sight = Sight(
            now=self.now,
            unit=unit,
            run=str(self.run),
            began=self.began,
            metrics=self._metrics(engine),
            health=health,
            probe=probe,
            consumed=self.consumed if self.sees_work else None,
            restarts_left=self.restarts_left,
        )
        action = self.judge.step(sight)
        if action is Action.PROBE:
            self.probed = self.now
            self.probes += 1
        if action is not Action.RESTART:
            return DRAWN[self.judge.state]
        self.restarts_at.append(self.now)
        self.restarts_left -= 1
        self.judge.restarted(self.now, self.restart_works)
        return "r"

    def _metrics(self, engine: str) -> Metrics | View:
        if engine in NO_METRICS:
            return NO_METRICS[engine]
        return {'vllm:generation_tokens_total{engine="0"}': f"{self.tokens}.0", "kv": f"{self.kv}"}

    def _probe(self, engine: str) -> Probe | None:
        if self.probed is None:
            return None
        outcome = {"i": Outcome.OK, "l": Outcome.ERROR, "d": Outcome.ERROR, "e": Outcome.ERROR}.get(engine)
        if engine in "-!a":
            outcome = Outcome.ERROR
        if outcome is None and self.now - self.probed >= self.judge.rules.probe_timeout_s:
            outcome = Outcome.TIMEOUT
        if outcome is None:
            return None
        began, self.probed = self.probed, None
        return Probe(outcome, began, self.now, "HTTP 404")
