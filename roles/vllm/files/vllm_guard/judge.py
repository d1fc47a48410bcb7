"""Is the engine alive? A state machine without clock, network or process: sights go in, actions come out.

A stopped engine core leaves /health at 200 and freezes every metric; an idle core freezes them too; a long
prefill moves nothing but the KV cache's usage, and within one long step of it nothing but the processor's
clock. So an engine is wedged only when nothing at all moves AND a one-token completion times out, twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from .config import Judgement


class State(Enum):
    """What the guard holds of the engine."""

    UNKNOWN = "unknown"  # not looked yet
    STOPPED = "stopped"  # the unit is inactive, on purpose
    GIVEN_UP = "given_up"  # the unit has failed: systemd starts it no more
    LOADING = "loading"  # no completion since it started, and the start limit is not over
    OVERDUE = "overdue"  # not healthy when the start limit was over; nothing a restart would mend
    READY = "ready"
    SUSPECT = "suspect"  # one probe timed out without progress; still in service
    FAILING = "failing"  # answers, but not with a completion
    WEDGED = "wedged"  # verdict: evidence and restart under way
    HANDS_OFF = "hands_off"  # verdict, but the day's restarts are spent

    @property
    def ready(self) -> bool:
        """Whether turns may be sent to the engine."""
        return self in (State.READY, State.SUSPECT)


class Unit(Enum):
    """The engine's unit, as systemd sees it."""

    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    ACTIVE = "active"


class Health(Enum):
    """Answer of GET /health. SILENT: no answer in time, which a busy server may do too."""

    OK = "ok"
    BAD = "bad"
    SILENT = "silent"


