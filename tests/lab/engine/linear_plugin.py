"""Plugin for vLLM 0.11 on x86 CPUs: linear layers (4-bit GPTQ too) in float32 by torch.

vLLM's CPU build takes IPEX's reference path for them, four times slower with AVX-512 and worse without. Only
the matrix product is replaced: scheduler, loader, API server, sampler, attention, flags and tokenizer stay
vLLM's own. Runs inside the engine image, found by its entry point.
"""

from __future__ import annotations

from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
import torch.nn.functional as functional  # type: ignore[import-not-found,unused-ignore]

_DISPATCHER = "dispatch_cpu_unquantized_gemm"


def dequantise(qweight: Any, scales: Any, qzeros: Any, g_idx: Any, group_size: int) -> Any:
    """GPTQ v1, 4 bits: qweight [K/8,N] int32, scales [G,N], qzeros [G,N/8] (less one) -> [N,K] float32."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes = ((qweight.unsqueeze(1) >> shifts.view(1, 8, 1)) & 15).reshape(-1, qweight.size(1)).float()
    inputs = codes.size(0)
    if g_idx is None or g_idx.numel() == 0:
        g_idx = torch.arange(inputs) // (inputs if group_size == -1 else group_size)
    zeros = ((qzeros.unsqueeze(2) >> shifts.view(1, 1, 8)) & 15).reshape(qzeros.size(0), -1) + 1
    groups = g_idx.long()
    return ((codes - zeros.float()[groups]) * scales.float()[groups]).t().contiguous()


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """The layer in float32, its result in the type of its input."""
    return functional.linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)


def _dispatch(layer: Any, remove_weight: bool) -> None:
    weight = layer.weight.detach()
    if weight.ndim != 2 or weight.is_meta:
        layer.cpu_linear = functional.linear
        return
    weight = weight.float().contiguous()
    if remove_weight:
        layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
    layer.cpu_linear = lambda x, _weight, bias: linear(x, weight, bias)


def _load(self: Any, layer: Any) -> None:
    config = self.quant_config
    g_idx = layer.g_idx.data if config.desc_act else None
    layer.weight32 = dequantise(
        layer.qweight.data, layer.scales.data, layer.qzeros.data, g_idx, config.group_size
    )
    for name in ("qweight", "scales", "qzeros", "g_idx"):
        setattr(layer, name, torch.nn.Parameter(torch.empty(0), requires_grad=False))


def _apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
    return linear(x, layer.weight32, bias)


def register() -> None:
    """Called by vLLM in each of its processes."""
    from vllm.model_executor.layers import linear as linears  # type: ignore[import-not-found,unused-ignore]
    from vllm.model_executor.layers import utils, vocab_parallel_embedding
    from vllm.model_executor.layers.quantization.ipex_quant import (  # type: ignore[import-not-found,unused-ignore]
        IPEXGPTQLinearMethod,
    )

    for module in (utils, linears, vocab_parallel_embedding):
        if hasattr(module, _DISPATCHER):
            setattr(module, _DISPATCHER, _dispatch)
    IPEXGPTQLinearMethod.process_weights_after_loading = _load
    IPEXGPTQLinearMethod.apply = _apply
