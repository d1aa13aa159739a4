"""Attention in float32 inside bfloat16 training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from handrail.algorithms.attention import attend, float32_attention


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Qwen2ForCausalLM(shape).eval()


def test_what_is_found_is_that_of_float32_to_the_last_bit_of_bfloat16() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, generator=draw).bfloat16() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(torch.nn.Module(), query, key, value, None, scaling=8**-0.5)
    scores = query.double() @ key.double().transpose(2, 3) * 8**-0.5
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    by_hand = (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value.double()).transpose(1, 2)
    assert found.dtype == torch.bfloat16
    # Sums in another order may round a value the other way: half of a unit in the last place, 2^-9, and as much again.
    assert torch.allclose(found.double(), by_hand, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_says_the_same_in_float32_however_it_attends(model: Any, padded: bool) -> None:
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]]) if padded else None
    before = model(input_ids=ids, attention_mask=mask).logits
    with float32_attention(model):
        assert model.config._attn_implementation == "sdpa_float32"
        within = model(input_ids=ids, attention_mask=mask).logits
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(within, before)


def test_a_transformer_inside_another_module_is_found(model: Any) -> None:
    plain = torch.nn.Linear(2, 2)
    with float32_attention(torch.nn.ModuleList([plain, model.base_model])):
        assert model.config._attn_implementation == "sdpa_float32"
    with float32_attention(plain):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_other_kinds_of_attention_stay(model: Any) -> None:
    model.set_attn_implementation("eager")
    with float32_attention(model):
        assert model.config._attn_implementation == "eager"


def test_a_training_that_fails_leaves_the_model_as_it_was(model: Any) -> None:
    with pytest.raises(RuntimeError), float32_attention(model):
        raise RuntimeError("out of memory")
    assert model.config._attn_implementation == "sdpa"
