"""Malformed inventories, pins and catalogues as data: what is spoilt in a sound one, and what must be said.

`<llm>`, `<stt>` and `<image>` stand for what the inventory at hand has chosen, so that the same cases spoil
an example on paper and the inventory of a host that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.unit.contract.conftest import CATALOG, change

SPOILT = "host_vars/{}/zz_spoilt.yml"  # read last, and wins over the inventory file
GONE = ...  # removes what lies at a path


@dataclass(frozen=True)
class Case:
    """One way to get it wrong. All of `said` is in the refusal, beside Rule and Remedy."""

    name: str
    said: tuple[str, ...]
    variables: Mapping[str, Any] = field(default_factory=dict)
    pins: Mapping[str, Any] = field(default_factory=dict)  # path a/b/c -> value in pins.yml
    pins_text: str = ""
    catalog: Mapping[str, Any] = field(default_factory=dict)  # entries added to catalog_extra
    files: Mapping[str, str] = field(default_factory=dict)  # written into the inventory

    def spoil(self, folder: Path, names: Mapping[str, str]) -> None:
        """Do it to the inventory in `folder`, whose choices are `names`."""
        given = dict(_named(self.variables, names))
        if self.catalog:
            extra = _catalog_extra(folder)
            for section, entries in _named(self.catalog, names).items():
                extra[section] = {**extra.get(section, {}), **entries}
            given["catalog_extra"] = extra
        hosts = yaml.safe_load((folder / "hosts.yml").read_text(encoding="utf-8"))["spark"]["hosts"]
        texts = dict(self.files)
        texts |= {SPOILT.format(host): yaml.safe_dump(given) for host in hosts if given}
        file = folder / "pins.yml"
        if self.pins:
            pins = yaml.safe_load(file.read_text(encoding="utf-8"))
            for path, value in _named(self.pins, names).items():
                change(pins, path, value)
            texts["pins.yml"] = yaml.safe_dump(pins)
        if self.pins_text:
            texts["pins.yml"] = _named(self.pins_text, names)
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    def expected(self, names: Mapping[str, str]) -> tuple[str, ...]:
        """What the refusal says: variable, value and rule among it."""
        return (*_named(self.said, names), "Rule: ", "Remedy: ")


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, real in names.items():
            value = value.replace(f"<{name}>", real)
        return value
    if isinstance(value, Mapping):
        return {_named(k, names): _named(v, names) for k, v in value.items()}
    return type(value)(_named(v, names) for v in value) if isinstance(value, list | tuple) else value


def _catalog_extra(folder: Path) -> dict[str, Any]:
    file = folder / "group_vars/spark/catalog.yml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["catalog_extra"]) if file.exists() else {}


def _variable(name: str, value: Any, *said: str) -> Case:
    return Case(f"{name}={value!r}"[:60], (name, *said), {name: value})


def _model(path: str, value: Any, *said: str) -> Case:
    entry = change({"mine": yaml.safe_load(yaml.safe_dump(CATALOG["models"]["chat"]))}, f"mine/{path}", value)
    return Case(f"model {path}={value!r}"[:60], (f"models.mine.{path}", *said), catalog={"models": entry})


def _image(path: str, value: Any, *said: str) -> Case:
    entry = change({"mine": dict(CATALOG["images"]["engine"])}, f"mine/{path}", value)
    return Case(f"image {path}={value!r}"[:60], (f"images.mine.{path}", *said), catalog={"images": entry})


def _pin(path: str, value: Any, *said: str) -> Case:
    return Case(f"pin {path}={value!r}"[:60], (path.replace("/", "."), *said), pins={path: value})


BEATEN = "wins. Remedy: move it to group_vars/spark"

CASES = [
    # names
    _variable("vllm_modle", "<llm>", "is not known", "did you mean vllm_model?"),
    _variable("spark_host_min_memory", 100, "is not known", "spark_host_min_memory_gib"),
    _variable("docker_engine_fragment", [], "did you mean docker_engine_fragments?"),
    _variable("voicebot_setings", {}, "did you mean voicebot_settings?"),
    _variable("colour", "red", "is not known", "option of a role or of a playbook"),
    # choices
    _variable("vllm_model", "mistral-8b", "'mistral-8b'", "of kind llm", "<llm>"),
    _variable("vllm_model", "<stt>", "of kind llm"),
    _variable("vllm_model", None, "None", "a key of the catalogue's models"),
    _variable("vllm_image", "vllm-99", "'vllm-99'", "a key of the catalogue's images", "<image>"),
    _variable("vllm_preset", "sede", "'sede'", "a key of <llm>'s presets", "seed"),
    _variable("stt_model", "<llm>", "of kind stt"),
    _variable("stt_model", "whisper-large", "'whisper-large'", "of kind stt"),
    _variable("tts_voice", "heart", "'heart'", "of kind tts"),
    # flags
    _variable("vllm_args", {"--dtype": "half"}, "'--dtype'", "without the leading dashes"),
    _variable("vllm_args", {"max_num_seqs": 8}, "'max_num_seqs'", "as vLLM spells them"),
    _variable("vllm_args", {"port": 1}, "has port", "vllm_port"),
    _variable("vllm_args", {"api-key": "sesame"}, "has api-key", "gateway_keys"),
    _variable("vllm_args", {"trust-" + "remote-code": True}, "never run"),
    _variable("vllm_args", "--dtype half", "'--dtype half'", "a dict of flags"),
    # values
    _variable("vllm_port", "many", "'many'", "an integer"),
    _variable("vllm_port", 99999, "99999", "a TCP port, 1 to 65535"),
    _variable("vllm_guard_port", 0, "0", "a TCP port, 1 to 65535"),
    _variable("vllm_start_timeout", "soon", "'soon'", "an integer"),
    _variable("vllm_start_timeout", -1, "-1", "above 0"),
    _variable("vllm_guard_enabled", "perhaps", "'perhaps'", "true or false"),
    _variable("vllm_guard_judgement", {"quiet": 5}, "quiet is not known", "did you mean quiet_s?"),
    _variable("vllm_environment", ["A=b"], "['A=b']", "a dict"),
    _variable("vllm_environment", {"VLLM_API_KEY": "sesame"}, "has VLLM_API_KEY", "gateway_keys"),
    _variable("vllm_environment", {"OMP_NUM_THREADS": 4}, "OMP_NUM_THREADS is 4", "a text"),
    _variable("vllm_environment", {"A-B": "4"}, "has 'A-B'", "letters, digits and _"),
    _variable("model_store_root", "srv/models", "'srv/models'", "an absolute path"),
    _variable("model_store_endpoint", "huggingface.co", "'huggingface.co'", "http:// or https://"),
    _variable("model_store_token", ["sesame"], "(hidden)", "a text"),
    _variable("model_store_verify", "ful", "'ful'", "one of changed, full"),
    _variable("voicebot_settings", "llm", "'llm'", "a dict"),
    _variable("voicebot_root", None, "null", "a value"),
    _variable("spark_host_architectures", "aarch64", "'aarch64'", "a list"),
    _variable("spark_host_min_memory_gib", [100], "[100]", "an integer"),
    _variable("spark_host_baseline", {"kernl": "6.14"}, "kernl is not", "did you mean kernel?", "dgx_ota"),
    _variable("spark_host_baseline", {"ssh_host_keys": "x"}, "ssh_host_keys is 'x'", "a dict"),
    _variable("spark_host_baseline", ["kernel"], "['kernel']", "a dict"),
    _variable("spark_host_on_deviation", "panic", "'panic'", "one of warn, refuse"),
    _variable("docker_engine_daemon", "debug", "'debug'", "a dict"),
    _variable("docker_engine_fragments", [["debug"]], "[0]", "a dict"),
    _variable("docker_engine_restart", True, "True", "a text"),
    _variable("docker_engine_foreign_keys", "drop", "'drop'", "one of keep, refuse"),
    _variable("docker_engine_users", ["me", {"name": "you"}], "[1]", "a text"),
    _variable("memory_sequences", "eight", "'eight'", "a number"),
    _variable("pin_update", "maybe", "'maybe'", "true or false"),
    _variable("drift_report", ["a"], "['a']", "a text"),
    Case("one port for two", ("spark_host_ports", "9000", "no port twice", "vllm_guard_port"),
         {"vllm_port": 9000, "vllm_guard_port": 9000}),
    # places
    Case("group_vars/all", ("vllm_model is set in the inventory's group_vars/all", BEATEN),
         files={"group_vars/all.yml": "vllm_model: <llm>\n"}),
    Case("group_vars/all/", ("vllm_preset is set in the inventory's group_vars/all", BEATEN),
         files={"group_vars/all/x.yml": "vllm_preset: voice\n"}),
    # catalogue
    _variable("catalog_extra", {"modles": {}}, "modles is not known", "did you mean models?"),
    _variable("catalog_extra", {"models": []}, "models is []", "a dict of entries by key"),
    _variable("catalog_extra", None, "None", "a dict with `images` and `models`"),
    Case("key given twice", ("catalog_extra.models.mistral-7b exists in the catalogue already",),
         catalog={"models": {"mistral-7b": CATALOG["models"]["chat"]}}),
    Case("key in capitals", ("catalog_extra.models has the key 'Mistral'", "lower-case"),
         catalog={"models": {"Mistral": CATALOG["models"]["chat"]}}),
    _model("kind", "lllm", "'lllm'", "one of llm, stt, tts"),
    _model("repository", "Chat", "'Chat'", "OWNER/NAME"),
    _model("size_gb", "4 GB", "'4 GB'", "a number of gigabytes above 0"),
    _model("files", ["config.json", "model.bin"], "model.bin", "*.safetensors alone"),
    _model("files", ["../x.safetensors"], "../x.safetensors", "relative paths"),
    _model("directory", "Chat 7B", "'Chat 7B'", "in lower case"),
    _model("presets", GONE, "is missing", "a dict of presets"),
    _model("template", {"system_role": "no"}, "strict_alternation"),
    _model("golden", {"prompt": "x", "pattern": "("}, "a regular expression"),
    _model("quantisation", "gptq", "is not known"),
    _image("repository", "nvcr.io/nvidia/vllm:25.11", "without tag and digest"),
    _image("tag", "25.11 py3", "'25.11 py3'", "an image tag"),
    _image("size_gb", 0, "0", "above 0"),
    # pins
    _pin("images/<image>/digest", "", "is empty", "what is deployed is pinned", "playbooks/pin.yml"),
    _pin("images/<image>/digest", "25.11-py3", "'25.11-py3'", "sha256: and 64 hex digits"),
    _pin("images/<image>/digest", "sha256:" + "A" * 64, "in lower case"),
    _pin("images/<image>/tag", "25.11", "is not known", "one of digest"),
    _pin("images/vllm", {"digest": ""}, "is not in the catalogue", "a key of its images"),
    _pin("models/<llm>", GONE, "<llm>.revision is empty", "playbooks/pin.yml"),
    _pin("models/<llm>", "main", "'main'", "a dict of revision, files, config"),
    _pin("models/<llm>/revision", "main", "'main'", "neither a branch nor a tag"),
    _pin("models/<llm>/revision", "a" * 39, "40 hex digits"),
    _pin("models/<llm>/files", [], "files"),
    _pin("models/<llm>/config", {"hidden_size": "4096"}, "whole numbers above 0"),
    _pin("models/<stt>/files", {"model.bin": {"size": -1, "sha256": "d" * 64}}, "model.bin", "size: bytes"),
    Case("pin of a file elsewhere", ("models.<stt> names the file '/etc/passwd'", "a relative path"),
         pins={"models/<stt>/files": {"/etc/passwd": {"size": 1, "git_oid": "c" * 40}}}),
    Case("pins cannot be read", ("pins.yml, line", "YAML"), pins_text="images:\n  <image>: [\n"),
    Case("pins are a list", ("pins.yml has the wrong shape", "a dict of two dicts"), pins_text="- images\n"),
    Case("pins have a section more", ("pins.yml has the wrong shape",), pins_text="image: {}\n"),
    Case("a pin given twice", ("pins.yml, line 4", "<image>", "a key stands once"),
         pins_text="images:\n  <image>:\n    digest: ''\n  <image>:\n    digest: ''\n"),
]  # fmt: skip
