"""The gate runs on a host's own Python; here it is imported from the role's files."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "roles/vllm/files"))
