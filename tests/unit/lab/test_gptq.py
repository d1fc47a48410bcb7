"""The lab's GPTQ models: what is packed is what an engine unpacks; the files say what they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests.lab import gptq

Array = gptq.Array
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def reference(tensors: dict[str, Array]) -> Array:
    """GPTQ v1 weight by weight, as its format is described: (code - (zero + 1)) * scale -> [N,K]."""
    inputs, outputs = tensors["g_idx"].size, tensors["scales"].shape[1]
    weight = np.zeros((outputs, inputs), np.float32)
    for k in range(inputs):
        group = int(tensors["g_idx"][k])
        for n in range(outputs):
            code = int(tensors["qweight"][k // 8, n]) >> 4 * (k % 8) & 15
            zero = int(tensors["qzeros"][group, n // 8]) >> 4 * (n % 8) & 15
            weight[n, k] = (code - (zero + 1)) * np.float32(tensors["scales"][group, n])
    return weight


def random(*size: int) -> Array:
    return np.asarray(np.random.default_rng(7).standard_normal(size), np.float32)


def test_codes_survive_packing() -> None:
    codes = np.random.default_rng(1).integers(0, 16, (64, 24), np.uint8)
    packed = gptq.pack(codes)
    assert (packed.shape, packed.dtype.name) == ((8, 24), "int32")
    assert np.array_equal(gptq.unpack(packed), codes)


def test_the_first_code_lies_lowest() -> None:
    column = np.arange(8, dtype=np.uint8)[:, None]
    assert int(gptq.pack(column)[0, 0]) == 0x76543210
    assert int(gptq.pack(np.full((8, 1), 15))[0, 0]) == -1  # the sign bit is a bit like others


def test_tensors_have_the_shapes_of_the_format() -> None:
    tensors, _ = gptq.quantise(random(48, 128))
    shapes = {name: (value.shape, value.dtype.name) for name, value in tensors.items()}
    assert shapes == {
        "qweight": ((128 // 8, 48), "int32"),
        "qzeros": ((128 // gptq.GROUP, 48 // 8), "int32"),
        "scales": ((128 // gptq.GROUP, 48), "float16"),
        "g_idx": ((128,), "int32"),
    }
    assert tensors["g_idx"].tolist() == [k // gptq.GROUP for k in range(128)]


def test_an_engine_computes_with_nearly_these_weights() -> None:
    weight = random(48, 128)
    tensors, error = gptq.quantise(weight)
    seen = reference(tensors)
    assert np.array_equal(gptq.dequantise(tensors), seen)
    measured = ((seen - weight) ** 2).sum() / (weight**2).sum()
    assert measured == pytest.approx(error, rel=0.01)
    assert measured < 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_on_the_grid_are_kept_exactly(sign: int) -> None:
    codes = np.random.default_rng(2).integers(-7, 8, (16, 64))
    codes[:, ::32] = -8
    weight = (sign * codes * 0.0625).astype(np.float32)
    tensors, error = gptq.quantise(weight)
    assert error == 0
    assert np.array_equal(reference(tensors), weight)


def test_a_group_of_zeros_stays_zero() -> None:
    weight = random(16, 64)
    weight[3, :32] = 0
    tensors, error = gptq.quantise(weight)
    assert np.isfinite(error)
    assert not reference(tensors)[3, :32].any()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model."""
    gptq.tiny(out := tmp_path_factory.mktemp("tiny"))
    return out