class Outcome(Enum):
    """How a one-token completion ended."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Probe:
    """One ended probe."""

    outcome: Outcome
    began: float
    ended: float
    detail: str = ""


class View(Enum):
    """Why there are no metrics. SILENT is what a stopped server does; BLIND proves nothing."""

    SILENT = "silent"
    BLIND = "blind"


Metrics = Mapping[str, str]  # series with labels -> value as printed


@dataclass(frozen=True)
class Sight:
    """What was seen at one moment."""

    now: float
    unit: Unit
    run: str = ""  # identity of this start of the engine
    began: float = 0.0  # when it started
    metrics: Metrics | View = View.BLIND
    health: Health | None = None  # None: not asked
    probe: Probe | None = None  # ended since the last sight
    consumed: float | None = None  # processor seconds of this run so far; None: not known
    restarts_left: int = 0


class Action(Enum):
    """What the caller is to do next."""

    NONE = "none"
    PROBE = "probe"
    RESTART = "restart"


FAILURES = 2  # probes in a row
GENERATED = "vllm:generation_tokens_total"


def generated(metrics: Metrics | View) -> float:
    """Tokens the engine has put out so far."""
    if isinstance(metrics, View):
        return 0.0
    return sum(float(value) for name, value in metrics.items() if name.startswith(GENERATED))


class Judge:
    """Follows one engine through its runs. Call `step` with every sight, in order of time."""

    def __init__(self, rules: Judgement) -> None:
        self.rules = rules
        self.state = State.UNKNOWN
        self.reason = "the guard has not looked yet"
        self.since = 0.0
        self._run = ""
        self._forget(0.0, adopted=True)

    def _forget(self, now: float, adopted: bool) -> None:
        self._from = now
        self._adopted = adopted  # found running when the guard began: tokens flowing prove that it serves
        self._proven = False  # has completed something in this run
        self._metrics: Metrics | None = None
        self._blind = False
        self._moved = now
        self._worked = float("-inf")
        self._consumed: tuple[float, float] | None = None  # when, processor seconds
        self._probing = False
        self._probed = float("-inf")
        self._timeouts = 0
        self._errors = 0
        self._detail = ""
        self._ok_since: float | None = None
        self._bad_since: float | None = None
        self._handed_off = False
        self._retry_at = float("-inf")

    @property
    def asks_health(self) -> bool:
        """Whether the next sight should include /health."""
        return not self._proven or self._blind or self._errors > 0 or self._bad_since is not None

    @property
    def moved(self) -> float:
        """When the engine last moved visibly."""
        return self._moved

    def restarted(self, now: float, done: bool) -> None:
        """The restart was carried out, or failed: then it is tried again after a while."""
        if done:
            self._forget(now, adopted=False)
            self._enter(State.LOADING, "restarted by the guard", now)
        else:
            self._retry_at = now + self.rules.recheck_s

    def step(self, s: Sight) -> Action:
        """Take in a sight; the new state is in `state` and `reason`."""
        if s.unit in (Unit.INACTIVE, Unit.FAILED):
            self._run = ""
            self._forget(s.now, adopted=False)
            if s.unit is Unit.FAILED:
                return self._enter(State.GIVEN_UP, "the unit has failed: see its status and journal", s.now)
            return self._enter(State.STOPPED, "the unit is not active", s.now)
        if s.run != self._run:
            self._forget(s.now, adopted=self.state is State.UNKNOWN)
            self._run = s.run
        self._take_metrics(s)
        self._take_work(s)
        self._take_health(s)
        self._take_probe(s)
        if s.unit is Unit.ACTIVATING:
            return self._enter(State.LOADING, "the unit is starting", s.now)
        return self._serving(s) if self._proven else self._starting(s)

    def _take_metrics(self, s: Sight) -> None:
        self._blind = s.metrics is View.BLIND
        if isinstance(s.metrics, View):
            return
        before, self._metrics = self._metrics, s.metrics
        if before is None or before == s.metrics:
            return
        self._progress(s.now)
        if self._adopted and generated(s.metrics) > generated(before):
            self._proven = True

    def _take_work(self, s: Sight) -> None:
        before = self._consumed
        self._consumed = None if s.consumed is None else (s.now, s.consumed)
        if before is None or self._consumed is None or s.now <= before[0]:
            return
        if self._consumed[1] - before[1] >= self.rules.busy_cores * (s.now - before[0]):
            self._worked = s.now

    def _stands_still(self, began: float, now: float) -> bool:
        """Neither metrics nor processor moved since then. Work that shows nothing counts for a while only."""
        stalled = now - self._moved >= self.rules.stall_limit_s
        return self._moved < began and (self._worked < began or stalled)

    def _take_health(self, s: Sight) -> None:
        if s.health is Health.BAD:
            self._bad_since = s.now if self._bad_since is None else self._bad_since
            self._ok_since = None
        else:
            self._bad_since = None
        if s.health is Health.OK and self._ok_since is None:
            self._ok_since = s.now

    def _take_probe(self, s: Sight) -> None:
        if s.probe is None or s.probe.began < self._from:  # of an earlier run
            return
        self._probing, self._probed = False, s.probe.ended
        if s.probe.outcome is Outcome.OK:
            self._proven = True
            self._progress(s.probe.ended)
        elif s.probe.outcome is Outcome.TIMEOUT and not self._blind:
            self._errors = 0
            self._timeouts = self._timeouts + 1 if self._stands_still(s.probe.began, s.now) else 0
        else:
            self._timeouts = 0
            self._errors += 1
            self._detail = s.probe.detail

    def _progress(self, now: float) -> None:
        self._moved = max(self._moved, now)
        self._timeouts = 0
        self._errors = 0
        self._handed_off = False

    def _starting(self, s: Sight) -> Action:
        over = s.now - s.began > self.rules.start_limit_s
        if s.health is not Health.OK or self._ok_since is None:
            self._timeouts = 0
            if over and s.health is Health.BAD:
                limit = f"{self.rules.start_limit_s:g} s after the start"
                return self._enter(
                    State.OVERDUE, f"not healthy {limit}: a restart would not mend that", s.now
                )
            return self._enter(State.LOADING, "not healthy yet", s.now)
        if not over or s.now - self._ok_since < self.rules.dead_after_s:  # the first completion may compile
            self._timeouts = 0
        if self._timeouts >= FAILURES:
            return self._verdict(
                s, f"healthy, but never completed anything; {self._timeouts} probes timed out"
            )
        if self._errors >= FAILURES:
            self._enter(State.FAILING, f"a one-token completion fails: {self._detail}", s.now)
        else:
            self._enter(State.LOADING, "healthy, no completion yet", s.now)
        return self._probe_after(s, self.rules.quiet_s if self._errors else 0.0)

    def _serving(self, s: Sight) -> Action:
        if self._bad_since is not None and s.now - self._bad_since >= self.rules.dead_after_s:
            return self._verdict(s, f"/health refuses for {s.now - self._bad_since:.0f} s")
        if self._timeouts >= FAILURES:
            quiet = s.now - self._moved
            return self._verdict(s, f"no metric moved for {quiet:.0f} s, {self._timeouts} probes timed out")
        if self._bad_since is not None:
            self._enter(State.FAILING, "/health refuses", s.now)
        elif self._errors >= FAILURES:
            self._enter(State.FAILING, f"a one-token completion fails: {self._detail}", s.now)
        elif self._timeouts:
            self._enter(State.SUSPECT, "no metric moves and a completion timed out", s.now)
        elif self._errors == 0:
            self._enter(State.READY, "completes", s.now)
        if s.now - self._moved < self.rules.quiet_s:
            return Action.NONE
        return self._probe_after(s, self.rules.quiet_s if self._errors else 0.0)

    def _probe_after(self, s: Sight, gap: float) -> Action:
        if self._probing or s.now - self._probed < gap:
            return Action.NONE
        self._probing = True
        return Action.PROBE

    def _verdict(self, s: Sight, why: str) -> Action:
        """Restart if the budget allows. A run handed off stays so until it answers or is started anew."""
        if self._handed_off or s.restarts_left <= 0:
            self._handed_off = True
            spent = f"{why}; the day's restarts ({self.rules.restarts_per_day}) were spent: see to it by hand"
            self._enter(State.HANDS_OFF, spent, s.now)
            return self._probe_after(s, self.rules.recheck_s)
        self._enter(State.WEDGED, why, s.now)
        return Action.RESTART if s.now >= self._retry_at else self._probe_after(s, self.rules.quiet_s)

    def _enter(self, state: State, reason: str, now: float) -> Action:
        if state is not self.state:
            self.since = now
        self.state, self.reason = state, reason
        return Action.NONE
