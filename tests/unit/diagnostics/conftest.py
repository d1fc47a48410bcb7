"""Where the module finds its helper on a host."""

from __future__ import annotations

import sys

from plugins.module_utils import redaction as _redaction

sys.modules["ansible.module_utils.redaction"] = _redaction
