"""A desk for a policy that leaves some issues to others: each session is worked where its issue belongs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from handrail.agents.assess import Reading
from handrail.agents.decoding import Suggestion, Writer
from handrail.agents.desk import Desk
from handrail.agents.policy import Policy
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation

K = TypeVar("K", bound=Hashable)


class IssueDesk:
    """Suggests as a `Desk` does, by the policy of each session's issue.

    Args:
        policy: with `Policy.own`.
        make: makes the desk of one of its policies; called once for each that is needed.
    """

    def __init__(self, policy: Policy, make: Callable[[Policy], Desk]) -> None:
        self.policy, self._make = policy, make
        self._desks: dict[str, Desk] = {}
        self._begun: dict[Hashable, tuple[str | None, str | None]] = {}
        self._at: dict[Hashable, Desk] = {}

    def __len__(self) -> int:
        """Return how many sessions are running."""
        return len(self._begun)

    def begin(self, key: Hashable, operator: str | None = None, session_id: str | None = None) -> None:
        """Take in a session, as `Desk.begin` does.

        Raises:
            HandrailError: a session of this key is running.
        """
        if key in self._begun:
            raise HandrailError(f"a session {key!r} is running; finish it first, or choose another key")
        self._begun[key] = operator, session_id

    def finish(self, key: Hashable) -> None:
        """Forget a session.

        Raises:
            HandrailError: there is no such session.
        """
        if key not in self._begun:
            raise HandrailError(f"no session {key!r} is running, of {len(self)}")
        del self._begun[key]
        if key in self._at:
            self._at.pop(key).finish(key)

    def suggest(
        self, observations: Mapping[K, Observation], drafts: Mapping[K, Action] | None = None
    ) -> dict[K, Suggestion]:
        """Return the next action of each session, as `Desk.suggest` does, in the order given."""
        for key, seen in observations.items():
            if key not in self._begun:
                self.begin(key)
            if key not in self._at:
                self._at[key] = self._desk(seen.issue)
                self._at[key].begin(key, *self._begun[key])
        made: dict[K, Suggestion] = {}
        for desk, keys in self._grouped(list(observations)):
            given = {key: drafts[key] for key in keys if key in drafts} if drafts else None
            made.update(desk.suggest({key: observations[key] for key in keys}, given))
        return {key: made[key] for key in observations}

    def assess(self, actions: Mapping[K, Action], writer: Writer | None = None) -> dict[K, Reading]:
        """Return what the policies make of an action in each of several sessions, as `Desk.assess` does.

        Raises:
            HandrailError: `suggest` was not asked about a session.
        """
        unknown = next((key for key in actions if key not in self._at), None)
        if unknown is not None:
            raise HandrailError(f"no suggestion was made in session {unknown!r}; ask for one before you assess")
        made: dict[K, Reading] = {}
        for desk, keys in self._grouped(list(actions)):
            made.update(desk.assess({key: actions[key] for key in keys}, writer))
        return {key: made[key] for key in actions}

    def _desk(self, issue: str) -> Desk:
        [(policy, _)] = self.policy.shared_out([issue])
        name = issue if issue in self.policy.own else ""
        if name not in self._desks:
            self._desks[name] = self._make(policy)
        return self._desks[name]

    def _grouped(self, keys: Sequence[Any]) -> list[tuple[Desk, list[Any]]]:
        """Return desks, each with those of the sessions that run there."""
        found: dict[int, tuple[Desk, list[Any]]] = {}
        for key in keys:
            desk = self._at[key]
            found.setdefault(id(desk), (desk, []))[1].append(key)
        return list(found.values())
