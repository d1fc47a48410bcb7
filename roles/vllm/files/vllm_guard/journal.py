"""Lines for the journal, with the priority by which it sorts them."""

from __future__ import annotations

import logging

PRIORITY = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}  # journald reads <n> at the line's start


class Journal(logging.Formatter):
    """One line per record, with journald's priority."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        return f"<{PRIORITY.get(record.levelno, 6)}>{text}"


def to_journal() -> None:
    """Log to standard error in that form."""
    handler = logging.StreamHandler()
    handler.setFormatter(Journal("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
