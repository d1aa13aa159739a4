"""Attention in float32 inside bfloat16 training, where a processor is faster that way.

torch's attention kernel for CPUs gains nothing from bfloat16 on short sequences: a batch of sessions of a simulated
desk takes 0.12 to 0.15 s with float32 attention and 0.14 to 0.21 s without, most of it when another process has the
other core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_SDPA, _FLOAT32 = "sdpa", "sdpa_float32"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend in float32, as `transformers` does by its `sdpa`, and return what was found in the type of `query`."""
    with torch.autocast(query.device.type, enabled=False):
        found, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return found.to(query.dtype), None


AttentionInterface.register(_FLOAT32, attend)
AttentionMaskInterface.register(_FLOAT32, sdpa_mask)


@contextmanager
def float32_attention(model: torch.nn.Module) -> Iterator[None]:
    """Let the transformers in a model attend in float32 for a while, those that attend by torch's kernel."""
    found = [
        one for one in model.modules() if isinstance(one, PreTrainedModel) and one.config._attn_implementation == _SDPA
    ]
    for one in found:
        one.set_attn_implementation(_FLOAT32)
    try:
        yield
    finally:
        for one in found:
            one.set_attn_implementation(_SDPA)
