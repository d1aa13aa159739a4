"""A policy: a causal language model, its tokenizer, and how it reads a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from handrail.agents.encoding import Encoder
from handrail.agents.transcript import MARKERS, Transcript, TranscriptConfig
from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TRANSCRIPT_FILE = "transcript.json"
_OWN = "issues"


@dataclass(frozen=True)
class PolicyConfig:
    """Which model.

    Attributes:
        model: a hub id or folder that `transformers` loads; `None` builds a Qwen2 from scratch with a tokenizer
            trained on the training split.
        vocab_size: tokens of a tokenizer trained here.
        digits: most digits of a number that one token of that tokenizer stands for; `None` lets its merges decide.
        hidden_size, layers, heads, feed_forward: shape of a model built here; `feed_forward` is a multiple of
            `hidden_size`.
        max_length: longest window of a transcript, in tokens.
        lora_rank: rank of LoRA adapters on all linear layers; 0 trains all weights. The transcript's markers are new
            tokens, whose embeddings are trained either way.
        lora_alpha: their scale.
        dtype: `auto`, `float32` or `bfloat16`: how the weights are held.
    """

    model: str | None = None
    vocab_size: int = 4096
    digits: int | None = None
    hidden_size: int = 192
    layers: int = 4
    heads: int = 4
    feed_forward: int = 3
    max_length: int = 4096
    lora_rank: int = 0
    lora_alpha: int = 32
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "feed_forward", "max_length"):
            if getattr(self, name) < 1:
                raise HandrailError(f"policy.{name}={getattr(self, name)}: expected at least 1")
        if self.digits is not None and self.digits < 1:
            raise HandrailError(f"policy.digits={self.digits}: expected at least 1, or null for what merges make of it")
        if self.lora_rank < 0 or self.lora_alpha <= 0:
            raise HandrailError(
                f"policy.lora_rank={self.lora_rank}, policy.lora_alpha={self.lora_alpha}: expected a rank of at least "
                "0 and a scale above 0; lora_rank=0 trains all weights"
            )
        if self.model is None and self.lora_rank:
            raise HandrailError(
                f"policy.lora_rank={self.lora_rank} with policy.model=null: expected a pretrained model to adapt; give "
                "policy.model=ORG/NAME, or policy.lora_rank=0"
            )
        if self.model is None and self.hidden_size % (2 * self.heads):
            raise HandrailError(
                f"policy.hidden_size={self.hidden_size}, policy.heads={self.heads}: expected a hidden size that is a "
                "multiple of twice the heads (rotary positions come in pairs)"
            )


class Policy:
    """A language model that writes the next action of a transcript.

    Attributes:
        model: a causal LM of `transformers`, possibly wrapped by `peft`.
        tokenizer: its tokenizer.
        transcript: how sessions are written.
        encoder: transcripts to tokens, with a memory of spans.
        max_length: longest window, in tokens.
        own: issue -> the policy that works it, which reads as this one does; other issues are worked by `model`.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, transcript: Transcript, max_length: int
    ) -> None:
        self.model, self.tokenizer, self.transcript, self.max_length = model, tokenizer, transcript, max_length
        self.encoder = Encoder(tokenizer)
        self.own: Mapping[str, Policy] = {}

    def reading_alike(self, model: PreTrainedModel) -> Policy:
        """Return a policy of another model of the same tokenizer, which shares the memory of spans."""
        other = Policy(model, self.tokenizer, self.transcript, self.max_length)
        other.encoder = self.encoder
        return other

    def specialised(self, own: Mapping[str, Policy]) -> Policy:
        """Return this policy with others for some issues.

        Args:
            own: issue -> policy, of `reading_alike`.
        """
        whole = self.reading_alike(self.model)
        whole.own = dict(own)
        return whole

    def shared_out(self, issues: Sequence[str]) -> list[tuple[Policy, list[int]]]:
        """Return who works what: policies without others, each with the places of its sessions.

        Args:
            issues: of sessions, by place.
        """
        places: dict[str, list[int]] = {}
        for place, issue in enumerate(issues):
            places.setdefault(issue if issue in self.own else "", []).append(place)
        pooled = self.reading_alike(self.model) if self.own else self
        return [(self.own.get(issue, pooled), mine) for issue, mine in places.items()]

    def to(self, device: str) -> Policy:
        """Move all models to a device and return the policy."""
        for one in (self, *self.own.values()):
            one.model.to(device)  # type: ignore[arg-type]
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def body(self) -> Any:
        """The transformer without its head, adapters included."""
        model: Any = self.model
        return (model.get_base_model() if hasattr(model, "peft_config") else model).base_model

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and transcript configuration to `folder`; LoRA adapters are merged first."""
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        if hasattr(model, "merge_and_unload"):
            import copy

            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        names = {issue: f"{number:03d}" for number, issue in enumerate(sorted(self.own))}
        for issue, name in names.items():
            self.own[issue].save(folder / _OWN / name)
        config = {"transcript": self.transcript.config.__dict__, "max_length": self.max_length, "own": names}
        write_json(folder / _TRANSCRIPT_FILE, config)

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """Read what `save` wrote.

        Raises:
            HandrailError: `folder` holds no policy.
        """
        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

        if not (folder / _TRANSCRIPT_FILE).is_file():
            raise HandrailError(
                f"{folder} holds no policy: {_TRANSCRIPT_FILE} is missing; name a folder checkpoints/policy of a "
                "finished run"
            )
        saved = msgspec.json.decode((folder / _TRANSCRIPT_FILE).read_bytes())
        model = AutoModelForCausalLM.from_pretrained(folder)
        # AutoTokenizer would rebuild the tokenizer that belongs to the model's family; tokenizer.json is the one saved.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        transcript = Transcript(TranscriptConfig(**saved["transcript"]))
        policy = cls(model.eval(), tokenizer, transcript, saved["max_length"])
        own = {issue: cls.load(folder / _OWN / name).model for issue, name in saved.get("own", {}).items()}
        return policy.specialised({issue: policy.reading_alike(model) for issue, model in own.items()})


def build_policy(config: PolicyConfig, transcript: Transcript, texts: Sequence[str], seed: int) -> Policy:
    """Build or load the model that `config` names, ready to be trained.

    Args:
        config: which model.
        transcript: how it reads sessions.
        texts: transcripts of the training split; a tokenizer built here is trained on them.
        seed: of the initial weights.

    Raises:
        HandrailError: the named model cannot be loaded.
    """
    import torch
    from transformers import set_seed

    set_seed(seed)
    if config.model is None:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from handrail.agents.tokenizer import train_tokenizer

        tokenizer: Any = train_tokenizer(texts, config.vocab_size, digits=config.digits)
        shape = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **config.extra,
        )
        return Policy(Qwen2ForCausalLM(shape), tokenizer, transcript, config.max_length)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model: Any = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype, **config.extra)
    except OSError as error:
        raise HandrailError(
            f"policy.model={config.model!r} could not be loaded: {str(error).splitlines()[0]}; "
            "name a folder with a model, a hub id that can be reached, or policy=tiny to build one here"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_tokens([m for m in MARKERS if m not in tokenizer.get_vocab()], special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
            trainable_token_indices=tokenizer.convert_tokens_to_ids(list(MARKERS)),
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, adapters)
    return Policy(model, tokenizer, transcript, config.max_length)
