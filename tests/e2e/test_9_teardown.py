"""teardown.yml removes what site.yml installed, nothing of anybody else's, and site.yml makes it anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.play import play
from tests.e2e.test_9_release import ledger, serves
from tests.lab.api import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long]
Sh = Callable[..., str]
OURS = (
    "/etc/systemd/system/vllm.service",
    "/etc/systemd/system/vllm-guard.service",
    "/etc/systemd/system/voicebot.service",
    "/etc/voicebot",
    "/opt/voicebot",
    "/var/lib/spark-voicebot",
    "/usr/local/lib/vllm-guard",
    "/etc/vllm-guard.json",
    "/etc/systemd/system/ssh.service.d/50-memory-min.conf",
    "/etc/ansible/facts.d/spark.fact",
)
FOREIGN = """set -e
mkdir -p /srv/models/mine && echo mine > /srv/models/mine/weights
echo mine > /etc/mine.conf
id mine >/dev/null 2>&1 || useradd --system mine
docker volume create mine >/dev/null
"""
FOREIGN_LEFT = (
    "cat /srv/models/mine/weights /etc/mine.conf; id -un mine; docker volume ls -q --filter name=^mine$; "
    "docker container ls -aq --no-trunc --filter name=^mine$"
)


def present(sh: Sh) -> set[str]:
    return {path for path in OURS if sh(f"test -e {path} && echo yes", check=False)}


def test_teardown_asks_first(lab: Lab, sh: Sh) -> None:
    before = serves(lab, sh)
    for given in (None, {"teardown_confirm": "spark9"}):
        run = play("playbooks/teardown.yml", extra=given)
        assert run.code == 2 and run.changed() == []
        assert "teardown_confirm=spark1" in run.messages() and "Rule: " in run.messages()
    assert serves(lab, sh)["id"] == before["id"]


def test_teardown_removes_what_is_ours_and_site_makes_it_anew(lab: Lab, sh: Sh) -> None:
    image = serves(lab, sh)["release"]["engine"]["image"]
    models = sh("ls -d /srv/models/*/*").split()
    sh(FOREIGN)
    sh(f"docker container inspect mine >/dev/null 2>&1 || docker create --name mine {image} true")
    foreign = sh(FOREIGN_LEFT)
    packages = sh("dpkg -l | sort")
    daemon = sh("cat /etc/docker/daemon.json")

    run = play("playbooks/teardown.yml", extra={"teardown_confirm": "spark1"})
    assert run.code == 0, run.output[-4000:]
    assert present(sh) == set()
    assert (
        sh("docker container ls -aq --filter name=^vllm$; docker volume ls -q --filter name=^vllm-cache$")
        == ""
    )
    assert sh("getent passwd voicebot", check=False) == ""
    assert "0 loaded units" in sh("systemctl list-units --all 'vllm*' 'voicebot*' --no-legend --legend=yes")
    assert sh("ls -d /srv/models/*/*").split() == sorted([*models, "/srv/models/mine/weights"]), "models stay"
    assert sh(f"docker image inspect -f ok {image}").strip() == "ok", "a foreign container was made from it"
    assert sh(FOREIGN_LEFT) == foreign
    assert sh("dpkg -l | sort") == packages and sh("cat /etc/docker/daemon.json") == daemon

    sh("docker rm mine")
    again = play("playbooks/teardown.yml", extra={"teardown_confirm": "yes"})
    assert again.code == 0 and again.changed() == [], "nothing left to remove"

    site = play("site.yml")
    assert site.code == 0, site.output[-4000:]
    serves(lab, sh)
    whole = play("playbooks/teardown.yml", extra={"teardown_confirm": "spark1", "teardown_models": True})
    assert whole.code == 0, whole.output[-4000:]
    assert sh("find /srv/models -type f").split() == ["/srv/models/mine/weights"]
    assert sh(f"docker image inspect -f ok {image}", check=False) == "", "nothing used it"

    sh("rm -r /srv/models/mine /etc/mine.conf; userdel mine; docker volume rm mine")
    site = play("site.yml", timeout=1500)
    assert site.code == 0, site.output[-4000:]
    serves(lab, sh)
    assert ledger(sh)["previous"] == "", "the ledger begins anew"
