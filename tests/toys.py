"""Small desks, sessions and policies, shared by the tests of everything that learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from handrail.agents.policy import Policy, PolicyConfig, build_policy
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.envs.schema import (
    Action,
    Constraint,
    Control,
    Event,
    Message,
    Result,
    Session,
    Step,
    UIState,
)

FORM = Control(
    "book",
    "form",
    fields=(
        Control("Name", "text"),
        Control("Day", "select", options=("Monday", "Tuesday", "Tuesday night")),
        Control("Urgent", "checkbox"),
        Control("Guests", "number"),
    ),
)
DESK = (
    Control("hello", "template", label="Hello!"),
    Control("hello_again", "template", label="Hello again!"),
    Control("bye", "template", label="Bye."),
    Control("chat", "message_box"),
    FORM,
    Control("returns", "tab"),
    Control("results", "table"),
    Control("hidden", "template", enabled=False),
)
WORDS = ("red", "green", "blue", "John", "Chase", "büro", "0314", "12", "room", "please")


def random_session(
    rng: np.random.Generator, name: str, steps: int = 5, controls: tuple[Control, ...] = DESK
) -> Session:
    """A session of random words and actions that `DESK` offers."""

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, most + 1)))

    def action() -> Action:
        kind = rng.integers(6)
        if kind == 0:
            return Action("send_message", "chat", {"text": words(4)})
        if kind == 1:
            args: dict[str, Any] = {"Name": words(2), "Day": str(rng.choice(FORM.fields[1].options))}
            if rng.random() < 0.5:
                args["Urgent"] = bool(rng.random() < 0.5)
            if rng.random() < 0.5:
                args["Guests"] = Constraint("is_at_most", int(rng.integers(9)))
            return Action("submit_form", "book", args)
        if kind == 2:
            return Action("open_procedure", "returns")
        if kind == 3:
            return Action("select_item", "results", {"result": int(rng.integers(1, 4))})
        return Action("send_reply", str(rng.choice(["hello", "hello_again", "bye"])))

    made = []
    for index in range(steps):
        events: list[Event] = [Message("customer", words(6))]
        if rng.random() < 0.3:
            events.append(Result("book", {"Name": words(1), "id": int(rng.integers(99))}))
        one = action()
        made.append(
            Step(
                index,
                UIState("desk", "booking", controls),
                tuple(events),
                one,
                critical=one.tool in ("send_reply", "send_message", "submit_form"),
            )
        )
    return Session(name, "toy", "booking", "ann", brief="Help.", steps=tuple(made))


def random_sessions(seed: int, count: int, steps: int = 5) -> list[Session]:
    """Sessions of random words and actions."""
    rng = np.random.default_rng(seed)
    return [random_session(rng, f"s{number}", steps) for number in range(count)]


def colour_sessions(seed: int, count: int, steps: int = 4, shuffled: bool = False) -> list[Session]:
    """Sessions with a rule: the reply is the colour the customer names (any colour, if shuffled)."""
    rng = np.random.default_rng(seed)
    colours = ("red", "green", "blue")
    desk = tuple(Control(colour, "template") for colour in colours)
    found = []
    for number in range(count):
        made = []
        for index in range(steps):
            said = str(rng.choice(colours))
            reply = str(rng.choice(colours)) if shuffled else said
            event = Message("customer", f"{rng.choice(['the', 'a', 'some'])} {said} one please")
            made.append(Step(index, UIState("desk", None, desk), (event,), Action("send_reply", reply), critical=True))
        found.append(Session(f"c{number}", "toy", "colours", "ann", steps=tuple(made)))
    return found


def tiny_policy(
    sessions: list[Session], seed: int = 0, transcript: TranscriptConfig | None = None, **shape: Any
) -> Policy:
    """An untrained policy of hidden size 32 and two layers, its tokenizer trained on `sessions`."""
    writer = Transcript(transcript)
    texts = ["".join(span.text for span in writer.spans(session)) for session in sessions]
    config = dataclasses.replace(
        PolicyConfig(vocab_size=500, hidden_size=32, layers=2, heads=2, feed_forward=2, max_length=512), **shape
    )
    policy = build_policy(config, writer, texts, seed)
    policy.model.eval()
    return policy


def sharpen(policy: Policy, inner: float = 12.0, outer: float = 12.0) -> Policy:
    """Scale an untrained policy's weights up, so that what it prefers is clear and depends on what it has read.

    In double precision, so that two ways to compute the same preferences agree on which is the first.
    """
    import torch

    model: Any = policy.model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(outer if "embed" in name else inner)
    model.double()
    return policy
