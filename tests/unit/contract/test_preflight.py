"""The contract as it runs: the real preflight.yml and pin.yml on temporary inventories, everything local."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plugins.filter.pins import parse_pins, render_pins
from tests.unit.contract.conftest import DIGEST, REVISION, ROOT, Run, write
from tests.unit.contract.test_catalog import real_catalog

Play = Callable[..., Run]
CHOSEN = ("mistral-7b", "whisper-base")
SHAPE = {
    "hidden_size": 4096,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
}


def sound_pins() -> dict[str, Any]:
    models = real_catalog()["models"]
    files = {name: {n: {"size": 1, "git_oid": "c" * 40} for n in models[name]["files"]} for name in CHOSEN}
    pins: dict[str, Any] = {name: {"revision": REVISION, "files": files[name]} for name in CHOSEN}
    pins["mistral-7b"]["config"] = dict(SHAPE)
    return {"images": {"vllm-25.11": {"digest": DIGEST}}, "models": pins}


def inventory(folder: Path, hosts: dict[str, dict[str, Any]], pins: dict[str, Any] | None) -> Path:
    """Local hosts, each with variables of its own."""
    named = {name: {"ansible_connection": "local"} for name in hosts}
    write(folder / "hosts.yml", json.dumps({"spark": {"hosts": named}}))
    for name, variables in hosts.items():
        write(folder / f"host_vars/{name}/all.yml", json.dumps(variables))
    if pins is not None:
        write(folder / "pins.yml", render_pins(pins, "here"))
    return folder


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt": ({"vllm_modle": "mistral-7b"}, ["vllm_modle is not known", "did you mean vllm_model?"]),
    "model": ({"vllm_model": "mistral-8b"}, ["vllm_model is 'mistral-8b'", "did you mean mistral-7b?"]),
    "image": ({"vllm_image": "vllm-99"}, ["vllm_image is 'vllm-99'", "Set vllm_image to one of: vllm-25.11"]),
    "preset": ({"vllm_preset": "sede"}, ["vllm_preset is 'sede'", "a key of mistral-7b's presets"]),
    "flag": ({"vllm_args": {"--dtype": "half"}}, ["vllm_args has '--dtype'", "without the leading dashes"]),
    "unpinned": ({"stt_model": "whisper-small"}, ["whisper-small.revision is empty", "playbooks/pin.yml -i"]),
    "catalogue": ({"catalog_extra": {"models": {"x": {"kind": "lllm"}}}}, ["models.x.kind is 'lllm'"]),
    "twice": (
        {"catalog_extra": {"images": {"vllm-25.11": real_catalog()["images"]["vllm-25.11"]}}},
        ["catalog_extra.images.vllm-25.11 exists in the catalogue already"],
    ),
    "several": (
        {"tts_voice": "heart", "vllm_models": "x", "vllm_args": {"port": 1}},
        ["3 refused", "tts_voice is 'heart'", "vllm_models is not known", "vllm_args has port"],
    ),
}


@pytest.fixture(scope="module")
def refused(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Run:
    hosts = {name: variables for name, (variables, _) in BAD.items()}
    return play("playbooks/preflight.yml", inventory(tmp_path_factory.mktemp("bad"), hosts, sound_pins()))


@pytest.mark.parametrize("host", BAD)
def test_bad_input_is_refused_by_name_rule_and_remedy(refused: Run, host: str) -> None:
    message = refused.messages(host)
    for said in BAD[host][1]:
        assert said in message
    assert "Rule: " in message
    assert "Remedy: " in message


def test_refusal_comes_before_anything_else(refused: Run) -> None:
    assert refused.code != 0
    assert refused.changed() == 0
    assert [task["task"]["name"] for task in refused.report["plays"][0]["tasks"]] == [
        "Refuse what the project does not know, and what is not pinned"
    ]


def test_sound_inventory_passes_and_pinning_again_changes_nothing(play: Play, tmp_path: Path) -> None:
    folder = inventory(tmp_path, {"one": {}}, sound_pins())
    before = (folder / "pins.yml").read_bytes()
    told = json.dumps({"rollout_batches": [1, "50%"], "rollout_latency_factor": 0})
    quick = ["--tags", "always", "-e", told]
    for playbook, options in (("playbooks/preflight.yml", quick), ("playbooks/pin.yml", [])):
        run = play(playbook, folder, *options)
        assert run.code == 0, run.text
        assert run.changed() == 0
    assert (folder / "pins.yml").read_bytes() == before


@pytest.mark.parametrize("environment", ["example", "local"])
def test_a_fresh_inventory_is_refused_for_its_empty_pins_alone(play: Play, environment: str) -> None:
    run = play("playbooks/preflight.yml", ROOT / "inventory" / environment)
    host = next(iter(run.report["stats"]))
    lines = [line for line in run.messages(host).splitlines() if line.startswith("- ")]
    assert len(lines) == 3
    assert all("is empty. Rule: what is deployed is pinned." in line for line in lines)
    assert all(f"playbooks/pin.yml -i inventory/{environment}`" in line for line in lines)


SPECS = """
argument_specs:
  main:
    options:
      shop_port: {type: int, default: 1, description: A port.}
      shop_token: {type: str, default: "", no_log: true, description: A key.}
      shop_wired: {type: str, default: "", description: Wired.}
      shop_also: {type: str, default: "", description: Wired.}
      shop_rules: {type: dict, default: {}, description: Rules., options: {depth: {type: int}}}
"""
PLAYBOOK = """
- hosts: spark
  gather_facts: false
  tasks:
    - inventory_contract:
        roles: "{{ playbook_dir }}/roles"
        variables: "{{ playbook_dir }}/group_vars/all"
        findings: [found elsewhere]
        complete: "{{ shop_complete | default(true) }}"
