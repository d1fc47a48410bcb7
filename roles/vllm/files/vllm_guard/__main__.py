"""python3 -m vllm_guard [--check] CONFIG"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from .board import server
from .config import ConfigError, load
from .journal import to_journal
from .loop import Guard
from .notify import tell_systemd


def main() -> int:
    """Guard until killed."""
    parser = argparse.ArgumentParser(prog="vllm_guard", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check the file")
    parser.add_argument("config", type=Path)
    asked = parser.parse_args()
    try:
        config = load(asked.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.check:
        return 0
    to_journal()
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    guard = Guard(config)
    web = server(guard.board, config.listen_port)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    tell_systemd("READY=1")
    guard.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
