"""The simulated desk as a Gymnasium environment: actions are executed, and mistakes have consequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
import msgspec
from gymnasium.error import ResetNeeded

from handrail.envs.bpm.case import Case, draw_case
from handrail.envs.bpm.customer import Options
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.load import load_domain
from handrail.envs.bpm.program import Program, program
from handrail.envs.bpm.screen import layout
from handrail.envs.bpm.world import Snapshot, World
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.schema import Action, Actor, Event, Feedback, Session, Step, UIState
from handrail.envs.spaces import ActionSpace, Catalogue, Observation, ObservationSpace, to_action

SOURCE = "bpm"
"""The `source` of sessions that are worked here."""

_OPTIONS = ("case", "issue")
_TOOLS: dict[str, tuple[str, ...]] = {
    "button": ("click",),
    "checkbox": ("set_field",),
    "link": ("navigate",),
    "message_box": ("send_message",),
    "number": ("set_field",),
    "select": ("set_field",),
    "tab": ("open_procedure",),
    "table": ("select_item",),
    "template": ("send_reply",),
    "text": ("set_field",),
}
_NAMES: dict[str, tuple[str, ...]] = {"select_item": ("item",), "send_message": ("text",), "set_field": ("value",)}


class EnvSnapshot(NamedTuple):
    """All that changes in an environment while a case is worked.

    Attributes:
        case: the case.
        world: what changes in its world.
        steps: what was done so far.
        events: what arrived since.
        state: the screen.
        over: whether the episode is over.
        feedback: what `note` was given for the next step.
    """

    case: Case
    world: Snapshot
    steps: tuple[Step, ...]
    events: tuple[Event, ...]
    state: UIState
    over: bool
    feedback: Feedback | None


class BPMEnv(gymnasium.Env[Observation, Action | Mapping[str, Any]]):
    """A customer-support desk on a BPM platform: screens, procedures, back-end records, and a customer who writes.

    ## Description
    An episode is one case, worked from the customer's first message until it is closed. Actions are executed: forms
    fill, records change, the customer answers, and what was done wrong stays wrong. Which domain is worked, and how,
    is data (`docs/domain_guide.md`).

    A policy and an operator can act in turn: `actor` says who does the next step.

    ## Action Space
    `ActionSpace`: an `Action`, or a mapping with its keys.

    | tool | target | args | does |
    |---|---|---|---|
    | `navigate` | a screen | | opens it; what was entered on the screen before is lost |
    | `open_procedure` | a procedure | | opens it beside the screen |
    | `select_item` | a table | `item`: key of a row | brings the record into focus |
    | `set_field` | `FORM.FIELD` | `value`: text, number or flag | enters it; empty text clears |
    | `click` | a form | | submits it |
    | `click` | `close:OUTCOME` | | closes the case |
    | `send_reply` | a template | | sends it, filled in |
    | `send_message` | `message` | `text` | sends a free message |

    What the screen does not allow changes nothing, costs a step, and shows in the value `error` of the next state.
    `action_space.sample(mask=observation)` draws among what the screen offers.

    ## Observation Space
    `ObservationSpace`: an `Observation`, immutable.

    | part | type | meaning |
    |---|---|---|
    | `issue` | str | the kind of case that was announced (the first issue) |
    | `brief` | str | what operators of the domain were told beforehand |
    | `index` | int | steps so far |
    | `state` | `UIState` | the screen |
    | `events` | tuple of `Message` | the reply that was just sent, and what the customer wrote |
    | `history` | tuple of `Step` | all steps so far with their actions and events, whoever acted |

    ## Starting State
    A case is drawn: an issue by weight, the customer and their records, the course it takes, what the customer knows
    and gets wrong. The home screen is open, no procedure is, and `events` holds the customer's opening. Cases follow
    from the seed of the last `reset(seed=…)`. `reset(options={"issue": ID})` fixes the kind of case,
    `reset(options={"case": CASE})` the whole case.

    ## Rewards
    1 when the case is closed successfully, else 0. Success: the records are as the procedure, the truth and the
    customer's answers would have them, all messages that have to be sent were sent, the outcome is right, no rule was
    broken, and no issue was left.

    ## Episode End
    Terminated when the case is closed, rightly or not; truncated after `max_steps` steps.

    ## Information
    | key | type | meaning |
    |---|---|---|
    | `session_id` | str | id of the case |
    | `issue` | str | the issue at hand: the one raised last |
    | `step` | int | steps so far |
    | `critical` | bool | whether the action just given has effects outside the screen |
    | `error` | str, None | why the action just given was impossible |
    | `violations` | list of str | rules broken so far, in order |
    | `success` | bool, None | whether the case was closed as it should be; None until the episode ends |
    | `outcome` | str, None | how it was closed |
    | `time` | float | UTC seconds on the desk's clock |
    | `active` | float | seconds that the operator was active so far |
    | `actor` | str | who did the step; who is to do the first one, after a reset |

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | `domain` | `"mock"` | name of a shipped domain, path of a domain's folder, or a `Domain` |
    | `issues` | None | the kinds of case that come in; None: all |
    | `customer` | None | how customers differ, a mapping (`handrail.envs.bpm.customer.Options`) |
    | `max_steps` | 80 | steps after which an episode is truncated |
    | `html` | False | the state is read from the rendered page, as from a desk that is not ours |
    | `shift` | None | a change of the domain: a mapping with `name`, `severity` (0 to 1) and `seed` |
    | `render_mode` | None | `"ansi"`: text, `"html"`: the page, `"rgb_array"`: a picture of it |

    ```python
    env = gymnasium.make("handrail/BPM-v0", domain="bank", customer={"typos": 2.0})
    ```

    Of the environment itself (`env.unwrapped`): `world` is the desk with its case, `actor` and `operator` say who does
    the next step, `note` gives the feedback on it, `session` returns what was done as a logged session, `snapshot` and
    `restore` go back exactly.

    ## References
    The desk, its operators and the rule of success follow "Learning Selective LLM Autonomy from Copilot Feedback in
    Enterprise Customer Support Workflows" (arXiv 2604.23855).

    ## Version History
    * v0: initial version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "html", "rgb_array"], "render_fps": 1}

    def __init__(
        self,
        domain: str | Path | Domain = "mock",
        issues: Sequence[str] | None = None,
        customer: Mapping[str, Any] | Options | None = None,
        max_steps: int = 80,
        html: bool = False,
        shift: Mapping[str, Any] | None = None,
        render_mode: Literal["ansi", "html", "rgb_array"] | None = None,
    ) -> None:
        """Load the domain; the class says what the arguments mean.

        Raises:
            HandrailError: an argument is unknown or out of range, or the domain cannot be read.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = self.metadata["render_modes"]
            raise HandrailError(f"unknown render_mode {render_mode!r}{nearest(str(render_mode), known)}")
        if not isinstance(max_steps, int) or max_steps < 1:
            raise HandrailError(f"max_steps is {max_steps!r}, expected a whole number of at least 1")
        self.domain = domain if isinstance(domain, Domain) else load_domain(domain)
        if shift is not None:
            self.domain = _shifted(self.domain, shift)
        if isinstance(issues, str):
            raise HandrailError(f"issues is {issues!r}, expected a list of issues, such as [{issues!r}]")
        for name in issues or ():
            if name not in self.domain.issues:
                known = list(self.domain.issues)
                raise HandrailError(f"domain {self.domain.name!r} has no issue {name!r}{nearest(str(name), known)}")
        self.issues = None if issues is None else tuple(issues)
        self.customer = _options(customer)
        self.max_steps = max_steps
        self.html = html
        self.render_mode = render_mode
        self.actor: Actor = "policy"
        self.operator = ""
        catalogue = _catalogue(program(self.domain))
        self.action_space: ActionSpace = ActionSpace(catalogue)
        self.observation_space: ObservationSpace = ObservationSpace(catalogue)
        self._world: World | None = None
        self._steps: tuple[Step, ...] = ()
        self._events: tuple[Event, ...] = ()
        self._state = UIState(self.domain.desk.home, None)
        self._over = True
        self._feedback: Feedback | None = None

    @property
    def world(self) -> World:
        """The desk with the present case.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset` yet.
        """
        if self._world is None:
            raise ResetNeeded("there is no case yet: call reset() first")
        return self._world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next case, or the one that `options` name.

        Args:
            seed: of this case and those that follow.
            options: `{"issue": ID}` or `{"case": CASE}`.

        Raises:
            HandrailError: there is no such option or issue, or the case is of another domain.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name not in _OPTIONS:
                raise HandrailError(f"unknown option {name!r} of reset{nearest(str(name), _OPTIONS)}")
        case = options.get("case")
        if case is None:
            case = draw_case(self.domain, self.np_random, options.get("issue"), self.issues)
        elif not isinstance(case, Case) or case.domain != self.domain.name:
            of = case.domain if isinstance(case, Case) else type(case).__name__
            raise HandrailError(f"option case is of {of!r}, expected a Case of domain {self.domain.name!r}")
        self._world = World(self.domain, case, self.customer)
        self._steps = ()
        self._events = self._world.opening
        self._over = False
        self._feedback = None
        self._state = self._seen()
        return self._observation(), self._info(False, None)

    def step(self, action: Action | Mapping[str, Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let `actor` do `action`.

        Raises:
            HandrailError: `action` is no action. One that the screen does not allow is: it costs a step.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        world = self._world
        if world is None or self._over:
            raise ResetNeeded("no episode is running: call reset() before step()")
        given = action if type(action) is Action else to_action(action)
        feedback = self._feedback
        index = len(self._steps)
        outcome = world.do(given, self.actor, None if feedback is None else feedback.verdict)
        step = Step(index, self._state, self._events, given, self.actor, outcome.time, outcome.critical, feedback)
        self._steps = (*self._steps, step)
        self._events = outcome.events
        self._feedback = None
        terminated = outcome.closed
        truncated = not terminated and index + 1 >= self.max_steps
        self._over = terminated or truncated
        self._state = self._seen()
        reward = 1.0 if world.success else 0.0
        return self._observation(), reward, terminated, truncated, self._info(outcome.critical, outcome.error)

    def note(self, feedback: Feedback | None) -> None:
        """Log `feedback` with the next step: the suggestion that was shown for it, and what the operator made of it."""
        self._feedback = feedback

    def snapshot(self) -> EnvSnapshot:
        """Return the episode as it is, for `restore`.

        Cases that later resets draw are not part of it.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset` yet.
        """
        world = self.world
        return EnvSnapshot(
            world.case, world.snapshot(), self._steps, self._events, self._state, self._over, self._feedback
        )

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        """Go back to where `snapshot` was taken, and return the observation there.

        Args:
            snapshot: of this environment, or of another one with the same domain and customer options.

        Raises:
            HandrailError: it is of another domain.
        """
        case = snapshot.case
        if case.domain != self.domain.name:
            raise HandrailError(f"a snapshot of domain {case.domain!r} does not fit domain {self.domain.name!r}")
        if self._world is None or self._world.case is not case:
            self._world = World(self.domain, case, self.customer)
        self._world.restore(snapshot.world)
        self._steps, self._events, self._state = snapshot.steps, snapshot.events, snapshot.state
        self._over, self._feedback = snapshot.over, snapshot.feedback
        return self._observation()

    def session(self) -> Session:
        """Return what was done so far as a logged session; complete once the case is closed."""
        world = self.world
        case = world.case
        closed = world.outcome is not None
        return Session(
            id=case.id,
            source=SOURCE,
            issue=case.matters[0].issue,
            operator=self.operator,
            brief=self.domain.desk.brief,
            steps=self._steps,
            tail=self._events,
            tags={
                "domain": case.domain,
                "kind": "two_issues" if len(case.matters) > 1 else "one_issue",
                "completion": "closed" if closed else "open",
            },
            outcome={
                "closed": world.outcome,
                "success": bool(world.success),
                "violations": list(world.violations),
                "active_seconds": world.clock.spent.total,
            },
            hidden={
                "issues": [matter.issue for matter in case.matters],
                "variants": [matter.variant for matter in case.matters],
                "persona": world.customer.persona.name,
                "facts": [{name: known.value for name, known in matter.facts.items()} for matter in case.matters],
            },
        )

    def render(self) -> Any:
        """Return the desk as text, page or picture (height, width, 3), as `render_mode` says; None without one.

        Raises:
            HandrailError: a picture is wanted and there is no Chromium.
        """
        if self.render_mode is None:
            return None
        world = self.world
        chat = [event for step in self._steps for event in step.events] + list(self._events)
        if self.render_mode == "ansi":
            from handrail.envs.bpm import ansi

            return ansi.render(world.state(), chat)
        from handrail.envs.bpm import html

        page = html.render(world.state(), chat, html.captions(self.domain))
        if self.render_mode == "html":
            return page
        from handrail.envs.bpm.screenshot import screenshot

        return screenshot(page)

    def _seen(self) -> UIState:
        state = self.world.state()
        if not self.html:
            return state
        from handrail.envs.bpm.html import render
        from handrail.envs.logs.pages import parse

        return parse(render(state))

    def _observation(self) -> Observation:
        world, steps = self.world, self._steps
        brief = self.domain.desk.brief
        return Observation(world.case.matters[0].issue, brief, len(steps), self._state, self._events, steps)

    def _info(self, critical: bool, error: str | None) -> dict[str, Any]:
        world = self.world
        return {
            "session_id": world.case.id,
            "issue": world.issue,
            "step": len(self._steps),
            "critical": critical,
            "error": error,
            "violations": list(world.violations),
            "success": bool(world.success) if self._over else None,
            "outcome": world.outcome,
            "time": world.clock.now,
            "active": world.clock.active,
            "actor": self._steps[-1].actor if self._steps else self.actor,
        }


def _options(given: Mapping[str, Any] | Options | None) -> Options:
    if isinstance(given, Options):
        return given
    for name in given or ():
        if name not in Options.__struct_fields__:
            raise HandrailError(f"unknown customer option {name!r}{nearest(str(name), Options.__struct_fields__)}")
    try:
        return msgspec.convert(dict(given or {}), Options)
    except msgspec.ValidationError as error:
        raise HandrailError(f"customer options {dict(given or {})!r}: {error}") from None


def _shifted(domain: Domain, shift: Mapping[str, Any]) -> Domain:
    import numpy as np

    from handrail.envs.bpm.shifts import shifted

    known = ("name", "severity", "seed")
    for name in shift:
        if name not in known:
            raise HandrailError(f"unknown key {name!r} of shift{nearest(str(name), known)}")
    if "name" not in shift:
        raise HandrailError(f"shift is {dict(shift)!r}, expected a mapping with name, severity and seed")
    rng = np.random.default_rng(int(shift.get("seed", 0)))
    return shifted(domain, str(shift["name"]), rng, float(shift.get("severity", 1.0)))


def _catalogue(compiled: Program) -> Catalogue:
    """Return what the spaces sample from: every screen, in every procedure, as it is before any record is in focus."""
    known = compiled.cache.get("catalogue")
    if known is None:
        import numpy as np

        drawing = layout(compiled)
        ground = draw_case(compiled.domain, np.random.default_rng(0)).ground(compiled)
        procedures = (None, *(tab.id for tab in drawing.tabs))
        screens = tuple(
            UIState(name, procedure, drawing.view(ground, name, procedure).controls)
            for name in compiled.screens
            for procedure in procedures
        )
        known = compiled.cache["catalogue"] = Catalogue(screens, _TOOLS, _NAMES)
    assert isinstance(known, Catalogue)
    return known
