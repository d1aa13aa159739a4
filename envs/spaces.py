"""Gymnasium spaces of structured things: what a policy sees, and what it may do.

A screen with its controls, the chat and the steps before it do not fit arrays or bounded strings, so observations and
actions are the project's own structs and the spaces know how to sample, check, seed, serialise and batch them. Two
spaces of one kind are equal because they hold the same set; what they sample from is a matter of taste, kept in a
`Catalogue`.

In vector environments a batch is a tuple, one element per environment. `AsyncVectorEnv` works with `shared_memory`
on (elements are decoded from the shared block when the batch is read or copied) and off.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, overload

import gymnasium
import msgspec
import numpy as np
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Arg, Control, Event, Message, Session, Step, UIState

SHARED_BYTES = 1 << 20
"""Room for one pickled observation in the shared memory of an `AsyncVectorEnv`."""

_HEADER = 8
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What a policy may see when it has to decide, and nothing that becomes known later.

    The parts are shared with the sessions they come from: read them, never change the dicts inside.
    `msgspec.json.encode` and `msgspec.json.decode(type=Observation)` turn it to text and back.

    Attributes:
        issue: the kind of case.
        brief: what the operator was told before the first event.
        index: position in the session, counted in steps from 0; `len(history)`.
        state: the screen.
        events: what became visible since the last step of `history`, in order.
        history: all earlier steps, whoever acted. Each holds the events before it, so the events of `history` and
            `events` together are every event so far, once.
    """

    issue: str
    brief: str
    index: int
    state: UIState
    events: tuple[Event, ...] = ()
    history: tuple[Step, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Observation:
        # Vector environments deep-copy every batch, which would copy all of the history at each step.
        return self


@dataclass(frozen=True)
class Catalogue:
    """The screens and tools that the spaces sample from.

    Attributes:
        screens: distinct screens.
        tools: by kind of control, the tools that were used on it; under `""` those used without a control.
        names: by tool, the arguments it was given, for controls that have no fields.
    """

    screens: tuple[UIState, ...] = ()
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Catalogue:
        return self

    @classmethod
    def of(cls, sessions: Iterable[Session]) -> Catalogue:
        """Collect the distinct screens of `sessions` (without their contents) and the tools that operators used."""
        screens: dict[tuple[str, int], UIState] = {}
        kinds: dict[int, dict[str, str]] = {}
        tools: dict[str, set[str]] = {}
        names: dict[str, set[str]] = {}
        for session in sessions:
            for step in session.steps:
                state, action = step.state, step.action
                if (state.screen, id(state.controls)) not in screens:
                    screens[state.screen, id(state.controls)] = UIState(state.screen, state.procedure, state.controls)
                    kinds[id(state.controls)] = {control.id: control.kind for control in state.controls}
                if step.actor == "operator":
                    tools.setdefault(kinds[id(state.controls)].get(action.target, ""), set()).add(action.tool)
                    names.setdefault(action.tool, set()).update(action.args)
        return cls(tuple(screens.values()), _sorted(tools), _sorted(names))


def to_action(given: Action | Mapping[str, Any]) -> Action:
    """Return `given` as an `Action`.

    Args:
        given: an action, or a mapping with `tool` and optionally `target` and `args`.

    Raises:
        HandrailError: it is neither, or a part has the wrong type.
    """
    if isinstance(given, Action):
        return given
    if not isinstance(given, Mapping):
        raise HandrailError(
            "an action must be an Action or a mapping of tool, target and args, "
            f"got {type(given).__name__}: {given!r:.200}"
        )
    unknown = sorted(str(key) for key in given if key not in _ACTION_KEYS)
    if unknown:
        raise HandrailError(f"an action has tool, target and args, but {given!r:.200} has {', '.join(unknown)}")
    try:
        return msgspec.convert(given, Action)
    except msgspec.ValidationError as error:
        raise HandrailError(f"{given!r:.200} is no action: {error}") from None


class ActionSpace(gymnasium.Space[Action]):
    """All actions: a tool, a target and arguments by name.

    Any well-formed action is an element, whether or not the current screen offers it: what an impossible action does
    is for the environment to say. Plain mappings with the same keys are elements too.

    Args:
        catalogue: what to sample from.
        seed: seed or generator of `sample`.
    """

    def __init__(self, catalogue: Catalogue | None = None, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(seed=seed)
        self.catalogue = catalogue or Catalogue()

    @property
    def is_np_flattenable(self) -> bool:
        """False: an action is no array."""
        return False

    def sample(self, mask: Observation | UIState | None = None, probability: None = None) -> Action:
        """Draw an action: a tool uniformly among those possible, then a control it works on, then arguments.

        A form gets all of its required fields and each other field with probability 1/2; a select gets one of its
        options, other inputs random content.

        Args:
            mask: the screen, or the observation that shows it, whose controls the action may name. If left out, a
                screen of the catalogue is drawn.
            probability: not supported.

        Raises:
            HandrailError: `probability` was given, or `mask` is no screen.
        """
        if probability is not None:
            raise HandrailError("ActionSpace.sample takes no probability; pass the screen as mask")
        state = mask.state if isinstance(mask, Observation) else mask
        if state is None:
            state = _screen(self.np_random, self.catalogue)
        elif not isinstance(state, UIState):
            raise HandrailError(f"mask must be an Observation or a UIState, got {type(mask).__name__}")
        return _action(self.np_random, self.catalogue, state)

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is an action, or a mapping that `to_action` accepts."""
        if not isinstance(x, Action):
            try:
                x = to_action(x)
            except HandrailError:
                return False
        return isinstance(x.tool, str) and isinstance(x.target, str) and isinstance(x.args, dict)

    def to_jsonable(self, sample_n: Sequence[Action]) -> list[Any]:
        """Return the actions as plain dicts and lists."""
        return cast("list[Any]", msgspec.to_builtins(list(sample_n)))

    def from_jsonable(self, sample_n: list[Any]) -> list[Action]:
        """Return what `to_jsonable` was given."""
        return msgspec.convert(sample_n, list[Action])

    def __eq__(self, other: object) -> bool:
        """Two action spaces hold the same actions."""
        return isinstance(other, ActionSpace)

    def __repr__(self) -> str:
        """Name the space."""
        return "ActionSpace(tool, target, args)"


class ObservationSpace(gymnasium.Space[Observation]):
    """All observations.

    Args:
        catalogue: what to sample from.
        seed: seed or generator of `sample`.
    """

    def __init__(self, catalogue: Catalogue | None = None, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(seed=seed)
        self.catalogue = catalogue or Catalogue()

    @property
    def is_np_flattenable(self) -> bool:
        """False: an observation is no array."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> Observation:
        """Draw an observation: up to three random steps and messages on screens of the catalogue.

        Raises:
            HandrailError: a mask or probability was given; there is nothing to mask.
        """
        if mask is not None or probability is not None:
            raise HandrailError("ObservationSpace.sample takes neither mask nor probability")
        rng = self.np_random
        history = []
        for index in range(rng.integers(4)):
            state = _screen(rng, self.catalogue)
            history.append(Step(index, state, _events(rng), _action(rng, self.catalogue, state)))
        return Observation(
            issue=_word(rng),
            brief=_word(rng),
            index=len(history),
            state=_screen(rng, self.catalogue),
            events=_events(rng),
            history=tuple(history),
        )

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is an observation whose parts have the right types and whose index fits its history."""
        return (
            isinstance(x, Observation)
            and isinstance(x.state, UIState)
            and isinstance(x.events, tuple)
            and isinstance(x.history, tuple)
            and x.index == len(x.history)
        )

    def to_jsonable(self, sample_n: Sequence[Observation]) -> list[Any]:
        """Return the observations as plain dicts and lists."""
        return cast("list[Any]", msgspec.to_builtins(list(sample_n)))

    def from_jsonable(self, sample_n: list[Any]) -> list[Observation]:
        """Return what `to_jsonable` was given."""
        return msgspec.convert(sample_n, list[Observation])

    def __eq__(self, other: object) -> bool:
        """Two observation spaces hold the same observations."""
        return isinstance(other, ObservationSpace)

    def __repr__(self) -> str:
        """Name the space."""
        return "ObservationSpace(issue, brief, index, state, events, history)"


class SharedBatch(Sequence[Observation]):
    """A batch of observations that lie in shared memory.

    Elements are decoded when they are read, so it shows what the environments wrote last. A deep copy is a plain tuple.

    Args:
        memory: what `create_shared_memory` returned for an `ObservationSpace`.
        n: number of environments.
    """

    def __init__(self, memory: Any, n: int) -> None:
        self._memory = memory
        self._n = n

    def __len__(self) -> int:
        """Number of environments."""
        return self._n

    @overload
    def __getitem__(self, index: int) -> Observation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Observation, ...]: ...
    def __getitem__(self, index: int | slice) -> Observation | tuple[Observation, ...]:
        """Decode one observation, or several."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._n)))
        if not -self._n <= index < self._n:
            raise IndexError(f"environment {index} of {self._n}")
        block = _block(self._memory, index % self._n)
        size = int.from_bytes(block[:_HEADER], "little")
        if not size:
            raise HandrailError(f"environment {index} has not written an observation yet; call reset first")
        return cast("Observation", pickle.loads(block[_HEADER : _HEADER + size]))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[Observation, ...]:
        return tuple(self)


@create_shared_memory.register(ObservationSpace)
def _create_shared(space: ObservationSpace, n: int = 1, ctx: Any = None) -> Any:
    return ctx.Array("B", n * (_HEADER + SHARED_BYTES))


@read_from_shared_memory.register(ObservationSpace)
def _read_shared(space: ObservationSpace, shared_memory: Any, n: int = 1) -> SharedBatch:
    return SharedBatch(shared_memory, n)


@write_to_shared_memory.register(ObservationSpace)
def _write_shared(space: ObservationSpace, index: int, value: Observation, shared_memory: Any) -> None:
    # Pickle stores an object that is referred to twice once: the controls that many steps share make up most of it.
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    if len(data) > SHARED_BYTES:
        raise HandrailError(
            f"an observation of {len(data)} bytes does not fit the {SHARED_BYTES} bytes of shared memory that an "
            "environment has; make the vector environment with shared_memory=False"
        )
    block = _block(shared_memory, index)
    block[:_HEADER] = len(data).to_bytes(_HEADER, "little")
    block[_HEADER : _HEADER + len(data)] = data


_ACTION_KEYS = frozenset({"tool", "target", "args"})


def _block(memory: Any, index: int) -> memoryview:
    size = _HEADER + SHARED_BYTES
    return memoryview(memory.get_obj()).cast("B")[index * size : (index + 1) * size]


def _sorted(sets: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(sets[key])) for key in sorted(sets)}


def _word(rng: np.random.Generator) -> str:
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(3, 9)))


