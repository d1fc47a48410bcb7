#!/usr/bin/env python3
"""Installs one virtual environment from an archive of wheels; the marker .complete is written last.

usage: install_release.py ARCHIVE DIRECTORY COMMAND...

Standard library only. A virtual environment cannot be moved, so it is made where it stays: without its marker
nothing links to it, and the next run begins it anew.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def run(*command: str) -> None:
    """Run a command; on failure end with its output."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SystemExit(
            f"{' '.join(command[:4])} … failed with {result.returncode}:\n{result.stdout[-3000:]}"
        )


def install(archive: str, directory: Path, commands: list[str]) -> None:
    """Make the environment, see that its commands are there, and mark it complete."""
    os.umask(0o022)
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="wheelhouse-") as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        run(sys.executable, "-m", "venv", str(directory))
        # fmt: off
        run(str(directory / "bin/python"), "-m", "pip", "--isolated", "install", "--no-index",
            "--find-links", scratch, "--no-deps",
            "--require-hashes", "--requirement", f"{scratch}/requirements.txt",
            "--disable-pip-version-check", "--no-cache-dir", "--no-input")
        # fmt: on
        missing = [name for name in commands if not os.access(directory / "bin" / name, os.X_OK)]
        if missing:
            raise SystemExit(f"The wheels hold no command {', '.join(missing)}: nothing was marked complete.")
        marker = directory / ".complete.new"
        shutil.copyfile(f"{scratch}/manifest.json", marker)
    os.sync()  # the marker must not outlive the files that it vouches for
    marker.rename(directory / ".complete")


if __name__ == "__main__":
    install(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    print(f"installed {sys.argv[2]}")
