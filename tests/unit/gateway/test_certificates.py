"""The own CA: made once, renewing in time, refusing what it cannot use; openssl agrees with it."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from plugins.modules import gateway_certificates
from plugins.modules.gateway_certificates import Authority, Refused, check_given, load

EDGE = {"file": "a-edge.pem", "names": ["a", "192.0.2.1"], "usage": "server"}
CLIENT = {"file": "gate-client.pem", "names": ["gate"], "usage": "client"}


def run(folder: Path, *wanted: dict[str, Any], dry: bool = False, days: int = 397) -> dict[str, str]:
    """What the module does; what it made, and why."""
    authority = Authority(folder, dry)
    authority.open(30)
    for certificate in wanted:
        authority.have(certificate, days, 30)
    return authority.issued


def verify(folder: Path, file: str, purpose: str) -> bool:
    argv = f"openssl verify -x509_strict -CAfile {folder}/ca.crt -purpose {purpose} {folder}/{file}".split()
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_made_once_and_left_alone(tmp_path: Path) -> None:
    made = dict.fromkeys(["ca.key", "ca.crt", "a-edge.pem", "gate-client.pem"], "missing")
    assert run(tmp_path, EDGE, CLIENT) == made
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(tmp_path, EDGE, CLIENT) == {}
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert {path.name: mode(path) for path in before} == {
        "ca.key": 0o600, "ca.crt": 0o644, "a-edge.pem": 0o600, "gate-client.pem": 0o600,
    }  # fmt: skip


def test_an_edges_certificate_is_for_servers_only(tmp_path: Path) -> None:
    run(tmp_path, EDGE, CLIENT)
    assert verify(tmp_path, "a-edge.pem", "sslserver") and not verify(tmp_path, "a-edge.pem", "sslclient")
    assert verify(tmp_path, "gate-client.pem", "sslclient")
    assert not verify(tmp_path, "gate-client.pem", "sslserver")
    text = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "a-edge.pem", "-noout", "-ext", "subjectAltName"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "DNS:a, IP Address:192.0.2.1" in text


def test_check_mode_tells_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    assert set(run(folder, EDGE, dry=True)) == {"ca.key", "ca.crt", "a-edge.pem"}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ["b"]}, "for other names or another use"),
        ({"usage": "client"}, "for other names or another use"),
    ],
)
def test_another_wish_is_another_certificate(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    run(tmp_path, EDGE)
    assert run(tmp_path, EDGE | change) == {"a-edge.pem": reason}
    assert run(tmp_path, EDGE | change) == {}


def test_renewed_when_less_than_thirty_days_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, EDGE)
    key = (tmp_path / "ca.key").read_bytes()
    today = datetime.datetime.now(datetime.UTC)
    for day, renewed in ((366, False), (368, True)):
        later = today + datetime.timedelta(days=day)
        monkeypatch.setattr(gateway_certificates, "now", lambda later=later: later)
        assert bool(run(tmp_path, EDGE)) is renewed, day
    certificate, _ = load(tmp_path / "a-edge.pem")
    assert (certificate.not_valid_after_utc - today).days >= 368 + 396
    assert (tmp_path / "ca.key").read_bytes() == key


def test_nothing_outlives_the_ca_and_an_old_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, EDGE, days=9999)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    assert load(tmp_path / "a-edge.pem")[0].not_valid_after_utc == ca.not_valid_after_utc
    later = ca.not_valid_after_utc - datetime.timedelta(days=29)
    monkeypatch.setattr(gateway_certificates, "now", lambda: later)
    with pytest.raises(Refused, match=r"The CA .*/ca.crt ends .*Rule: .*Remedy: move the directory away"):
        run(tmp_path, EDGE)


def test_what_others_may_read_or_another_ca_issued_is_made_anew(tmp_path: Path) -> None:
    run(tmp_path, EDGE)
    (tmp_path / "a-edge.pem").chmod(0o644)
    (tmp_path / "ca.key").chmod(0o640)
    assert run(tmp_path, EDGE) == {"ca.key": "mode 0600", "a-edge.pem": "readable for others"}
    assert mode(tmp_path / "ca.key") == mode(tmp_path / "a-edge.pem") == 0o600
    (tmp_path / "ca.key").unlink()
    (tmp_path / "ca.crt").unlink()
    assert run(tmp_path, EDGE)["a-edge.pem"].endswith("by another CA")


def test_a_ca_cut_off_in_the_making_is_completed(tmp_path: Path) -> None:
    run(tmp_path)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.crt").unlink()
    assert run(tmp_path) == {"ca.crt": "missing"}
    assert (tmp_path / "ca.key").read_bytes() == key


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("ca.key", None, "ca.crt is without its key"),
        ("ca.key", b"nonsense", "ca.key cannot be used"),
        ("ca.crt", b"nonsense", "ca.crt cannot be used"),
    ],
)
def test_a_broken_ca_is_refused_and_not_replaced(
    tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    run(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Refused, match=said) as caught:
        run(tmp_path, EDGE)
    assert "Rule: " in str(caught.value) and "Remedy: " in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_given_certificate_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, EDGE, CLIENT)
    given = tmp_path / "a-edge.pem"
    assert check_given(given, 30) == ""
    assert "ends in 396 days" in check_given(given, 400)
    other = (tmp_path / "gate-client.pem").read_bytes()
    given.write_bytes(
        given.read_bytes().split(b"-----BEGIN PRIVATE")[0] + other[other.find(b"-----BEGIN PRIVATE") :]
    )
    with pytest.raises(Refused, match=r"no pair\. Rule: one PEM file on the controller"):
        check_given(given, 30)
    with pytest.raises(Refused, match="No such file"):
        check_given(tmp_path / "none.pem", 30)
    given.write_bytes(b"")
    with pytest.raises(Refused, match="cannot be used"):
        check_given(given, 30)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=398)
    monkeypatch.setattr(gateway_certificates, "now", lambda: later)
    with pytest.raises(Refused, match=r"Rule: good today\. Remedy: have it renewed"):
        check_given(tmp_path / "gate-client.pem", 30)
