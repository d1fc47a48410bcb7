"""Processes: services behind pid files, locks, waits, failures that explain themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.proc import Service, locked, remove_tree, run, say, wait_for
from tests.lab.settings import LabError

# Processes that only have to be there; each is killed by its test, nobody waits for the minute.
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that is found by a word of its command line, unique to this test."""
    mine = Service(tmp_path / "run/thing.pid", f"marker-of-{tmp_path}")
    yield mine
    mine.stop()


def start(service: Service, log: Path, code: str = "import time; time.sleep(60)") -> int:
    service.start([sys.executable, "-c", code, service.marker], log)
    assert service.pid
    return service.pid


def test_a_service_starts_is_found_and_stops(service: Service, tmp_path: Path) -> None:
    assert service.pid is None
    pid = start(service, tmp_path / "log")
    assert os.getsid(pid) == pid != os.getsid(0)  # it outlives this process
    assert Service(service.pid_file, service.marker).pid == pid
    assert service.stop() is True
    assert (service.pid, service.pid_file.exists(), service.stop()) == (None, False, False)


def test_a_foreign_process_behind_a_stale_pid_file_is_left_alone(service: Service) -> None:
    foreign = subprocess.Popen(SLEEP)
    service.pid_file.parent.mkdir()
    service.pid_file.write_text(str(foreign.pid))
    try:
        assert service.pid is None
        assert service.stop() is False
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()
    assert not service.pid_file.exists()


@pytest.mark.parametrize("content", ["", "no number", "999999999"])
def test_a_broken_pid_file_means_that_nothing_runs(service: Service, content: str) -> None:
    service.pid_file.parent.mkdir()
    service.pid_file.write_text(content)
    assert service.pid is None


def test_one_that_ignores_sigterm_is_killed(service: Service, tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    start(service, tmp_path / "log", f"{code}; time.sleep(60)")
    wait_for("the handler", lambda: "deaf" in (tmp_path / "log").read_text(), 20)
    assert service.stop(seconds=0.2) is True
    assert service.pid is None


def test_one_that_ends_at_once_shows_the_end_of_its_log(service: Service, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("long ago\n" * 20)
    with pytest.raises(LabError, match=r"ended at once with 1\. End of .*log:\n(.*\n)*address in use"):
        service.start(["sh", "-c", "echo address in use >&2; exit 1"], log)


def test_a_command_that_fails_carries_itself_and_the_end_of_its_output() -> None:
    with pytest.raises(LabError) as caught:
        run(["sh", "-c", "seq 100; echo no space left >&2; exit 3"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "`sh -c seq 100; echo no space left >&2; exit 3` ended with 3:"
    assert (lines[-1], len(lines)) == ("no space left", 16)
    assert run(["sh", "-c", "exit 3"], check=False).returncode == 3


def test_a_command_gets_its_input_and_environment() -> None:
    done = run(["sh", "-c", 'cat; printf %s "$WORD$HOME"'], text="given ", env={"WORD": "and said"})
    assert done.stdout == f"given and said{os.environ['HOME']}"
    assert run(["cat"]).stdout == ""  # not this terminal


def test_waiting_in_vain_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "dockerd.log"
    log.write_bytes(b"old\n" * 30 + b"\xff broken text\nfailed: no such bridge\n")
    with pytest.raises(LabError) as caught:
        wait_for("dockerd", lambda: False, 0.2, log)
    message = str(caught.value)
    assert message.startswith(f"dockerd not ready after 0 s. End of {log}:\n")
    assert message.endswith("failed: no such bridge")
    assert len(message.splitlines()) == 16


def test_waiting_ends_when_it_is_ready() -> None:
    answers = iter([False, False, True])
    wait_for("thing", lambda: next(answers), 20)
    assert list(answers) == []


def test_a_lock_keeps_others_out_and_a_kill_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "deep/lock"
    code = "import sys, time; from pathlib import Path; from tests.lab.proc import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    root = Path(__file__).parents[3]
    argv = [sys.executable, "-c", code, str(path)]
    holder = subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with locked(path):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    assert not entered.wait(0.5)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert entered.wait(20)
    thread.join()


def test_a_removed_tree_leaves_its_neighbours(tmp_path: Path) -> None:
    for name in ("doomed/deep", "doomed-not"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("")
    (tmp_path / "doomed/link").symlink_to(tmp_path / "doomed-not")
    remove_tree(tmp_path / "doomed")
    remove_tree(tmp_path / "never there")
    assert [p.name for p in tmp_path.iterdir()] == ["doomed-not"]
    assert (tmp_path / "doomed-not/file").exists()


def test_progress_goes_where_results_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    say("building")
    out, err = capsys.readouterr()
    assert out == "" and "building" in err
