"""The tokenizer trained on the training split."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.agents.tokenizer import train_tokenizer
from handrail.agents.transcript import CUSTOMER, END, IS, JSON, MARKERS, PAD
from handrail.envs.normalize import normalize_text

TEXTS = [f"<|customer|>please book room {n} for john smith<|action|>submit_form book<|end|>" for n in range(20)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 500, min_frequency=2)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_markers_are_single_tokens_wherever_they_stand(tokenizer: Any) -> None:
    for marker in MARKERS:
        (alone,) = ids(tokenizer, marker)
        assert ids(tokenizer, f"room{marker}room").count(alone) == 1
        assert tokenizer.decode([alone]) == marker
    assert len({tuple(ids(tokenizer, marker)) for marker in MARKERS}) == len(MARKERS)
    assert tokenizer.pad_token_id == ids(tokenizer, PAD)[0]
    assert tokenizer.eos_token_id == ids(tokenizer, END)[0]


@pytest.mark.parametrize("word", ["john", "smith", "room", "never seen before", "7", "0314", "büro", "😀"])
def test_a_word_is_the_same_tokens_after_a_space_and_after_a_marker(tokenizer: Any, word: str) -> None:
    after_marker = ids(tokenizer, IS + word)[1:]
    in_a_message = ids(tokenizer, f"{CUSTOMER}my word is {word}")
    assert in_a_message[-len(after_marker) :] == after_marker
    assert ids(tokenizer, f"{IS}{JSON}{word}")[2:] == after_marker
    assert ids(tokenizer, word) == after_marker


def test_merges_are_learned_and_the_vocabulary_is_bounded(tokenizer: Any) -> None:
    assert len(ids(tokenizer, "please")) == 1
    assert len(tokenizer) <= 500
    rare = train_tokenizer([*TEXTS, "zebra"], 500, min_frequency=2)
    assert len(ids(rare, "zebra")) > 1


@pytest.mark.parametrize(
    "text",
    [
        "Hello  World",
        " padded ",
        "3,000.50",
        "a_b",
        "o'clock?",
        "büro 聊天 😀👍🏽",
        "Ｆｕｌｌ",
        "a\n\tb",
        "e\u0301",
        "▁",
    ],
)
def test_text_comes_back_up_to_case_and_white_space(tokenizer: Any, text: str) -> None:
    assert normalize_text(tokenizer.decode(ids(tokenizer, text))) == normalize_text(text).replace("▁", "")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<>"), max_size=30))
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    once = tokenizer.decode(ids(tokenizer, text))
    assert re.sub(r"\s+", "", normalize_text(once)) == re.sub(r"\s+", "", normalize_text(text))
    assert tokenizer.decode(ids(tokenizer, once)) == once


def test_the_same_texts_give_the_same_tokenizer(tokenizer: Any) -> None:
    again = train_tokenizer(TEXTS, 500, min_frequency=2)
    assert again.get_vocab() == tokenizer.get_vocab()