@pytest.fixture(scope="module")
def original() -> dict[str, Array]:
    """Weights of a Llama of one layer, as published: hidden 64, inner 96, two heads, one key head."""
    rng = np.random.default_rng(3)
    sizes = {
        "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
        "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96),
    }  # fmt: skip
    weights = {f"blk.0.{name}.weight": rng.standard_normal(size) for name, size in sizes.items()}
    norms = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    weights |= {f"{name}.weight": rng.standard_normal(64) for name in norms}
    weights["token_embd.weight"] = rng.standard_normal((6, 64))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def permuted(weight: Array, heads: int) -> Array:
    """As a converter to GGUF stores queries and keys: the halves of each head's rows interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.transpose(0, 2, 1, 3).reshape(weight.shape))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, original: dict[str, Array]) -> tuple[Path, float]:
    """That Llama through a GGUF file (8 bits, as the published one) into a folder; and the error."""
    folder = tmp_path_factory.mktemp("gguf")
    writer = GGUFWriter(folder / "llama.gguf", "llama")
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_context_length(2048)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab"])
    writer.add_token_types([3, 3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    for name, weight in original.items():
        heads = {"blk.0.attn_q.weight": 2, "blk.0.attn_k.weight": 1}.get(name)
        stored = permuted(weight, heads) if heads else weight
        if weight.ndim == 1:
            writer.add_tensor(name, stored)
            continue
        eight = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(stored, eight), raw_dtype=eight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = gptq.smollm2(folder / "llama.gguf", folder / "out")
    return folder / "out", error


@pytest.fixture(params=["tiny", "converted"])
def model(request: pytest.FixtureRequest, tiny: Path, converted: tuple[Path, float]) -> Path:
    """Each of the models."""
    return tiny if request.param == "tiny" else converted[0]


def read(model: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((model / name).read_text())
    return document


def test_a_model_is_complete(model: Path) -> None:
    assert {p.name for p in model.iterdir()} == FILES


def test_it_says_that_it_is_a_mistral_in_four_bits(model: Path) -> None:
    config = read(model, "config.json")
    assert (config["architectures"], config["model_type"]) == (["MistralForCausalLM"], "mistral")
    assert config["quantization_config"] == read(model, "quantize_config.json")
    method = config["quantization_config"]
    assert (method["quant_method"], method["bits"], method["group_size"]) == ("gptq", 4, gptq.GROUP)
    assert (method["sym"], method["desc_act"], method["checkpoint_format"]) == (True, False, "gptq")


def test_its_tensors_are_those_that_its_config_asks_for(model: Path) -> None:
    config, tensors = read(model, "config.json"), load_file(model / "model.safetensors")
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    narrow = head * config["num_key_value_heads"]
    outputs_inputs = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    expected: dict[str, tuple[int, ...]] = {"model.norm.weight": (hidden,)}
    embeddings = ["model.embed_tokens"] + ["lm_head"] * (not config["tie_word_embeddings"])
    expected |= {f"{name}.weight": (config["vocab_size"], hidden) for name in embeddings}
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            expected[f"model.layers.{layer}.{norm}.weight"] = (hidden,)
        for name, (outputs, inputs) in outputs_inputs.items():
            place, groups = f"model.layers.{layer}.{name}", inputs // gptq.GROUP
            expected |= {f"{place}.qweight": (inputs // 8, outputs), f"{place}.scales": (groups, outputs)}
            expected |= {f"{place}.qzeros": (groups, outputs // 8), f"{place}.g_idx": (inputs,)}
    assert {name: value.shape for name, value in tensors.items()} == expected
    with safe_open(model / "model.safetensors", "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # loaders ask for it


def test_the_weights_went_through_gguf_unharmed(
    converted: tuple[Path, float], original: dict[str, Array]
) -> None:
    """Queries and keys are in their published order again, else every answer would be noise."""
    tensors = load_file(converted[0] / "model.safetensors")
    for theirs, ours in gptq.PROJECTIONS.items():
        mine = f"model.layers.0.{ours}."
        weight = reference({n.removeprefix(mine): t for n, t in tensors.items() if n.startswith(mine)})
        published = original[f"blk.0.{theirs}.weight"]
        assert ((weight - published) ** 2).sum() / (published**2).sum() < 0.01, theirs
    embedding = tensors["model.embed_tokens.weight"].astype(np.float32)
    assert np.abs(embedding - original["token_embd.weight"]).max() < 0.02
    assert converted[1] < 0.01


def test_the_tokenizer_reads_back_what_it_wrote(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    text = "<|im_start|>user\nGrüße, 北京!<|im_end|>\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    config, words = read(tiny, "config.json"), read(tiny, "tokenizer_config.json")
    assert tokenizer.token_to_id(words["bos_token"]) == config["bos_token_id"] == ids[0]
    assert tokenizer.token_to_id(words["eos_token"]) == config["eos_token_id"]
    assert max(ids) < config["vocab_size"] == tokenizer.get_vocab_size()


def test_the_random_model_is_the_same_every_time(tiny: Path, tmp_path: Path) -> None:
    """Its revision is made of its content: another build must not be another model."""
    gptq.tiny(tmp_path)
    one, two = (
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
        for folder in (tiny, tmp_path)
    )
    assert one == two


def render(model: Path, *roles: str, **more: Any) -> str:
    """The prompt, as an engine makes it out of the model's own template."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    jinja.globals["raise_exception"] = raise_exception
    template = jinja.from_string(read(model, "tokenizer_config.json")["chat_template"])
    messages = [{"role": role, "content": f"said {i}"} for i, role in enumerate(roles)]
    return template.render(messages=messages, **more)


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["system", "user"], "Only user and assistant roles are supported!"),
        (["tool"], "Only user and assistant roles are supported!"),
        (["assistant"], "must alternate"),
        (["user", "user"], "must alternate"),
        (["user", "assistant", "assistant"], "must alternate"),
    ],
)
def test_the_template_refuses_what_mistral_refuses(model: Path, roles: list[str], said: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=said):
        render(model, *roles)


def test_the_template_makes_a_prompt(tiny: Path, converted: tuple[Path, float]) -> None:
    turns = "<|im_start|>user\nsaid 0<|im_end|>\n<|im_start|>assistant\nsaid 1<|im_end|>\n"
    last = "<|im_start|>user\nsaid 2<|im_end|>\n"
    roles = ("user", "assistant", "user")
    assert render(tiny, *roles) == turns + last
    prompt = render(tiny, *roles, add_generation_prompt=True)
    assert prompt == f"{turns}{last}<|im_start|>assistant\n"
    trained_with = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    assert render(converted[0], *roles, add_generation_prompt=True) == trained_with + prompt
