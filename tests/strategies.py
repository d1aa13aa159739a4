"""Hypothesis strategies for Handrail's data types, shared by all tests."""

from __future__ import annotations

from hypothesis import strategies as st

from handrail.envs.normalize import same_action
from handrail.envs.schema import (
    Action,
    Constraint,
    Control,
    Feedback,
    Message,
    Provenance,
    Result,
    Session,
    Step,
    UIState,
)

text = st.text(max_size=20)
ids = st.one_of(st.sampled_from(["reply_1", "reply_2", "form.name", "büro", "聊天"]), st.text(min_size=1, max_size=12))
numbers = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, text)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)
records = st.dictionaries(text, json_values, max_size=4)
constraints = st.one_of(
    st.builds(Constraint, st.sampled_from(["is_at_most", "is_not", "is_equal_to"]), scalars),
    st.builds(Constraint, st.just("is_one_of"), st.lists(text, max_size=3)),
)
joined = st.builds(Constraint, st.just("all_of"), st.lists(st.one_of(scalars, constraints), min_size=1, max_size=3))
args = st.dictionaries(text, st.one_of(scalars, constraints, joined), max_size=4)
actions = st.builds(Action, tool=st.one_of(st.sampled_from(["send_reply", "submit_form"]), ids), target=text, args=args)


def _control(kinds: list[str], fields: st.SearchStrategy[tuple[Control, ...]]) -> st.SearchStrategy[Control]:
    return st.builds(
        Control,
        id=ids,
        kind=st.sampled_from(kinds),
        label=text,
        options=st.lists(text, max_size=3).map(tuple),
        required=st.booleans(),
        fields=fields,
        group=text,
        enabled=st.booleans(),
    )


_inputs = _control(["text", "number", "select", "checkbox"], st.just(()))
controls = st.lists(
    st.one_of(
        _control(["button", "template", "table", "tab", "message_box"], st.just(())),
        _control(["form"], st.lists(_inputs, max_size=3, unique_by=lambda c: c.id).map(tuple)),
    ),
    max_size=4,
    unique_by=lambda c: c.id,
).map(tuple)


@st.composite
def _feedback(draw: st.DrawFn, action: Action) -> Feedback | None:
    """Feedback on `action` whose verdict follows from the suggestion, as `validate` demands."""
    suggestion = draw(st.one_of(st.none(), st.just(action), actions))
    if suggestion is None and draw(st.booleans()):
        return None
    accepted = suggestion is not None and same_action(suggestion, action)
    return Feedback(
        suggestion=suggestion,
        verdict="accept" if accepted else "reject",
        correction=None if accepted else action,
        alternatives=tuple(draw(st.lists(actions, max_size=2))),
        source=draw(text),
    )


@st.composite
def sessions(draw: st.DrawFn, max_steps: int = 4, timed: bool | None = None) -> Session:
    """Any valid session: steps in order, times (where there are any) not going backwards, verdicts consistent.

    Args:
        draw: given by hypothesis.
        max_steps: the most steps a session has; the fewest is one.
        timed: whether every event and step has a time; drawn if None, and then some may lack one.
    """
    screens = draw(st.lists(controls, min_size=1, max_size=2))
    clock = draw(st.floats(0.0, 2e9))

    def now() -> float | None:
        nonlocal clock
        clock += draw(st.sampled_from([0.0, 0.25, 3.0, 60.0]))
        return clock if timed or (timed is None and draw(st.booleans())) else None

    def events() -> tuple[Message | Result, ...]:
        found: list[Message | Result] = []
        for _ in range(draw(st.integers(0, 2))):
            if draw(st.booleans()):
                found.append(Message(draw(st.sampled_from(["customer", "operator", "system"])), draw(text), now()))
            else:
                item = draw(st.one_of(st.none(), records))
                found.append(Result(draw(ids), item, draw(st.one_of(st.none(), st.integers(0, 99))), now()))
        return tuple(found)

    steps = []
    for index in range(draw(st.integers(1, max_steps))):
        state = UIState(
            screen=draw(ids),
            procedure=draw(st.one_of(st.none(), ids)),
            controls=draw(st.sampled_from(screens)),
            values=draw(args),
            selected=draw(st.one_of(st.none(), records)),
        )
        before, drafts = events(), draw(st.lists(st.builds(Message, st.just("operator"), text), max_size=2))
        action = draw(actions)
        steps.append(
            Step(
                index=index,
                state=state,
                events=before,
                action=action,
                actor=draw(st.sampled_from(["operator", "policy", "customer", "system"])),
                time=now(),
                critical=draw(st.booleans()),
                feedback=draw(_feedback(action)),
                drafts=tuple(drafts),
                provenance=draw(st.dictionaries(text, st.builds(Provenance, text, text), max_size=2)),
            )
        )
    return Session(
        id=draw(ids),
        source=draw(ids),
        issue=draw(ids),
        operator=draw(text),
        brief=draw(text),
        steps=tuple(steps),
        tail=events(),
        tags=draw(st.dictionaries(text, text, max_size=2)),
        outcome=draw(records),
        hidden=draw(records),
        file=draw(text),
    )
