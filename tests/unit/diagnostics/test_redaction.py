"""Secrets in many forms go; what is no secret stays."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.module_utils.redaction import MASK, Redactor, named_values, says_secret

SECRET = "Zq7" + "wXv93kLmP4"  # in halves, as all of them: no scanner shall take this file for a leak
HF = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWx"
PEM_HEAD, PEM_END = "-----BEGIN " + "PRIVATE KEY-----", "-----END " + "PRIVATE KEY-----"
LINES = [
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg" + "abcdefghijklmnop",
    "Q0N1a2FSQUtQU2FtcGxlS2V5Qm9keUxpbmVUd28xMjM0",
]
S = SECRET


@pytest.mark.parametrize(
    "text",
    [
        f"fetching with {HF} now",
        f"Authorization: Bearer {S}",
        f'curl -H "Authorization: Bearer {S}" https://gate/v1/models',
        f"authorization=Basic {S}",
        f"sent header Bearer {S} to gate",
        f"password: {S}",
        f"password: {S}, and more",
        f"password = {S}",
        f"the password is {S}",
        f"machine hub login me password {S}",
        f"user admin insecure-password {S}",
        f"stats auth admin:{S}",
        f"MY_SECRET={S}",
        f"export NGC_API_KEY={S} with words",
        f"AWS_SECRET_ACCESS_KEY_ID={S}",
        f'Environment="DB_PASSWORD=two words {S}" "OTHER=1"',
        f'"Env": ["PATH=/bin", "HF_TOKEN={S}"]',
        f'{{"apiKey": "{S}"}}',
        f"{{'api_key': '{S}'}}",
        f'{{"token": "a\\"{S}"}}',
        '{"body": "{\\"token\\": \\"' + S + '\\"}"}',
        json.dumps({"log": json.dumps({"inner": json.dumps({"password": S})})}),
        f"api_keys: [aaaaaa, {S}]",
        f"gateway_keys: {{kitchen: {S}}}",
        f"gateway_keys:\n  kitchen: {S}\n  hall: {S}\nother: 1",
        f"password: |\n  {S}\n  {S}\nother: 1",
        f"--api-key {S}",
        f"--hf-token={S}",
        f'"--api-key",\n    "{S}"',
        f"- --api-key\n- {S}",
        f"GET /v1/models?api_key={S}&x=1",
        f"HTTPS_PROXY=http://me:{S}@proxy:3128",
        f"cloning https://{S}@git/repo",
        f"https:\\/\\/me:{S}@proxy",
        f"Cookie: session={S}",
        f"{PEM_HEAD}\n{LINES[0]}\n{S}\n{PEM_END}",
        json.dumps({"pem": f"{PEM_HEAD}\n{S}\n{PEM_END}\n"}),
        f"{PEM_HEAD}\n{LINES[0]}\n{S}",
        f"root:$6$salt${S}:19000:0:99999",
        f"key eyJhbGciOiJI.{S}.{S}",
        "sent ghp_" + S + "AbCd",
        "nvapi-" + S,
        "auth: " + base64.b64encode(f"me:{S}".encode()).decode(),
        "payload " + base64.b64encode(f"password: {S}".encode()).decode(),
        "twice " + base64.b64encode(base64.b64encode(f"x token={S}".encode())).decode(),
        "$ANSIBLE_VAULT;1.1;AES256\n    6162\n    " + S.encode().hex(),
        f"DGX_SERIAL_NUMBER={S}",
        f"Serial Number                         : {S}",
    ],
)  # fmt: skip
def test_a_secret_goes_by_its_name_or_look(text: str) -> None:
    clean, count = Redactor().clean(f"before\n{text}\nafter")
    assert S not in clean and HF not in clean and S.encode().hex() not in clean
    assert base64.b64encode(f"me:{S}".encode()).decode() not in clean
    assert count >= 1 and MASK in clean
    assert clean.startswith("before\n")
    assert clean.endswith("\nafter") or PEM_HEAD in text


def test_a_key_whose_beginning_was_cut_off_goes() -> None:
    clean, _ = Redactor().clean(f"{LINES[0]}\n{LINES[1]}\n{PEM_END}\nlater: fine")
    assert not any(line in clean for line in LINES) and clean.endswith("later: fine")


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 24",
        "max-num-seqs=8",
        '"completion_tokens": 16, "id": "x"',
        "vllm:generation_tokens_total{model_name=\"/models/mistral-7b\"} 512.0",
        "vllm:time_to_first_token_seconds_sum 3.5",
        "eos_token: </s>",
        "nvcr.io/nvidia/vllm@sha256:" + "1" * 64,
        "Memory-Usage | Not Supported",
        "ExecStart=/usr/bin/docker start -a vllm",
        "ssh.service: Failed with result 'exit-code'.",
        "/usr/lib/python3/dist-packages/apt/cache.py",
        "key is pressed",
        "monkey: banana",
        "keyboard: us",
        "http://127.0.0.1:8000/v1/models",
        "2026-11-27T03:00:00Z vllm-guard[12]: serving -> wedged: no token for 8 s",
        "spark-voicebot.revision=" + "a" * 40,
        "spark1 ansible_user: root",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().clean(text) == (text, 0)


def within(shift: int) -> Callable[[str], str]:
    """In the Base64 of a text where it does not come first."""
    return lambda v: base64.b64encode(b"x" * shift + v.encode() + b"yy").decode()


SPELT: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda v: json.dumps(v)[1:-1],
    "json twice": lambda v: json.dumps(json.dumps(v))[1:-1],
    "url": lambda v: quote(v, safe=""),
    "hex": lambda v: v.encode().hex(),
    "shell": shlex.quote,
    "yaml": lambda v: v.replace("'", "''"),
    "repr": repr,
    "base64": within(0),
    "base64 after 1": within(1),
    "base64 after 2": within(2),
    "base64 after 3": within(3),
    "url-safe base64": lambda v: base64.urlsafe_b64encode(v.encode()).decode(),
}


@pytest.mark.parametrize(
    "value", ["sesame", "two words", "q\"uo'te\\s", "päß/wörd?&=+", "Zx9~>>>???ÿ", "123456"]
)
@pytest.mark.parametrize("spelt", SPELT)
def test_a_known_value_goes_in_every_spelling(value: str, spelt: str) -> None:
    redactor = Redactor([value])
    text = f"said {SPELT[spelt](value)} in passing"
    assert redactor.found(text) == 1
    clean, count = redactor.clean(text)
    assert count >= 1 and redactor.found(clean) == 0
    assert clean.startswith("said ") and clean.endswith(" in passing")


@settings(deadline=None, derandomize=True)
@given(
    value=st.text(st.characters(min_codepoint=33, max_codepoint=0x17F), min_size=8, max_size=40),
    around=st.text(max_size=40),
    spelt=st.sampled_from(sorted(SPELT)),
)
def test_nothing_of_a_known_value_is_found_after_cleaning(value: str, around: str, spelt: str) -> None:
    redactor = Redactor([value])
    clean, _ = redactor.clean(f"{around}{SPELT[spelt](value)} {around}")
    assert redactor.found(clean) == 0


def test_what_a_configuration_calls_a_secret_goes_elsewhere_too() -> None:
    redactor = Redactor()
    redactor.learn_from(f'api_key: {S}\nurl: x\nargv: ["--token", "flagged{S[:5]}"]\nmax_tokens: 20000000\n')
    assert redactor.known == 2
    clean, _ = redactor.clean(f"asked with {S} and flagged{S[:5]}, 20000000 times")
    assert clean == f"asked with {MASK} and {MASK}, 20000000 times"


def test_a_file_of_keys_teaches_its_long_words_alone() -> None:
    redactor = Redactor()
    redactor.learn_words(f"{'ab' * 32} kitchen\n{PEM_HEAD}\n{LINES[0]}\n{PEM_END}\n")
    assert redactor.clean(f"of {'ab' * 32} kitchen {LINES[0]}")[0] == f"of {MASK} kitchen {MASK}"


def test_short_values_are_not_looked_for() -> None:
    assert Redactor(["true", "8000"]).known == 0


def test_a_real_key_of_openssh_and_openssl(tmp_path: Path) -> None:
    for argv in (
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "ssh")],
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "ssl")],
    ):
        subprocess.run(argv, check=True, capture_output=True)
    for name in ("ssh", "ssl"):
        text = (tmp_path / name).read_text()
        for told in (text, textwrap.indent(text, "Nov 27 03:00:00 host app[1]: "), json.dumps({"k": text})):
            clean, _ = Redactor().clean(f"{told}\nthe end")
            assert not any(line in clean for line in text.splitlines() if "-----" not in line)
            assert clean.endswith("the end")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True), ("model_store_token", True), ("ansible_become_pass", True), ("privateKey", True),
        ("gateway_keys", True), ("TOKEN_OF_MINE", True), ("passphrase", True), ("dockerAuth", True),
        ("max_tokens", False), ("eos_token", False), ("chosen_keys", False),
        ("docker_engine_foreign_keys", False),
        ("token_file", False), ("ssh_authorized", False), ("monkey", False), ("", False),
    ],
)  # fmt: skip
def test_names(name: str, secret: bool) -> None:
    assert says_secret(name) is secret


def test_named_values_of_nested_data() -> None:
    data = {
        "llm": {"api_key": "a", "max_tokens": 3},
        "gateway_keys": {"x": "b", "y": ["c"]},
        "z": [{"pwd": 4}],
    }
    assert list(named_values(data)) == ["a", "b", "c", 4]