def _screen(rng: np.random.Generator, catalogue: Catalogue) -> UIState:
    if not catalogue.screens:
        return UIState(_word(rng), None)
    return catalogue.screens[rng.integers(len(catalogue.screens))]


def _events(rng: np.random.Generator) -> tuple[Event, ...]:
    return tuple(Message("customer", _word(rng)) for _ in range(rng.integers(4)))


def _action(rng: np.random.Generator, catalogue: Catalogue, state: UIState) -> Action:
    choices: dict[str, list[Control | None]] = {tool: [None] for tool in catalogue.tools.get("", ())}
    for control in state.controls:
        if control.enabled:
            for tool in catalogue.tools.get(control.kind, ()):
                choices.setdefault(tool, []).append(control)
    if not choices:
        return Action(_word(rng))
    tool = list(choices)[rng.integers(len(choices))]
    chosen = choices[tool][rng.integers(len(choices[tool]))]
    if chosen is not None and chosen.fields:
        fields = [f for f in chosen.fields if f.required or rng.random() < 0.5]
        return Action(tool, chosen.id, {f.id: _content(rng, f) for f in fields})
    names = catalogue.names.get(tool, ())
    args: dict[str, Arg] = {name: _word(rng) if chosen is None else _content(rng, chosen) for name in names}
    return Action(tool, "" if chosen is None else chosen.id, args)


def _content(rng: np.random.Generator, control: Control) -> Arg:
    if control.options:
        return control.options[rng.integers(len(control.options))]
    if control.kind == "checkbox":
        return bool(rng.integers(2))
    if control.kind == "number":
        return int(rng.integers(1000))
    return _word(rng)
