#!/usr/bin/python
"""Have a CA of one's own and certificates by it, on the controller; look at a given certificate."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOCUMENTATION = r"""
---
module: gateway_certificates
short_description: Certificates for edges and gateways, by a CA made once
description:
  - Makes a CA (EC P-256, ten years) where there is none; by it, issues certificates that are missing, by
    another CA, for other names or another use, or near their end. One that is good is left alone.
  - A given certificate is looked at only.
  - Several hosts may ask at the same time.
options:
  ca:
    description: Directory of the CA; ca.key is made with mode 0600, ca.crt is for all.
    type: path
    required: true
  issue:
    description: The certificates to have.
    type: list
    elements: dict
    default: []
    suboptions:
      file:
        description: Its name in the directory; a PEM file of certificate and private key, mode 0600.
        type: str
        required: true
      names:
        description: Host names and IP addresses that it is for.
        type: list
        elements: str
        required: true
      usage:
        description: What it may be shown as.
        type: str
        choices: [server, client]
        required: true
  given:
    description: A PEM file of certificate, chain and private key that somebody else issued.
    type: path
    default: ""
  days:
    description: Days that an issued certificate is good for.
    type: int
    default: 397
  renew_days:
    description: Days before its end from which on it is issued anew.
    type: int
    default: 30
requirements: [cryptography]
author: [spark-voicebot]
"""

EXAMPLES = r"""
- name: Have a certificate
  gateway_certificates:
    ca: ~/ca
    issue:
      - {file: spark-a.pem, names: [spark-a], usage: server}
  delegate_to: localhost
"""

RETURN = r"""
issued:
  description: Files that were made, with the reason.
  type: dict
  returned: success
