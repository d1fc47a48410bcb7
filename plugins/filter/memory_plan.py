"""What the engine and all beside it take of a host's one unified memory (docs/memory.md)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

MIB, GIB = 1024**2, 1024**3
BLOCK_TOKENS = 16  # vLLM hands out KV cache in blocks of 16 tokens, and keeps one block to itself
CONTEXT_STEP = 1024  # a shorter context is suggested in these steps, and never below one of them
# Where these three come from: docs/memory.md
ACTIVATION_BYTES = 3 * GIB
GRAPH_BYTES = 5 * GIB // 2
OS_BYTES = 16 * GIB
STT_TIMES = 3  # what a speech recogniser takes, in sizes of its files
DEFAULT_UTILIZATION = 0.9  # vLLM's own
TABLE_WIDTH = 100
PLANNED = "planned"  # as a flag's value: the plan's figure

_TRAITS = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "head_dim",
    "max_position_embeddings",
)


def _refuse(given: str, rule: str, remedy: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"{given}. Rule: {rule}. Remedy: {remedy}.")


def _whole(name: str, value: Any, least: int, remedy: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _refuse(f"{name} is {value!r}", f"a whole number, {least} or more", remedy)
    return int(value)


def _trait(config: Mapping[str, Any], name: str) -> int:
    remedy = "pin the model again, or choose a model whose config.json tells it"
    if config.get(name) is None:
        raise _refuse(f"config.json has no {name}", "it tells the KV cache's shape", remedy)
    return _whole(f"config.json: {name}", config[name], 1, remedy)


def _or_trait(config: Mapping[str, Any], name: str, fallback: Callable[[], int]) -> int:
    return fallback() if config.get(name) is None else _trait(config, name)


def _head_dim(config: Mapping[str, Any]) -> int:
    hidden, heads = _trait(config, "hidden_size"), _trait(config, "num_attention_heads")
    if hidden % heads:
        given = f"config.json: hidden_size is {hidden}, num_attention_heads {heads}"
        raise _refuse(given, "without head_dim, the heads divide hidden_size evenly", "pin the model again")
    return hidden // heads


def memory_traits(config: Any) -> dict[str, int]:
    """What the plan needs of a model's config.json, and nothing else; refuses one that lacks it."""
    if not isinstance(config, Mapping):
        raise _refuse(f"config.json is {config!r}", "a JSON object", "pin the model again")
    kv_bytes_per_token(config, 1)
    _trait(config, "max_position_embeddings")
    return {name: int(config[name]) for name in _TRAITS if config.get(name) is not None}


def kv_bytes_per_token(config: Mapping[str, Any], kv_dtype_bytes: int = 2) -> int:
    """One token's key and value in every layer."""
    heads = _or_trait(config, "num_key_value_heads", lambda: _trait(config, "num_attention_heads"))
    head_dim = _or_trait(config, "head_dim", lambda: _head_dim(config))
    return 2 * _trait(config, "num_hidden_layers") * heads * head_dim * kv_dtype_bytes


def kv_tokens(kv_bytes: int, bytes_per_token: int) -> int:
    """How many tokens' KV cache fits, in whole blocks."""
    return max(kv_bytes, 0) // (bytes_per_token * BLOCK_TOKENS) * BLOCK_TOKENS


def weight_bytes(files: Mapping[str, Mapping[str, Any]]) -> int:
    """The weights among a pinned model's files."""
    sizes = [record["size"] for name, record in files.items() if name.endswith(".safetensors")]
    if not sizes:
        raise _refuse("the pinned files hold no weights", "weights are *.safetensors", "pin the model again")
    return sum(sizes)


