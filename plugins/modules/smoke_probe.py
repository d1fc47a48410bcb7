#!/usr/bin/python3
"""Ansible module: does this host answer when spoken to? Every part is tried, nothing is changed."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: smoke_probe
short_description: Try every part of the main job on a host, read-only
description:
  - Runs all checks, whatever fails on the way; a failed check says what was found, the rule and the remedy.
  - Needs the standard library, C(docker) and C(nvidia-smi); the service's command puts the spoken question.
options:
  container: {type: str, required: true, description: Name of the engine's container.}
  image: {type: str, required: true, description: The pinned image, repository@digest.}
  argv: {type: list, elements: str, required: true, description: The command the container must run.}
  labels: {type: dict, required: true, description: The labels it must bear.}
  min_cuda: {type: str, required: true, description: Lowest CUDA version that the driver must offer.}
  engine_url: {type: str, required: true, description: Address of vLLM.}
  served_name: {type: str, required: true, description: Name of the served model.}
  prompt: {type: str, required: true, description: Text of the completion.}
  max_tokens: {type: int, required: true, description: Tokens of the completion.}
  service_url: {type: str, required: true, description: Address of the service.}
  service: {type: path, required: true, description: The service's command.}
  max_word_error_rate: {type: float, required: true, description: Of the recorded question, 0 to 1.}
  golden: {type: dict, default: {}, description: "{prompt, pattern}, asked at temperature 0; empty for none."}
  only: {type: list, elements: str, default: [], description: Names of the checks to run; empty for all.}
  timeout: {type: int, default: 120, description: Seconds that one answer may take.}
"""

RETURN = r"""
checks:
  description: One a part, in order; {name, ok, detail, figures}.
  type: list
  returned: always
"""

GOLDEN_TOKENS = 32
CHECKS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, float]]]] = {}


# What a part in disorder can make of reading its answer: one failed check, not the end of the others.
_UNEXPECTED = (subprocess.TimeoutExpired, OSError, ValueError, LookupError, TypeError, AttributeError)


class Failed(Exception):
    """A check that did not pass."""

    def __init__(self, found: str, rule: str, remedy: str) -> None:
        super().__init__(f"{found} Rule: {rule} Remedy: {remedy}")


def check(name: str) -> Callable[[Any], Any]:
    """Registers a function as the check of this name."""

    def register(function: Any) -> Any:
        CHECKS[name] = function
        return function

    return register


