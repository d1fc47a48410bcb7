"""The service's unit, as the role writes it, in systemd's own judgement."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml

ROLE = Path(__file__).parents[3] / "roles/voicebot"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_the_unit_is_closed(tmp_path: Path) -> None:
    """`systemd-analyze security` at most 2.0."""
    template = ROLE / "templates/etc/systemd/system/voicebot.service.j2"
    values = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    values |= {"ansible_managed": "", "__voicebot_config": "/etc/voicebot/config.yml", "__voicebot_drain": 10}
    unit = tmp_path / "voicebot.service"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    unit.write_text(environment.from_string(template.read_text()).render(values))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "Overall exposure level for voicebot.service" in judged.stdout
