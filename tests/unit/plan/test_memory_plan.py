"""The memory plan: figures known from a real Spark and from the models' shapes; bad input; properties."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from plugins.filter.memory_plan import (
    GIB,
    TABLE_WIDTH,
    kv_bytes_per_token,
    kv_tokens,
    memory_at,
    memory_plan,
    memory_table,
    memory_traits,
    planned_flags,
    weight_bytes,
)

MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
}
LLAMA3_70B = {
    "hidden_size": 8192,
    "max_position_embeddings": 8192,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}
SMALLEST, LARGEST = int(119.7 * GIB), int(121.6 * GIB)  # MemTotal as Sparks report it
SPARK = {
    "memory_bytes": SMALLEST,
    "max_model_len": 8192,
    "max_num_seqs": 8,
    "stt_bytes": GIB // 2,
    "tts_bytes": GIB // 2,
}


def plan_7b(**changed: Any) -> dict[str, Any]:
    return memory_plan(MISTRAL_7B, **{**SPARK, "weights_bytes": 4_160_000_000, **changed})


def plan_70b(**changed: Any) -> dict[str, Any]:
    return memory_plan(LLAMA3_70B, **{**SPARK, "weights_bytes": 39_800_000_000, **changed})


# --- known answers


def test_mistral_7b_keeps_128_kib_a_token_and_llama3_70b_320() -> None:
    assert kv_bytes_per_token(MISTRAL_7B) == 128 * 1024
    assert kv_bytes_per_token(LLAMA3_70B) == 320 * 1024


def test_the_log_of_a_real_spark() -> None:
    """102.56 GiB of KV cache hold 840,160 tokens of Mistral 7B; 0.9 of the largest MemTotal is just that."""
    assert kv_tokens(int(102.56 * GIB), kv_bytes_per_token(MISTRAL_7B)) == 840_160
    seed = memory_at(plan_7b(weights_bytes=int(3.88 * GIB), memory_bytes=LARGEST), 0.9)
    assert seed["kv_tokens"] == pytest.approx(840_160, abs=16)
    assert seed["kv_bytes"] / GIB == pytest.approx(102.56, abs=0.005)


@pytest.mark.parametrize("memory", [SMALLEST, LARGEST])
def test_mistral_7b_on_a_spark(memory: int) -> None:
    plan = plan_7b(memory_bytes=memory)
    assert plan["kv_bytes"] == 8 * GIB
    assert plan["kv_tokens"] == 8 * 8192
    assert plan["gpu_memory_utilization"] == 0.15
    assert plan["fits"] and plan["nearest"] is None and plan["refusal"] == ""


@pytest.mark.parametrize("memory", [SMALLEST, LARGEST])
def test_llama3_70b_on_a_spark(memory: int) -> None:
    plan = plan_70b(memory_bytes=memory)
    assert plan["kv_bytes"] == 20 * GIB
    assert round(plan["weights_bytes"] / GIB, 1) == 37.1
    assert 0.5 <= plan["gpu_memory_utilization"] <= 0.55
    assert plan["fits"]


def test_fp8_cache_takes_half() -> None:
    assert plan_70b(kv_dtype_bytes=1)["kv_bytes"] == 10 * GIB


def test_heads_and_head_dim_when_the_config_is_silent_or_explicit() -> None:
    without = {k: v for k, v in MISTRAL_7B.items() if k != "num_key_value_heads"}
    assert kv_bytes_per_token(without) == 4 * 128 * 1024
    assert kv_bytes_per_token({**MISTRAL_7B, "head_dim": None}) == 128 * 1024
    assert kv_bytes_per_token({**MISTRAL_7B, "head_dim": 64}) == 64 * 1024


def test_the_engine_is_told_the_cache_and_the_block_it_keeps_to_itself() -> None:
    plan = plan_7b()
    assert plan["kv_cache_memory_bytes"] == 8 * GIB + 16 * 128 * 1024


# --- what does not fit


def test_fewer_sequences_come_first() -> None:
    plan = plan_70b(max_num_seqs=64)
    assert not plan["fits"]
    assert plan["nearest"] == {"max_num_seqs": 23, "max_model_len": 8192}
    assert "set max-num-seqs to 23 and max-model-len to 8192" in plan["refusal"]
    assert plan_70b(**plan["nearest"])["fits"]
    assert not plan_70b(max_num_seqs=24)["fits"]


def test_a_shorter_context_when_not_even_one_sequence_fits() -> None:
    plan = plan_70b(memory_bytes=62 * GIB)
    assert plan["nearest"] == {"max_num_seqs": 1, "max_model_len": 6144}
    assert plan_70b(memory_bytes=62 * GIB, **plan["nearest"])["fits"]
    assert not plan_70b(memory_bytes=62 * GIB, max_num_seqs=1)["fits"]


def test_nothing_fits_beside_the_weights() -> None:
    plan = plan_70b(memory_bytes=48 * GIB)
    assert plan["nearest"] is None
    assert "choose a smaller model (vllm_model)" in plan["refusal"]


# --- bad input

BAD = [
    ({"weights_bytes": 0}, "weights_bytes is 0"),
    ({"weights_bytes": 3.5}, "weights_bytes is 3.5"),
    ({"memory_bytes": 122_570}, "memory_bytes is 122570"),  # mebibytes given for bytes
    ({"memory_bytes": -1}, "memory_bytes is -1"),
    ({"max_model_len": 0}, "max_model_len is 0"),
    (
        {"max_model_len": 32769},
        "max_model_len is 32769. Rule: at most the model's max_position_embeddings",
    ),
    ({"max_num_seqs": 0}, "max_num_seqs is 0"),
    ({"max_num_seqs": -8}, "max_num_seqs is -8"),
    ({"max_num_seqs": True}, "max_num_seqs is True"),
    ({"max_num_seqs": "8"}, "max_num_seqs is '8'"),
    ({"stt_bytes": -1}, "stt_bytes is -1"),
    ({"tts_bytes": None}, "tts_bytes is None"),
    ({"os_bytes": 0}, "os_bytes is 0"),
    ({"activation_bytes": -1}, "activation_bytes is -1"),
    ({"graph_bytes": -1}, "graph_bytes is -1"),
    ({"kv_dtype_bytes": 0}, "kv_dtype_bytes is 0"),
]


@pytest.mark.parametrize(("changed", "told"), BAD, ids=[told.split(".")[0] for _, told in BAD])
def test_bad_input_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        plan_7b(**changed)
    assert str(error.value).startswith(told)
    assert "Rule: " in str(error.value) and "Remedy: " in str(error.value)


BAD_CONFIGS = [
    ([], "config.json is []"),
    ({}, "config.json has no num_attention_heads"),
    ({**MISTRAL_7B, "num_hidden_layers": 0}, "config.json: num_hidden_layers is 0"),
    ({**MISTRAL_7B, "num_key_value_heads": -1}, "config.json: num_key_value_heads is -1"),
    ({**MISTRAL_7B, "head_dim": 0}, "config.json: head_dim is 0"),
    ({**MISTRAL_7B, "hidden_size": 4097}, "config.json: hidden_size is 4097, num_attention_heads 32"),
    ({**MISTRAL_7B, "max_position_embeddings": None}, "config.json has no max_position_embeddings"),
]


@pytest.mark.parametrize(("config", "told"), BAD_CONFIGS, ids=[told for _, told in BAD_CONFIGS])
def test_a_config_that_does_not_tell_the_shape_is_refused(config: Any, told: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"Rule: .* Remedy: ") as error:
        memory_traits(config)
    assert str(error.value).startswith(told)


# --- from pins, to flags, for people


def test_traits_are_what_the_plan_needs_and_no_more() -> None:
    traits = memory_traits(MISTRAL_7B)
    assert set(MISTRAL_7B) - set(traits) == {"architectures", "sliding_window"}
    assert memory_traits(traits) == traits


def test_weights_are_the_safetensors() -> None:
    sizes = {"model-1.safetensors": 3, "model-2.safetensors": 4, "config.json": 5}
    assert weight_bytes({name: {"size": size} for name, size in sizes.items()}) == 7
    with pytest.raises(AnsibleFilterError, match="hold no weights"):
        weight_bytes({"config.json": {"size": 5}})


def test_flags_that_say_planned_get_the_figures() -> None:
    flags = {"dtype": "float16", "gpu-memory-utilization": "planned", "kv-cache-memory-bytes": "planned"}
    assert planned_flags(flags, plan_7b()) == {
        "gpu-memory-utilization": 0.15,
        "kv-cache-memory-bytes": 8 * GIB + 2 * 1024**2,
    }
    assert planned_flags({"gpu-memory-utilization": 0.9}, plan_7b()) == {}
    with pytest.raises(AnsibleFilterError, match="max-num-seqs is planned"):
        planned_flags({"max-num-seqs": "planned"}, plan_7b())
    with pytest.raises(AnsibleFilterError, match="The memory plan takes"):
        planned_flags(flags, plan_7b(memory_bytes=16 * GIB))


def test_the_seed_is_warned_of() -> None:
    at = memory_at(plan_7b(memory_bytes=LARGEST), 0.9)
    assert at["engine_bytes"] + at["left_bytes"] == LARGEST
    text = at["warning"].replace("\n", " ")
    assert "takes 109.44 of 121.60 GiB" in text
    assert f"{at['kv_tokens']:,} tokens; planned are 65,536" in text
    assert "Left for system, speech and CUDA graphs: 12.16 GiB; planned are 19.50" in text
    assert "The plan's figure is 0.15." in text
    assert memory_at(plan_7b(), 0.15)["warning"] == ""
    assert memory_at(plan_70b(), 0.2)["kv_tokens"] == 0


@pytest.mark.parametrize("utilization", [0, -0.1, 1.01, True, "0.9"])
def test_a_utilization_that_is_none_is_refused(utilization: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"a number above 0, at most 1\. Remedy: set it to 0\.15"):
        memory_at(plan_7b(), utilization)


def test_the_table() -> None:
    assert memory_table(plan_7b(), "spark-1: mistral-7b, preset voice").splitlines() == [
        "spark-1: mistral-7b, preset voice",
        "  weights           3.87 GiB  *.safetensors",
        "  KV cache          8.00 GiB  8 sequences x 8192 tokens, 128 KiB a token",
        "  activations       3.00 GiB  and CUDA context",
        "  CUDA graphs       2.50 GiB",
        "  rounding up       0.58 GiB  to 0.15 of MemTotal; holds the one block vLLM keeps to itself",
        "  = engine         17.96 GiB  --gpu-memory-utilization 0.15",
        "  speech to text    0.50 GiB",
        "  text to speech    0.50 GiB",
        "  system           16.00 GiB  OS, Docker, the engine's host side, page cache",
        "  = planned        34.96 GiB",
        "  left             84.74 GiB",
        "  MemTotal        119.70 GiB",
    ]


# --- properties

CONFIGS = st.sampled_from([MISTRAL_7B, LLAMA3_70B])
SIZES = st.fixed_dictionaries(
    {
        "weights_bytes": st.integers(1, 200 * GIB),
        "memory_bytes": st.integers(GIB, 512 * GIB),
        "max_model_len": st.integers(1, 8192),
        "max_num_seqs": st.integers(1, 256),
        "stt_bytes": st.integers(0, 8 * GIB),
        "tts_bytes": st.integers(0, 8 * GIB),
        "os_bytes": st.integers(1, 32 * GIB),
        "activation_bytes": st.integers(0, 8 * GIB),
        "graph_bytes": st.integers(0, 8 * GIB),
        "kv_dtype_bytes": st.sampled_from([1, 2]),
    }
)
GROWING = st.sampled_from(["weights_bytes", "max_num_seqs", "max_model_len", "graph_bytes", "stt_bytes"])
PARTS = ("weights", "kv", "activation", "graph", "rounding")


@given(CONFIGS, SIZES)
def test_the_lines_add_up(config: dict[str, Any], sizes: dict[str, int]) -> None:
    plan = memory_plan(config, **sizes)
    assert sum(plan[f"{part}_bytes"] for part in PARTS) == plan["engine_bytes"]
    assert (
        plan["engine_bytes"] + sum(sizes[s] for s in ("stt_bytes", "tts_bytes", "os_bytes"))
        == plan["planned_bytes"]
    )
    assert plan["planned_bytes"] + plan["left_bytes"] == sizes["memory_bytes"]
    assert plan["fits"] == (plan["left_bytes"] >= 0) == (plan["refusal"] == "")
    assert plan["rounding_bytes"] >= plan["kv_cache_memory_bytes"] - plan["kv_bytes"] > 0
    assert not plan["fits"] or plan["gpu_memory_utilization"] < 1


@given(CONFIGS, SIZES)
def test_the_nearest_setting_fits_and_no_nearer_one_does(
    config: dict[str, Any], sizes: dict[str, int]
) -> None:
    plan = memory_plan(config, **sizes)
    if plan["fits"]:
        assert plan["nearest"] is None
        return
    one = {**sizes, "max_num_seqs": 1}
    if (nearest := plan["nearest"]) is None:
        assert not memory_plan(config, **{**one, "max_model_len": min(1024, sizes["max_model_len"])})["fits"]
        return
    near = {**sizes, **nearest}
    assert memory_plan(config, **near)["fits"]
    if nearest["max_model_len"] == sizes["max_model_len"]:
        assert nearest["max_num_seqs"] < sizes["max_num_seqs"]
        assert not memory_plan(config, **{**near, "max_num_seqs": nearest["max_num_seqs"] + 1})["fits"]
    else:
        assert nearest["max_num_seqs"] == 1 and 0 < nearest["max_model_len"] < sizes["max_model_len"]
        assert not memory_plan(config, **one)["fits"]
        longer = min(nearest["max_model_len"] + 1024, sizes["max_model_len"])
        assert not memory_plan(config, **{**near, "max_model_len": longer})["fits"]


@given(
    CONFIGS,
    SIZES,
    GROWING,
    st.data(),
)
def test_more_never_takes_less(config: dict[str, Any], sizes: dict[str, int], what: str, data: Any) -> None:
    most = 8192 if what == "max_model_len" else 2 * sizes[what] + 1
    more = {**sizes, what: data.draw(st.integers(sizes[what], most))}
    small, large = memory_plan(config, **sizes), memory_plan(config, **more)
    assert large["gpu_memory_utilization"] >= small["gpu_memory_utilization"]
    assert large["planned_bytes"] >= small["planned_bytes"]
    assert small["fits"] or not large["fits"]


@given(CONFIGS, SIZES, st.text(max_size=300))
def test_the_table_keeps_its_width(config: dict[str, Any], sizes: dict[str, int], title: str) -> None:
    plan = memory_plan(config, **sizes)
    assert max(map(len, memory_table(plan, title).splitlines())) <= TABLE_WIDTH
    assert max(map(len, memory_at(plan, 0.9)["warning"].splitlines()), default=0) <= TABLE_WIDTH