def with_traits(snapshots: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Snapshots with their config.json cut down to what the plan needs; to {} if it does not tell that."""

    def cut(config: Any) -> dict[str, int]:
        try:
            return memory_traits(config)
        except AnsibleFilterError:  # a model without a plan can be pinned and served all the same
            return {}

    return {
        key: {**snapshot, "config": cut(snapshot["config"])} if "config" in snapshot else dict(snapshot)
        for key, snapshot in snapshots.items()
    }


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _nearest(budget: int, per_token: int, context: int) -> dict[str, int] | None:
    """Fewer sequences first: one more waits in the queue, while a shorter context forgets."""
    sequences = budget // (per_token * _blocks(context))
    if sequences >= 1:
        return {"max_num_seqs": sequences, "max_model_len": context}
    shorter = kv_tokens(budget, per_token) // CONTEXT_STEP * CONTEXT_STEP
    return {"max_num_seqs": 1, "max_model_len": shorter} if shorter else None


def memory_plan(
    config: Any,
    *,
    weights_bytes: int,
    memory_bytes: int,
    max_model_len: int,
    max_num_seqs: int,
    stt_bytes: int,
    tts_bytes: int,
    os_bytes: int = OS_BYTES,
    activation_bytes: int = ACTIVATION_BYTES,
    graph_bytes: int = GRAPH_BYTES,
    kv_dtype_bytes: int = 2,
) -> dict[str, Any]:
    """The plan for a model (its config.json) on a host with `memory_bytes` of MemTotal.

    What does not fit is no error: `fits` is false then, and `refusal` tells the nearest setting that does.
    """
    traits = memory_traits(config)
    weights = _whole("weights_bytes", weights_bytes, 1, "give the bytes of the model's *.safetensors")
    memory = _whole("memory_bytes", memory_bytes, GIB, "give the host's MemTotal in bytes")
    sequences = _whole("max_num_seqs", max_num_seqs, 1, "set max-num-seqs to the conversations at a time")
    context = _whole("max_model_len", max_model_len, 1, "set max-model-len to the tokens of a conversation")
    if context > (most := traits["max_position_embeddings"]):
        given = f"max_model_len is {context}"
        raise _refuse(
            given,
            f"at most the model's max_position_embeddings, {most}",
            f"set max-model-len to {most} or less",
        )
    beside = {
        "stt_bytes": _whole("stt_bytes", stt_bytes, 0, "give bytes; 0 if no speech recogniser runs here"),
        "tts_bytes": _whole("tts_bytes", tts_bytes, 0, "give bytes; 0 if no speech synthesis runs here"),
        "os_bytes": _whole("os_bytes", os_bytes, 1, "reserve what the system takes"),
    }
    activation = _whole("activation_bytes", activation_bytes, 0, "give bytes")
    graphs = _whole("graph_bytes", graph_bytes, 0, "give bytes; 0 with enforce-eager")
    kv_width = _whole("kv_dtype_bytes", kv_dtype_bytes, 1, "2 for 16 bits, 1 for fp8")
    per_token = kv_bytes_per_token(traits, kv_width)

    kv = sequences * _blocks(context) * per_token
    spare = per_token * BLOCK_TOKENS
    fixed = weights + activation + graphs + spare
    hundredths = -(-100 * (fixed + kv) // memory)  # rounded up, as the flag takes two decimals
    engine = -(-hundredths * memory // 100)
    planned = engine + sum(beside.values())
    plan: dict[str, Any] = {
        "memory_bytes": memory,
        "weights_bytes": weights,
        "kv_bytes_per_token": per_token,
        "kv_tokens": sequences * _blocks(context),
        "kv_bytes": kv,
        "activation_bytes": activation,
        "graph_bytes": graphs,
        "rounding_bytes": engine - fixed - kv + spare,
        "engine_bytes": engine,
        **beside,
        "planned_bytes": planned,
        "left_bytes": memory - planned,
        "max_num_seqs": sequences,
        "max_model_len": context,
        "gpu_memory_utilization": hundredths / 100,
        "kv_cache_memory_bytes": kv + spare,
        "fits": planned <= memory,
        "nearest": None,
        "refusal": "",
    }
    if not plan["fits"]:
        share = 100 * (memory - sum(beside.values())) // memory * memory // 100
        plan["nearest"] = _nearest(share - fixed, per_token, context)
        plan["refusal"] = _refusal(plan)
    plan["lines"] = _lines(plan)
    return plan


def _refusal(plan: Mapping[str, Any]) -> str:
    def setting(of: Mapping[str, Any], to: str = "") -> str:
        return f"max-num-seqs {to}{of['max_num_seqs']} and max-model-len {to}{of['max_model_len']}"

    remedy = "no setting fits beside these weights: choose a smaller model (vllm_model) or a larger host"
    if plan["nearest"]:
        remedy = f"set {setting(plan['nearest'], 'to ')} in vllm_args, the nearest setting that fits"
    return (
        f"The memory plan takes {_gib(plan['planned_bytes'])} GiB with {setting(plan)}. "
        f"Rule: engine, speech and system together take at most MemTotal, {_gib(plan['memory_bytes'])} GiB. "
        f"Remedy: {remedy}."
    )


def _number(value: Any) -> Any:
    """A text that is a number (`-e` gives no other) as the number."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _bytes(name: str, gib: Any, least: int = 0) -> int:
    gib = _number(gib)
    if isinstance(gib, bool) or not isinstance(gib, int | float) or not least <= gib < MIB:
        raise _refuse(f"{name} is {gib!r}", f"a number of GiB, {least} or more", "correct or remove it")
    return int(gib * GIB)


def host_memory_plan(
    llm: Mapping[str, Any],
    flags: Mapping[str, Any],
    stt: Mapping[str, Any],
    tts: Mapping[str, Any],
    memory_bytes: int,
    inventory: str,
    choices: Mapping[str, Any],
) -> dict[str, Any]:
    """The plan for a host's pinned models, flags and choices (memory_*).

    Without the model's shape in its pin there is none, but {unknown: why}.
    """
    sequences, context = (
        _whole(name, _number(choices[name]), 1, "correct or remove it")
        for name in ("memory_sequences", "memory_context")
    )
    os_bytes = _bytes("memory_system_gib", choices["memory_system_gib"], 1)
    activation, graphs = (
        _bytes(name, choices[name]) for name in ("memory_activation_gib", "memory_graph_gib")
    )
    if not llm.get("config"):
        return {"unknown": _unknown(llm, inventory)}
    traits = memory_traits(llm["config"])
    return memory_plan(
        traits,
        weights_bytes=weight_bytes(llm["files"]),
        memory_bytes=memory_bytes,
        max_model_len=_number(flags.get("max-model-len", min(context, traits["max_position_embeddings"]))),
        max_num_seqs=_number(flags.get("max-num-seqs", sequences)),
        stt_bytes=STT_TIMES * sum(record["size"] for record in stt["files"].values()),
        tts_bytes=tts["memory_mb"] * MIB,
        os_bytes=os_bytes,
        activation_bytes=activation,
        graph_bytes=0 if flags.get("enforce-eager") else graphs,
        kv_dtype_bytes=1 if str(flags.get("kv-cache-dtype")).startswith("fp8") else 2,
    )


def _unknown(llm: Mapping[str, Any], inventory: str) -> str:
    if "config" in llm:
        given = f"config.json of {llm['name']} does not tell the KV cache's shape"
        remedy = "give numbers instead of `planned`, or choose another model"
    else:
        given = f"{inventory}/pins.yml has no models.{llm['name']}.config"
        command = f"ansible-playbook playbooks/pin.yml -i {inventory}"
        remedy = f"`{command}` adds it to the pinned revision, with -e pin_update=true to the newest"
    return str(_refuse(given, "the memory plan takes the KV cache's shape from the pin", remedy))


def _lines(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    token = plan["kv_bytes_per_token"] / 1024
    share = f"to {plan['gpu_memory_utilization']:.2f} of MemTotal; holds the one block vLLM keeps to itself"
    rows = [
        ("weights", "weights_bytes", "*.safetensors"),
        (
            "KV cache",
            "kv_bytes",
            f"{plan['max_num_seqs']} sequences x {plan['max_model_len']} tokens, {token:g} KiB a token",
        ),
        ("activations", "activation_bytes", "and CUDA context"),
        ("CUDA graphs", "graph_bytes", ""),
        ("rounding up", "rounding_bytes", share),
        ("= engine", "engine_bytes", f"--gpu-memory-utilization {plan['gpu_memory_utilization']:.2f}"),
        ("speech to text", "stt_bytes", ""),
        ("text to speech", "tts_bytes", ""),
        ("system", "os_bytes", "OS, Docker, the engine's host side, page cache"),
        ("= planned", "planned_bytes", ""),
        ("left" if plan["fits"] else "MISSING", "left_bytes", ""),
        ("MemTotal", "memory_bytes", ""),
    ]
    return [
        {"name": name, "key": key, "bytes": plan[key], "gib": _gib(plan[key]), "note": note}
        for name, key, note in rows
    ]


def memory_table(plan: Mapping[str, Any], title: str) -> str:
    """The plan as a plain-text table, 100 columns at most; without a plan, why there is none."""
    if "unknown" in plan:
        return "\n".join(textwrap.wrap(f"{title}: no memory plan. {plan['unknown']}", TABLE_WIDTH))
    rows = [(line["name"], line["gib"], line["note"]) for line in plan["lines"]]
    first = max(len(name) for name, _, _ in rows)
    second = max(len(gib) for _, gib, _ in rows)
    lines = textwrap.wrap(title, TABLE_WIDTH)
    lines += [f"  {name:<{first}}  {gib:>{second}} GiB  {note}".rstrip() for name, gib, note in rows]
    return "\n".join(lines + textwrap.wrap(plan["refusal"], TABLE_WIDTH))


def memory_at(plan: Mapping[str, Any], utilization: float) -> dict[str, Any]:
    """What a literal --gpu-memory-utilization means on this host; a `warning` where the plan says another."""
    planned = plan["gpu_memory_utilization"]
    if isinstance(utilization, bool) or not isinstance(utilization, int | float) or not 0 < utilization <= 1:
        given = f"gpu-memory-utilization is {utilization!r}"
        raise _refuse(given, "a number above 0, at most 1", f"set it to {planned:.2f}, the plan's figure")
    engine = int(plan["memory_bytes"] * utilization)
    # vLLM 0.11 captures its graphs on top of its share
    kv = max(engine - plan["weights_bytes"] - plan["activation_bytes"], 0)
    tokens = kv_tokens(kv, plan["kv_bytes_per_token"])
    left = plan["memory_bytes"] - engine
    beside = plan["graph_bytes"] + plan["stt_bytes"] + plan["tts_bytes"] + plan["os_bytes"]
    text = (
        f"--gpu-memory-utilization {utilization:g} on unified memory takes {_gib(engine)} of "
        f"{_gib(plan['memory_bytes'])} GiB from everything on this host. KV cache: {_gib(kv)} GiB, "
        f"{tokens:,} tokens; planned are {plan['kv_tokens']:,}. Left for system, speech and CUDA graphs: "
        f"{_gib(left)} GiB; planned are {_gib(beside)}. The plan's figure is {planned:.2f}."
    )
    return {
        "gpu_memory_utilization": utilization,
        "engine_bytes": engine,
        "kv_bytes": kv,
        "kv_tokens": tokens,
        "left_bytes": left,
        "warning": "" if utilization == planned else "\n".join(textwrap.wrap(text, TABLE_WIDTH)),
    }


def memory_warning(plan: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """What the share among the flags means (see memory_at); empty if it is the plan's, or does not count."""
    share = flags.get("gpu-memory-utilization", DEFAULT_UTILIZATION)
    if "unknown" in plan or share == PLANNED or "kv-cache-memory-bytes" in flags:
        return ""
    return str(memory_at(plan, _number(share))["warning"])


def planned_flags(flags: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Those flags whose value is `planned`, with the plan's figures."""
    figures = {
        "gpu-memory-utilization": "gpu_memory_utilization",
        "kv-cache-memory-bytes": "kv_cache_memory_bytes",
    }
    wanted = [flag for flag, value in flags.items() if value == PLANNED]
    for flag in wanted:
        if flag not in figures:
            raise _refuse(f"{flag} is {PLANNED}", f"planned are {' and '.join(figures)}", "give it a value")
    if wanted and "unknown" in plan:
        raise AnsibleFilterError(f"{wanted[0]} is {PLANNED}, but {plan['unknown']}")
    if wanted and not plan["fits"]:
        raise AnsibleFilterError(plan["refusal"])
    return {flag: plan[figures[flag]] for flag in wanted}


class FilterModule:
    """Filters on the memory plan."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {
            "host_memory_plan": host_memory_plan,
            "memory_at": memory_at,
            "memory_plan": memory_plan,
            "memory_table": memory_table,
            "memory_traits": memory_traits,
            "memory_warning": memory_warning,
            "planned_flags": planned_flags,
            "weight_bytes": weight_bytes,
            "with_traits": with_traits,
        }