def _run(argv: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def _told(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    lines = [line for line in said if line.strip() and "--help" not in line]  # docker ends with a hint
    return f"`{done.args[0]}` ended with {done.returncode}: {lines[-1] if lines else 'no output'}."


def _fetch(url: str, timeout: float, body: Any = None) -> Any:
    """GET, or POST of JSON; the answer's JSON, or None if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback has no proxy
    with opener.open(request, timeout=timeout) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@check("gpu in a container")
def gpu(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--gpus", "all"]
    argv += ["--entrypoint", "nvidia-smi"]
    done = _run([*argv, p["image"], "-L"], p["timeout"])
    if done.returncode or not done.stdout.startswith("GPU 0:"):
        rule = "`docker run --gpus all … nvidia-smi -L` lists a GPU."
        raise Failed(_told(done), rule, "site.yml registers the runtime; then see `nvidia-ctk cdi list`.")
    return re.sub(r" \(UUID.*", "", done.stdout.splitlines()[0]), {}


@check("driver and CUDA")
def driver(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    done = _run(["nvidia-smi"], p["timeout"])
    found = re.search(r"Driver Version: (\S+)\s+CUDA Version: (\S+)", done.stdout)
    if done.returncode or not found:
        raise Failed(
            _told(done), "nvidia-smi shows driver and CUDA.", "repair the driver (DGX OS brings it)."
        )
    numbers = [int(n) for n in re.findall(r"\d+", found[2])]
    if numbers < [int(n) for n in re.findall(r"\d+", p["min_cuda"])]:
        rule = f"CUDA is at least {p['min_cuda']} (smoke_min_cuda)."
        raise Failed(f"The driver {found[1]} offers CUDA {found[2]}.", rule, "update DGX OS, then reboot.")
    return f"driver {found[1]}, CUDA {found[2]}", {}


@check("container as pinned")
def container(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    done = _run(["docker", "inspect", "--type", "container", p["container"]], p["timeout"])
    if done.returncode:
        raise Failed(_told(done), f"the container {p['container']} exists.", "run site.yml.")
    [seen] = json.loads(done.stdout)
    state = seen["State"]["Status"]
    differs = [
        f"{what} is {have!r}, pinned is {want!r}"
        for what, have, want in (
            ("the image", seen["Config"]["Image"], p["image"]),
            ("the command", seen["Config"]["Cmd"], list(p["argv"])),
            *((f"label {k}", seen["Config"]["Labels"].get(k), v) for k, v in p["labels"].items()),
        )
        if have != want
    ]
    if differs:
        raise Failed(f"{'; '.join(differs)}.", "what runs is what the inventory pins.", "run site.yml.")
    if state != "running":
        raise Failed(f"The container is {state}.", "it runs.", "see `systemctl status vllm`.")
    digest = p["image"].partition("@")[2]
    return digest[:19] + "…", {}


def _engine(p: Mapping[str, Any], path: str, body: Any = None) -> Any:
    url = p["engine_url"] + path
    try:
        return _fetch(url, p["timeout"], body)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        raise Failed(f"{url} answers {error.code}: {said}", "200.", "see `journalctl -u vllm`.") from error
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url}: {error}.", "the engine answers.", "see `systemctl status vllm`.") from error


@check("engine /health")
def health(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    _engine(p, "/health")
    return "200", {}


@check("engine /v1/models")
def models(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    names = [m["id"] for m in _engine(p, "/v1/models")["data"]]
    if p["served_name"] not in names:
        raise Failed(f"Served is {', '.join(names)}.", f"{p['served_name']} is served.", "run site.yml.")
    return ", ".join(names), {}


@check("completion")
def completion(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    body = {"model": p["served_name"], "max_tokens": p["max_tokens"], "temperature": 0}
    began = time.monotonic()
    answer = _engine(
        p, "/v1/chat/completions", body | {"messages": [{"role": "user", "content": p["prompt"]}]}
    )
    seconds = time.monotonic() - began
    text, tokens = answer["choices"][0]["message"]["content"] or "", answer["usage"]["completion_tokens"]
    if not text.strip() or not tokens:
        raise Failed(
            f"{p['prompt']!r} got {text!r}.", "an answer with words in it.", "see `journalctl -u vllm`."
        )
    first = " ".join(text.split())
    shown = f"{first[:48]}…" if len(first) > 48 else first
    figures = {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
    }
    return f"{tokens} tokens, {tokens / seconds:.1f}/s: {shown}", figures


@check("golden question")
def golden(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    if not p.get("golden"):
        return "none in the catalogue", {}
    prompt, pattern = p["golden"]["prompt"], p["golden"]["pattern"]
    body = {"model": p["served_name"], "max_tokens": GOLDEN_TOKENS, "temperature": 0}
    answer = _engine(p, "/v1/chat/completions", body | {"messages": [{"role": "user", "content": prompt}]})
    text = answer["choices"][0]["message"]["content"] or ""
    if not re.search(pattern, text):
        raise Failed(
            f"{prompt!r} got {text!r}.",
            f"the answer matches {pattern!r}.",
            "go back to the model, image or flags that served before, or correct `golden` in the catalogue.",
        )
    return " ".join(text.split())[:60], {}


@check("voicebot /health")
def voicebot(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    url = f"{p['service_url']}/health"
    remedy = f"on the host: {p['service']} doctor; journalctl -u voicebot."
    try:
        said = _fetch(url, p["timeout"])
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        raise Failed(f"{url} answers {error.code}: {said}", "200.", remedy) from error
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url}: {error}.", "the service answers.", remedy) from error
    return ", ".join(f"{part} {state}" for part, state in said.items() if part != "status"), {}


@check("spoken question")
def spoken(p: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        speech, told = Path(folder) / "answer.wav", Path(folder) / "turn.json"
        argv = [p["service"], "ask", "--sample", "--url", p["service_url"], "--out", str(speech)]
        # as root Python would leave byte code in the release
        done = _run(["env", "PYTHONDONTWRITEBYTECODE=1", *argv, "--json", str(told)], p["timeout"])
        turn = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    remedy = f"on the host: {p['service']} ask --sample; {p['service']} doctor."
    if done.returncode or not turn:
        why = (turn.get("error") or {}).get("message") or _told(done)
        raise Failed(why, "a recorded question is answered.", remedy)
    figures = {k: v for k, v in turn["metrics"].items() if isinstance(v, int | float)}
    figures |= {"word_error_rate": turn["wer"], "spoken_seconds": turn["audio_seconds"]}
    if turn["wer"] is None or turn["wer"] > p["max_word_error_rate"]:
        rule = f"word error rate at most {p['max_word_error_rate']} (smoke_max_word_error_rate)."
        raise Failed(f"Heard {turn['transcript']!r} (word error rate {turn['wer']}).", rule, remedy)
    if not turn["answer"].strip() or not turn["audio_seconds"]:
        raise Failed(f"Answer {turn['answer']!r}, {turn['audio_seconds']} s.", "it is spoken.", remedy)
    total, first = figures.get("total_s", 0), figures.get("first_audio_s", 0)
    heard = f"WER {turn['wer']:.2f}, STT {figures.get('stt_s', 0):.2f} s"
    return f"{heard}, first sound {first:.2f} s, whole turn {total:.2f} s", figures


def probe(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All checks in order: [{name, ok, detail, figures}]; figures in seconds, tokens, or rates."""
    results = []
    for name, function in CHECKS.items():
        if params.get("only") and name not in params["only"]:
            continue
        figures: dict[str, float] = {}
        try:
            detail, figures = function(params)
            ok = True
        except Failed as failed:
            detail, ok = str(failed), False
        except _UNEXPECTED as error:
            rule = f"an answer of the known form within {params['timeout']} s."
            detail, ok = str(Failed(f"{type(error).__name__}: {error}.", rule, "see that part's log.")), False
        results.append({"name": name, "ok": ok, "detail": detail, "figures": figures})
    return results


def main() -> None:
    """Runs as an Ansible module."""
    spec: dict[str, Any] = {
        name: {"type": kind, "required": True}
        for kind, names in {
            "str": "container image min_cuda engine_url served_name prompt service_url",
            "int": "max_tokens",
            "float": "max_word_error_rate",
            "dict": "labels",
            "path": "service",
        }.items()
        for name in names.split()
    }
    spec |= {
        "argv": {"type": "list", "elements": "str", "required": True},
        "golden": {"type": "dict", "default": {}},
        "only": {"type": "list", "elements": "str", "default": [], "choices": list(CHECKS)},
        "timeout": {"type": "int", "default": 120},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    module.exit_json(changed=False, checks=probe(module.params))


if __name__ == "__main__":
    main()