"""

CA_DAYS = 3652
USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


class Refused(Exception):
    """What is there cannot be used; the text says what, which rule, and the remedy."""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time; nothing to lock where check mode has made no directory."""
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: Path, data: bytes, mode: int) -> None:
    """All of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def load(path: Path) -> tuple[x509.Certificate, Any]:
    """The first certificate and the private key of a PEM file; ValueError if they are no pair."""
    data = path.read_bytes()
    certificate = x509.load_pem_x509_certificates(data)[0]
    begin = data.find(b"-----BEGIN", data.find(b"PRIVATE KEY-----") - 30)
    key = serialization.load_pem_private_key(data[begin:], None)
    if key.public_key() != certificate.public_key():
        raise ValueError("certificate and private key are no pair")
    return certificate, key


def check_given(path: Path, renew_days: int) -> str:
    """A warning if its end is near, else an empty text."""
    try:
        certificate, _ = load(path)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise Refused(
            f"gateway_certificate {path} cannot be used: {error}. Rule: one PEM file on the controller "
            "with certificate, chain and unencrypted private key. Remedy: correct it, or leave "
            "gateway_certificate empty for the own CA."
        ) from error
    left = certificate.not_valid_after_utc - now()
    if left <= datetime.timedelta(0) or certificate.not_valid_before_utc > now():
        raise Refused(
            f"gateway_certificate {path} is good from {certificate.not_valid_before_utc} to "
            f"{certificate.not_valid_after_utc}. Rule: good today. Remedy: have it renewed."
        )
    if left.days < renew_days:
        return f"gateway_certificate {path} ends in {left.days} days: have it renewed."
    return ""


class Authority:
    """The CA in its directory. dry: nothing is written, and what would be is told."""

    def __init__(self, folder: Path, dry: bool) -> None:
        self.folder, self.dry = folder, dry
        self.issued: dict[str, str] = {}

    def open(self, renew_days: int) -> None:
        """Load the CA, or make it."""
        key, certificate = self.folder / "ca.key", self.folder / "ca.crt"
        if certificate.exists() and not key.exists():
            raise Refused(
                f"{certificate} is without its key {key}. Rule: both, or none. Remedy: restore the key; or "
                "move the directory away, and run this for all hosts: a new CA is made."
            )
        if key.exists():
            try:
                self.key = serialization.load_pem_private_key(key.read_bytes(), None)
            except (ValueError, TypeError) as error:
                raise Refused(
                    f"{key} cannot be used: {error}. Rule: an unencrypted private key. Remedy: restore it."
                ) from error
            if key.stat().st_mode & 0o077:
                self.issued[key.name] = "mode 0600"
                if not self.dry:
                    key.chmod(0o600)
        else:
            self.key = ec.generate_private_key(ec.SECP256R1())
            self._write(key, pem_of(self.key), 0o600, "missing")
        if certificate.exists():
            self.certificate = self._checked(certificate, renew_days)
        else:
            self.certificate = self._signed(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"spark-voicebot {self.folder.name}")]),
                self.key.public_key(),
                CA_DAYS,
                [
                    (x509.BasicConstraints(ca=True, path_length=0), True),
                    (_key_usage(sign=False, certify=True), True),
                ],
            )
            data = self.certificate.public_bytes(serialization.Encoding.PEM)
            self._write(certificate, data, 0o644, "missing")

    def have(self, wanted: Mapping[str, Any], days: int, renew_days: int) -> None:
        """Issue a certificate unless a good one is there."""
        path = self.folder / wanted["file"]
        reason = self._flaw(path, wanted, renew_days)
        if not reason:
            return
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted["names"][0][:64])])
        certificate = self._signed(
            subject,
            key.public_key(),
            days,
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_key_usage(sign=True, certify=False), True),
                (x509.ExtendedKeyUsage([USAGES[wanted["usage"]]]), False),
                (x509.SubjectAlternativeName(general_names(wanted["names"])), False),
            ],
        )
        self._write(path, certificate.public_bytes(serialization.Encoding.PEM) + pem_of(key), 0o600, reason)

    def _flaw(self, path: Path, wanted: Mapping[str, Any], renew_days: int) -> str:
        """Why a certificate must be issued anew; empty if it is good."""
        if not path.exists():
            return "missing"
        try:
            certificate, _ = load(path)
            certificate.verify_directly_issued_by(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (ValueError, TypeError, IndexError, x509.ExtensionNotFound):
            return "unusable, or by another CA"
        except InvalidSignature:
            return "by another CA"
        if list(names) != general_names(wanted["names"]) or list(usage) != [USAGES[wanted["usage"]]]:
            return "for other names or another use"
        if (certificate.not_valid_after_utc - now()).days < renew_days:
            return f"ends {certificate.not_valid_after_utc:%Y-%m-%d}"
        if path.stat().st_mode & 0o077:
            return "readable for others"
        return ""

    def _checked(self, path: Path, renew_days: int) -> x509.Certificate:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise Refused(f"{path} cannot be used: {error}. Rule: a PEM file. Remedy: restore it.") from error
        if certificate.public_key() != self.key.public_key():
            raise Refused(f"{path} is not of ca.key beside it. Rule: a pair. Remedy: restore both.")
        if (certificate.not_valid_after_utc - now()).days < renew_days:
            raise Refused(
                f"The CA {path} ends {certificate.not_valid_after_utc:%Y-%m-%d}. Rule: it outlives what it "
                "issues. Remedy: move the directory away, and run this for all hosts: a new CA is made."
            )
        return certificate

    def _signed(
        self,
        subject: x509.Name,
        public: Any,
        days: int,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        issuer = getattr(self, "certificate", None)
        end = now() + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - datetime.timedelta(hours=1))  # clocks differ
            .not_valid_after(min(end, issuer.not_valid_after_utc) if issuer else end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())  # type: ignore[arg-type]

    def _write(self, path: Path, data: bytes, mode: int, reason: str) -> None:
        self.issued[path.name] = reason
        if not self.dry:
            write(path, data, mode)


def _key_usage(sign: bool, certify: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign, key_cert_sign=certify, crl_sign=certify, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Names as a certificate has them: IP addresses apart from host names."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def main() -> None:
    """Ansible's entry point."""
    certificate = {
        "file": {"type": "str", "required": True},
        "names": {"type": "list", "elements": "str", "required": True},
        "usage": {"type": "str", "choices": list(USAGES), "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "ca": {"type": "path", "required": True},
            "issue": {"type": "list", "elements": "dict", "default": [], "options": certificate},
            "given": {"type": "path", "default": ""},
            "days": {"type": "int", "default": 397},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    asked, folder = module.params, Path(module.params["ca"])
    authority = Authority(folder, module.check_mode)
    try:
        if asked["given"] and (warning := check_given(Path(asked["given"]), asked["renew_days"])):
            module.warn(warning)
        if not module.check_mode:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder):
            authority.open(asked["renew_days"])
            for wanted in asked["issue"]:
                authority.have(wanted, asked["days"], asked["renew_days"])
    except (OSError, Refused, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(authority.issued), issued=authority.issued)


if __name__ == "__main__":
    main()
