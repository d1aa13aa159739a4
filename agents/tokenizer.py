"""A small tokenizer trained on the training split, for policies built from scratch.

Words carry a leading `▁` wherever they stand, also right after a marker, so that a value copied from a message into a
form field is the same tokens in both places; text is lower-cased, as the action normaliser does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from handrail.agents.transcript import END, MARKERS, PAD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORDS = r"▁?[\p{{L}}_][\p{{L}}\p{{M}}\p{{N}}_]*|▁?\p{{N}}{digits}|▁?[^\s\p{{L}}\p{{N}}▁]|▁"
_MARKER = re.compile("|".join(re.escape(marker) for marker in MARKERS))


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, min_frequency: int = 3, digits: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer.

    Args:
        texts: transcripts of the training split only.
        vocab_size: at most this many tokens, markers and bytes included.
        min_frequency: merges rarer than this are not made.
        digits: numbers are cut into pieces of so many digits from the left; `None` lets the merges decide. Short pieces
            are common ones, so a model soon learns to copy numbers that it has never seen.

    Returns:
        A `transformers` tokenizer; markers are single tokens, text round-trips up to case and white space.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(_WORDS.format(digits="+" if digits is None else f"{{1,{digits}}}")), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*MARKERS, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _MARKER.split(text) if piece), trainer)
    tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
