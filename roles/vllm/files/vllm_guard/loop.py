"""The guard's life: look, judge, act."""

from __future__ import annotations

import logging
import queue
import threading
import time

from . import evidence
from .board import Board
from .budget import Budget
from .config import Config
from .engine import Engine, run
from .judge import Action, Judge, Metrics, Probe, Sight, State, Unit, View
from .notify import tell_systemd

log = logging.getLogger("vllm_guard")
UNIT_EVERY_S = 5.0  # the unit is asked so often while the engine serves; at once when it does not
LOUD = {State.WEDGED, State.HANDS_OFF, State.OVERDUE, State.FAILING, State.GIVEN_UP}


class Guard:
    """Ties the engine, the judge, the budget and the board together."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.engine = Engine(config)
        self.judge = Judge(config.judgement)
        self.budget = Budget(config.state_dir / "restarts.json", config.judgement.restarts_per_day)
        self.board = Board(config.drain_file)
        self._probes: queue.SimpleQueue[Probe] = queue.SimpleQueue()
        self._unit: tuple[Unit, str, float] = (Unit.INACTIVE, "", 0.0)
        self._unit_asked = float("-inf")
        self._verdict_at: float | None = None
        self._reminded = 0.0
        if self.budget.problem:
            log.error(self.budget.problem)

    def run(self) -> None:
        """Forever."""
        probe: Probe | None = None
        while True:
            began = time.monotonic()
            self.tick(probe)
            rest = self.config.judgement.poll_s - (time.monotonic() - began)
            try:
                probe = self._probes.get(timeout=max(rest, 0.05))
            except queue.Empty:
                probe = None

    def tick(self, probe: Probe | None) -> None:
        """Look once, judge, act."""
        if probe is not None:
            self._count(probe)
        sight = self._look(probe)
        before = self.judge.state
        action = self.judge.step(sight)
        self._publish(sight.now)
        if self.judge.state is not before:
            self._tell(before, sight.now)
        elif self.judge.state in LOUD and sight.now - self._reminded >= 20 * self.config.judgement.recheck_s:
            self._remind(sight.now)
        if action is Action.PROBE:
            threading.Thread(target=lambda: self._probes.put(self.engine.probe()), daemon=True).start()
        elif action is Action.RESTART:
            self._restart(sight)
            self._publish(time.monotonic())

    def _look(self, probe: Probe | None) -> Sight:
        metrics: Metrics | View = self.engine.metrics()
        health = self.engine.health() if self.judge.asks_health else None
        calm = self.judge.state is State.READY and probe is None and not isinstance(metrics, View)
        if not calm or time.monotonic() - self._unit_asked >= UNIT_EVERY_S:
            self._ask_unit()
        unit, identity, began = self._unit
        consumed = self.engine.consumed(identity) if unit is Unit.ACTIVE else None
        return Sight(
            now=time.monotonic(),
            unit=unit,
            run=identity,
            began=began,
            metrics=metrics,
            health=health,
            probe=probe,
            consumed=consumed,
            restarts_left=self.budget.left,
        )

    def _ask_unit(self) -> None:
        self._unit_asked = time.monotonic()
        try:
            self._unit = self.engine.unit()
        except (OSError, ValueError) as error:
            log.warning("the unit's state cannot be had, the last one known counts: %s", error)

    def _count(self, probe: Probe) -> None:
        self.board.probes[probe.outcome] += 1
        self.board.probe_last_s = probe.ended - probe.began
        self.board.probe_sum_s += self.board.probe_last_s

    def _publish(self, now: float) -> None:
        board, judge = self.board, self.judge
        board.state, board.reason = judge.state, judge.reason
        board.since, board.moved = judge.since, judge.moved
        board.restarts_left = self.budget.left
        board.looked = now
        state = judge.state.value.upper() if judge.state in LOUD else judge.state.value
        tell_systemd("WATCHDOG=1", f"STATUS={state}: {judge.reason}")

    def _tell(self, before: State, now: float) -> None:
        state = self.judge.state
        soft = logging.WARNING if state is State.SUSPECT else logging.INFO
        log.log(
            logging.ERROR if state in LOUD else soft,
            "%s -> %s: %s",
            before.value,
            state.value,
            self.judge.reason,
        )
        self._reminded = now
        if state is State.READY and self._verdict_at is not None:
            self.board.recovery_s = now - self._verdict_at
            self._verdict_at = None
            log.warning("serving again %.1f s after the verdict", self.board.recovery_s)
        if state in (State.WEDGED, State.HANDS_OFF) and before not in (State.WEDGED, State.HANDS_OFF):
            self.board.verdicts += 1
            self._verdict_at = now
            self._keep_evidence(now)

    def _remind(self, now: float) -> None:
        self._reminded = now
        log.error("still %s: %s", self.judge.state.value, self.judge.reason)

    def _keep_evidence(self, now: float) -> None:
        facts = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "state": self.judge.state.value,
            "reason": self.judge.reason,
            "since_progress_s": round(now - self.judge.moved, 1),
            "run": self._unit[1],
            "run_age_s": round(now - self._unit[2], 1),
            "restarts_left": self.budget.left,
        }
        try:
            self.board.incident = str(evidence.collect(self.config, self.engine, facts))
            log.warning("evidence: %s", self.board.incident)
        except OSError as error:  # a full disk must not keep the engine from coming back
            log.error("evidence could not be kept: %s", error)

    def _restart(self, sight: Sight) -> None:
        self._ask_unit()  # somebody may have stopped or restarted it while evidence was taken
        if self._unit[:2] != (sight.unit, sight.run):
            log.warning("the unit changed by itself: no restart by the guard")
            return
        try:
            self.budget.spend()
        except OSError as error:
            log.error("the restart cannot be recorded on disk, it counts in memory: %s", error)
        done = True
        try:
            for argv in self.config.restart_commands:
                run(argv, self.config.restart_timeout_s)
        except OSError as error:
            done = False
            log.error("restart failed: %s", error)
        self.board.restarts += done
        self.board.restarts_failed += not done
        self.judge.restarted(time.monotonic(), done)
        log.warning("restart %s; the day allows %d more", "done" if done else "failed", self.budget.left)
