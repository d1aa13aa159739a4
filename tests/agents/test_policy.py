"""Policies: built from scratch, saved and loaded, and adapted from a folder with LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy, PolicyConfig, build_policy
from handrail.agents.transcript import MARKERS, Transcript, TranscriptConfig
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import fine_tune
from handrail.envs.errors import HandrailError

SESSIONS = random_sessions(0, 12)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    model: Any = policy.model
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_saved_and_loaded_it_suggests_the_same(tmp_path: Path) -> None:
    config = TranscriptConfig("stepwise", window=7, operator=False, controls="ids", result_fields=2)
    policy = sharpen(tiny_policy(SESSIONS, transcript=config, max_length=300))
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy")
    assert loaded.transcript.config == config
    assert loaded.max_length == 300
    assert not loaded.model.training
    text = "<|customer|>Büro 0314,  o'clock 聊天 😀<|is|>Ünknown"
    assert loaded.encoder.tokens(text) == policy.encoder.tokens(text)
    mine, theirs = (Decoder(p).suggest(SESSIONS[:3]) for p in (policy, loaded))
    assert mine == theirs
    assert len({s.action.tool for s in mine}) > 1


def test_a_folder_without_a_policy_is_told(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match=r"holds no policy: transcript\.json is missing"):
        Policy.load(tmp_path)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (weights(tiny_policy(SESSIONS, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_model_built_here_has_the_shape_asked_for() -> None:
    policy = tiny_policy(SESSIONS)
    config: Any = policy.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 2, 64)
    assert config.vocab_size == len(policy.tokenizer) <= 500
    assert policy.encoder.marker_length(f"{MARKERS[0]}x") == 1


def test_an_unknown_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match=r"policy\.model=.*nowhere.*could not be loaded.*policy=tiny"):
        build_policy(PolicyConfig(model=str(tmp_path / "nowhere")), Transcript(), [], 0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with a byte-level tokenizer that knows nothing of transcripts, as from a hub."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["hello room please"], trainer)
    folder = tmp_path_factory.mktemp("hub") / "tiny-qwen2"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(shape).save_pretrained(folder)
    return folder


def short_training(folder: Path, policy: Policy, **options: Any) -> dict[str, float]:
    training = TrainingConfig(epochs=1.0, token_budget=1500, learning_rate=1e-2, save_steps=0, **options)
    return fine_tune(policy, SESSIONS, SFTConfig(training, context_weight=0.0), folder, seed=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_lora_trains_and_is_saved_merged(tmp_path: Path, pretrained: Path, optimizer: str) -> None:
    policy = build_policy(PolicyConfig(model=str(pretrained), lora_rank=4, max_length=600), Transcript(), [], 0)
    assert all(policy.encoder.marker_length(marker) == 1 for marker in MARKERS)
    before = weights(policy)
    trainable = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora" in name or "trainable_tokens" in name for name in trainable)
    summary = short_training(tmp_path / "training", policy, optimizer=optimizer)
    assert summary["steps"] >= 2
    after = weights(policy)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("lora_B" in name for name in changed)
    assert any("trainable_tokens" in name for name in changed), "the markers' embeddings are learned"
    assert all("lora" in name or "trainable_tokens" in name for name in changed)
    expected = Decoder(policy).suggest(SESSIONS[:2])
    policy.save(tmp_path / "policy")
    assert Decoder(policy).suggest(SESSIONS[:2]) == expected, "saving leaves the adapters as they were"
    loaded = Policy.load(tmp_path / "policy")
    assert not hasattr(loaded.model, "peft_config")
    for mine, theirs in zip(expected, Decoder(loaded).suggest(SESSIONS[:2]), strict=True):
        assert (mine.action, mine.tokens) == (theirs.action, theirs.tokens)
        assert mine.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)


def test_all_weights_of_a_named_model_are_trained(tmp_path: Path, pretrained: Path) -> None:
    policy = build_policy(PolicyConfig(model=str(pretrained), max_length=600), Transcript(), [], 0)
    assert policy.tokenizer.pad_token is not None
    before = weights(policy)
    short_training(tmp_path, policy, optimizer="adamw")
    after = weights(policy)
    assert all(not torch.equal(before[name], after[name]) for name in after if "bias" not in name)


def test_the_dtype_asked_for(pretrained: Path) -> None:
    policy = build_policy(PolicyConfig(model=str(pretrained), dtype="bfloat16", max_length=600), Transcript(), [], 0)
    assert policy.model.dtype == torch.bfloat16
    assert len(Decoder(policy).suggest(SESSIONS[:1])) == 5
