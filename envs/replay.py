"""Logged sessions as a Gymnasium environment: the policy decides where an operator decided, and is compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import gymnasium
from gymnasium.error import ResetNeeded

from handrail.envs.errors import HandrailError, nearest
from handrail.envs.normalize import action_key
from handrail.envs.schema import Action, Result, Session, Step
from handrail.envs.spaces import ActionSpace, Catalogue, Observation, ObservationSpace, to_action

Divergence = Literal["teacher", "terminate", "strict"]
"""What happens when an action differs from the log."""


class DivergenceError(HandrailError):
    """An action differed from the log under `divergence="strict"`.

    Attributes:
        session_id: the session.
        step: index of the step.
        expected: the logged action.
        given: the action that was given instead.
    """

    def __init__(
        self,
        message: str,
        session_id: str = "",
        step: int = -1,
        expected: Action | None = None,
        given: Action | None = None,
    ) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.step = step
        self.expected = expected
        self.given = given


class ReplayEnv(gymnasium.Env[Observation, Action | Mapping[str, Any]]):
    """Replays logged sessions and compares each action with the one the operator executed.

    ## Description
    An episode is one logged session. Only the steps whose actor is the operator are decisions; steps by others (a
    customer who closes the case) are played through and stand in the history of the next observation. The log always
    goes on with what was logged, whatever the policy does: nothing is simulated.

    ## Action Space
    `ActionSpace`: an `Action`, or a mapping with its keys.

    | part | type | meaning |
    |---|---|---|
    | `tool` | str | what to do |
    | `target` | str | id of the control to do it on, `""` if none |
    | `args` | dict | field name -> value |

    `action_space.sample(mask=observation)` draws an action on a control of the current screen; without a mask, of any
    screen in the sessions.

    ## Observation Space
    `ObservationSpace`: an `Observation`, immutable.

    | part | type | meaning |
    |---|---|---|
    | `issue` | str | the kind of case |
    | `brief` | str | what the operator was told beforehand |
    | `index` | int | position in the session, in steps from 0 |
    | `state` | `UIState` | the screen before the action |
    | `events` | tuple of `Message`, `Result` | what arrived since the last step of `history` |
    | `history` | tuple of `Step` | all earlier steps with their actions and events, whoever acted |

    It never holds the action, feedback, drafts, provenance or time of the current step, any later step, or the
    session's outcome, hidden part and tags. The observation after the last step shows the events after it.

    ## Starting State
    The first decision of a session. `reset(seed=s)` shuffles the sessions with `s` and starts the first; each `reset()`
    after that starts the next, and a new shuffle follows the last, so every session comes once before any comes again.
    `reset(options={"session_id": ID})` starts that session and leaves the order as it is.

    ## Rewards
    1 if the action equals the logged one after normalisation (`handrail.envs.normalize`), else 0.

    ## Episode End
    Terminated after the last decision of the session and, under `divergence="terminate"`, at the first wrong critical
    action; the observation then is still the one before it. Never truncated: give `max_episode_steps` to
    `gymnasium.make` for a time limit.

    ## Information
    For trainers and evaluators, not for the policy: it holds the answer. All but `match` speak of the decision that the
    returned observation asks for.

    | key | type | meaning |
    |---|---|---|
    | `session_id` | str | the session |
    | `step` | int | index of the step; number of steps once the session is over, the wrong step if it diverged |
    | `logged_action` | `Action`, None | what the operator executed |
    | `actor` | str, None | who acted |
    | `critical` | bool | whether the logged action has effects outside the screen |
    | `verdict` | `"accept"`, `"reject"`, None | the operator's verdict on the suggestion recorded for the step |
    | `time` | float, None | when the operator acted, UTC seconds |
    | `elapsed` | float, None | seconds from the newest earlier event or step to `time` |
    | `match` | bool | whether the action just given equals the logged one; absent after a reset |

    Where nothing is logged, and in all of them once the episode is over, the value is None (`critical`: False).

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | `sessions` | required | a sequence of `Session`, or the path of a store written by `handrail ingest` |
    | `divergence` | `"teacher"` | what a wrong action does, see below |
    | `render_mode` | None | `"ansi"`: `render()` returns the current step as text |

    | `divergence` | a wrong action |
    |---|---|
    | `teacher` | changes nothing, the log goes on: the copilot view |
    | `terminate` | ends the episode if the logged action is critical: the autonomy view |
    | `strict` | raises `DivergenceError`; the step can be tried again |

    ```python
    env = gymnasium.make("handrail/Replay-v0", sessions="star.parquet", divergence="terminate")
    ```

    ## References
    The log as teacher is behaviour cloning's view of a session; ending at the first wrong critical action is that of
    selective automation in "Learning Selective LLM Autonomy from Copilot Feedback in Enterprise Customer Support
    Workflows" (arXiv 2604.23855).

    ## Version History
    * v0: initial version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    divergences: ClassVar[tuple[str, ...]] = get_args(Divergence)

    def __init__(
        self,
        sessions: Sequence[Session] | str | os.PathLike[str],
        divergence: Divergence = "teacher",
        render_mode: Literal["ansi"] | None = None,
    ) -> None:
        """Load the sessions and check them; the class says what the arguments mean.

        Raises:
            HandrailError: there is no session, a session has no operator step, an id occurs twice, something is no
                session, an argument is unknown, or the store cannot be read.
        """
        if divergence not in self.divergences:
            raise HandrailError(f"unknown divergence {divergence!r}{nearest(str(divergence), self.divergences)}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise HandrailError(f"unknown render_mode {render_mode!r}; known: ansi")
        self.divergence = divergence
        self.render_mode = render_mode
        self.sessions = _checked(sessions)
        self._by_id = {session.id: i for i, session in enumerate(self.sessions)}
        catalogue = Catalogue.of(self.sessions)
        self.action_space: ActionSpace = ActionSpace(catalogue)
        self.observation_space: ObservationSpace = ObservationSpace(catalogue)
        self._tracks: list[_Track | None] = [None] * len(self.sessions)
        self._order: list[int] = []
        self._track: _Track | None = None
        self._position = 0
        self._observation: Observation | None = None
        self._last: tuple[Action | Mapping[str, Any], bool] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next session, or the one that `options` names.

        Args:
            seed: shuffles the sessions anew; None goes on in the present order.
            options: `{"session_id": ID}` starts that session.

        Raises:
            HandrailError: there is no such session or option.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._order = []
        options = options or {}
        for name in options:
            if name != "session_id":
                raise HandrailError(f"unknown option {name!r} of reset{nearest(str(name), ['session_id'])}")
        if "session_id" in options:
            number = self._number(options["session_id"])
        else:
            if not self._order:
                self._order = self.np_random.permutation(len(self.sessions)).tolist()[::-1]
            number = self._order.pop()
        track = self._tracks[number]
        if track is None:
            track = self._tracks[number] = _Track(self.sessions[number])
        self._track = track
        self._position = 0
        self._last = None
        self._observation = track.observation(0)
        return self._observation, track.info(0)

    def step(self, action: Action | Mapping[str, Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Compare `action` with the log and go on to the next decision.

        Raises:
            DivergenceError: the action is wrong and `divergence` is `strict`.
            HandrailError: `action` is no action.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        track = self._track
        if track is None or self._position == len(track.decisions):
            raise ResetNeeded("no episode is running: call reset() before step()")
        position = self._position
        match = track.matches(position, action)
        self._last = action, match
        if not match and self.divergence != "teacher":
            logged = track.decisions[position]
            if self.divergence == "strict":
                given = to_action(action)
                raise DivergenceError(
                    f"session {track.session.id!r}, step {logged.index}: expected {_show(logged.action)}, "
                    f"got {_show(given)}",
                    track.session.id,
                    logged.index,
                    logged.action,
                    given,
                )
            if logged.critical:
                self._position = len(track.decisions)
                assert self._observation is not None
                info = track.info(self._position)
                info["step"] = logged.index
                info["match"] = match
                return self._observation, 0.0, True, False, info
        position += 1
        self._position = position
        observation = self._observation = track.observation(position)
        info = track.info(position)
        info["match"] = match
        return observation, 1.0 if match else 0.0, position == len(track.decisions), False, info

    def render(self) -> str | None:  # type: ignore[override]
        """Return the current step as text under `render_mode="ansi"`, else None."""
        if self.render_mode is None:
            return None
        if self._track is None or self._observation is None:
            raise ResetNeeded("nothing to render: call reset() before render()")
        observation, session = self._observation, self._track.session
        state = observation.state
        lines = [
            f"session {session.id} ({session.issue}), step {observation.index} of {len(session.steps)}",
            f"screen {state.screen}, procedure {state.procedure or 'none'}, {len(state.controls)} controls",
        ]
        for event in observation.events:
            if isinstance(event, Result):
                lines.append(f"  result of {event.source}: {event.item or 'nothing found'}")
            else:
                lines.append(f"  {event.role}: {event.text}")
        if self._last is not None:
            action, match = self._last
            lines.append(
                f"last action: {_show(to_action(action))} ({'as logged' if match else 'differs from the log'})"
            )
        return "\n".join(lines)

    def session(self) -> Session:
        """Return the logged session of the current episode, its steps to come included.

        Raises:
            gymnasium.error.ResetNeeded: no episode was started.
        """
        if self._track is None:
            raise ResetNeeded("no episode is running: call reset() before session()")
        return self._track.session

    def _number(self, session_id: Any) -> int:
        number = self._by_id.get(session_id) if isinstance(session_id, str) else None
        if number is None:
            raise HandrailError(
                f"no session {session_id!r} among {len(self.sessions)}{_near_ids(str(session_id), self._by_id)}"
            )
        return number


class _Track:
    """One session, prepared for stepping.

    Args:
        session: has at least one step by the operator.
    """

    __slots__ = ("_elapsed", "_keys", "decisions", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.decisions: list[Step] = []
        self._elapsed: list[float | None] = []
        self._keys: dict[int, str] = {}
        newest: float | None = None
        for step in session.steps:
            newest = _latest(newest, *(event.time for event in step.events))
            if step.actor == "operator":
                self.decisions.append(step)
                self._elapsed.append(None if newest is None or step.time is None else step.time - newest)
            newest = _latest(newest, step.time)

    def observation(self, position: int) -> Observation:
        session = self.session
        if position == len(self.decisions):
            steps = session.steps
            return Observation(session.issue, session.brief, len(steps), steps[-1].state, session.tail, steps)
        step = self.decisions[position]
        index = step.index
        return Observation(session.issue, session.brief, index, step.state, step.events, session.steps[:index])

    def info(self, position: int) -> dict[str, Any]:
        if position == len(self.decisions):
            return {
                "session_id": self.session.id,
                "step": len(self.session.steps),
                "logged_action": None,
                "actor": None,
                "critical": False,
                "verdict": None,
                "time": None,
                "elapsed": None,
            }
        step = self.decisions[position]
        return {
            "session_id": self.session.id,
            "step": step.index,
            "logged_action": step.action,
            "actor": step.actor,
            "critical": step.critical,
            "verdict": None if step.feedback is None else step.feedback.verdict,
            "time": step.time,
            "elapsed": self._elapsed[position],
        }

    def matches(self, position: int, action: Action | Mapping[str, Any]) -> bool:
        logged = self.decisions[position].action
        if action is logged:
            return True
        given = to_action(action)
        try:
            key = action_key(given)
        except (TypeError, AttributeError) as error:
            raise HandrailError(f"{given!r:.200} is no action: {error}") from None
        if position not in self._keys:
            self._keys[position] = action_key(logged)
        return key == self._keys[position]


def _checked(sessions: Sequence[Session] | str | os.PathLike[str]) -> tuple[Session, ...]:
    origin = "sessions"
    if isinstance(sessions, str | os.PathLike):
        from handrail.envs.logs.store import load_sessions

        origin = str(Path(sessions))
        sessions = load_sessions(sessions)
    checked = tuple(sessions)
    if not checked:
        raise HandrailError(f"{origin} holds no session; a replay needs at least one")
    ids: set[str] = set()
    idle = []
    for number, session in enumerate(checked):
        if not isinstance(session, Session):
            raise HandrailError(f"{origin}[{number}] is {type(session).__name__}, expected Session")
        if session.id in ids:
            raise HandrailError(f"{origin}: session id {session.id!r} occurs twice; ids must be unique")
        ids.add(session.id)
        if [step.index for step in session.steps] != list(range(len(session.steps))):
            raise HandrailError(f"{origin}: the steps of session {session.id!r} are not numbered 0, 1, 2, …")
        if all(step.actor != "operator" for step in session.steps):
            idle.append(session.id)
    if idle:
        named = ", ".join(map(repr, idle[:3])) + (", …" if len(idle) > 3 else "")
        raise HandrailError(
            f"{origin}: {len(idle)} of {len(checked)} sessions have no step by the operator ({named}), so there is "
            "nothing to decide; leave them out"
        )
    return checked


def _latest(*times: float | None) -> float | None:
    return max((time for time in times if time is not None), default=None)


def _near_ids(name: str, known: Mapping[str, int]) -> str:
    # Comparing with tens of thousands of ids takes seconds, and listing them all helps nobody.
    close = nearest(name, [known_id for known_id in known if known_id[:1] == name[:1]][:2000])
    return close if close.startswith("; did you mean") else ""


def _show(action: Action) -> str:
    args = ", ".join(f"{name}={value!r}" for name, value in action.args.items())
    return f"{action.tool} {action.target}({args})" if action.args else f"{action.tool} {action.target}".rstrip()