"""


def test_the_action_on_roles_of_its_own(play: Play, tmp_path: Path) -> None:
    """Wrong types, nested names, secrets, variables in a place that does not count: all in one message."""
    playbook = write(tmp_path / "book/site.yml", PLAYBOOK)
    write(tmp_path / "book/roles/shop/meta/argument_specs.yml", SPECS)
    write(tmp_path / "book/group_vars/all/wiring.yml", 'shop_wired: "{{ nowhere }}"\nshop_colour: red\n')
    hosts = {"one": {"shop_port": "x", "shop_token": ["sesame"], "shop_rules": {"dept": 1}, "shop_prot": 1}}
    folder = inventory(tmp_path / "inventory", hosts, None)
    write(folder / "group_vars/all/oops.yml", "shop_colour: blue\n")
    run = play(playbook, folder)
    assert run.code != 0
    message = run.messages("one")
    for said in (
        "one: 6 refused, nothing was changed",
        "shop_prot is not known",
        "did you mean shop_port?",
        "shop_colour is set in the inventory's group_vars/all",
        "found elsewhere",
        "shop_port is 'x'. Rule: an integer",
        "shop_rules.dept is not known",
        "shop_token is (hidden)",
    ):
        assert said in message
    assert "sesame" not in run.text
    assert "nowhere" not in message  # something else is wrong: this may well be its consequence


def test_a_value_that_cannot_be_computed_is_reported_once_by_its_cause(play: Play, tmp_path: Path) -> None:
    playbook = write(tmp_path / "book/site.yml", PLAYBOOK.replace("[found elsewhere]", "[]"))
    write(tmp_path / "book/roles/shop/meta/argument_specs.yml", SPECS)
    write(
        tmp_path / "book/group_vars/all.yml",
        'shop_cause: "{{ nowhere }}"\nshop_wired: "{{ shop_cause }}"\nshop_also: "{{ shop_cause }}"\n',
    )
    run = play(playbook, inventory(tmp_path / "inventory", {"one": {}}, None))
    assert "one: 1 refused" in run.messages("one")
    assert "shop_also, shop_wired cannot be computed" in run.messages("one")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does when asked for a model's commit and files, or for its config.json."""

    revision = "e" * 40

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Any repository of the catalogue; at a commit, that commit."""
        if self.path.endswith("/config.json"):
            commit = self.path.split("/resolve/")[1].split("/")[0]
            named = {"ETag": f'"{"f" * 40}"', "X-Repo-Commit": commit}
            return self.answer(200, {**SHAPE, "architectures": ["MistralForCausalLM"]}, named)
        asked = self.path.split("/revision/")[1].split("?")[0]
        token = self.headers.get("Authorization", "")
        name = self.path.split("/revision/")[0].removeprefix("/api/models/")
        entry = next((m for m in real_catalog()["models"].values() if m.get("repository") == name), None)
        files = [] if entry is None else [*entry["files"], "README.md", "modeling.py"]
        listing = [{"rfilename": file, "size": 7, "blobId": "f" * 40} for file in files]
        found = entry is not None and token in ("", "Bearer sesame")
        commit = asked if len(asked) == 40 else self.revision
        if found:
            return self.answer(200, {"id": name, "sha": commit, "siblings": listing}, {})
        return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str]) -> None:
        """Send JSON."""
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_pinning_fills_what_is_empty_and_keeps_the_rest(play: Play, tmp_path: Path, hub: str) -> None:
    pins = sound_pins()
    del pins["models"]["whisper-base"]
    variables = {"model_store_endpoint": hub, "model_store_token": "sesame"}
    folder = inventory(tmp_path, {"one": variables}, pins)

    seen = play("playbooks/pin.yml", folder, "--check")
    assert seen.code == 0, seen.text
    assert parse_pins((folder / "pins.yml").read_text(), "here") == pins

    filled = play("playbooks/pin.yml", folder)
    assert filled.code == 0, filled.text
    assert filled.changed() == seen.changed() == 1
    assert "sesame" not in filled.text
    now = parse_pins((folder / "pins.yml").read_text(), "here")
    assert now["images"] == pins["images"]
    models = real_catalog()["models"]
    assert now["models"]["mistral-7b"] == pins["models"]["mistral-7b"]
    assert now["models"]["whisper-base"]["revision"] == "e" * 40
    assert set(now["models"]["whisper-base"]["files"]) == set(models["whisper-base"]["files"])


def test_pinning_adds_the_shape_to_an_older_pin_at_its_revision(play: Play, tmp_path: Path, hub: str) -> None:
    pins = sound_pins()
    del pins["models"]["mistral-7b"]["config"]
    folder = inventory(tmp_path, {"one": {"model_store_endpoint": hub}}, pins)
    run = play("playbooks/pin.yml", folder)
    assert run.code == 0, run.text
    now = parse_pins((folder / "pins.yml").read_text(), "here")["models"]["mistral-7b"]
    assert now["revision"] == REVISION
    assert now["config"] == SHAPE  # cut down to what the plan needs
    assert now["files"].keys() == pins["models"]["mistral-7b"]["files"].keys()
    assert play("playbooks/pin.yml", folder).changed() == 0


def test_an_unreadable_repository_is_named(play: Play, tmp_path: Path, hub: str) -> None:
    pins = sound_pins()
    del pins["models"]["mistral-7b"]
    folder = inventory(tmp_path, {"one": {"model_store_endpoint": hub, "model_store_token": "wrong"}}, pins)
    run = play("playbooks/pin.yml", folder)
    assert run.code != 0
    assert "TheBloke/Mistral-7B-Instruct-v0.2-GPTQ at main" in run.text
    assert "model_store_token may read" in run.text
    assert parse_pins((folder / "pins.yml").read_text(), "here") == pins
