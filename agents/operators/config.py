"""Configuration of simulated operators, apart from what they do: who works at a desk, and how well."""

from __future__ import annotations

from dataclasses import dataclass, field

from handrail.agents.operators.human import CREW, Slips
from handrail.agents.operators.verdicts import Rates
from handrail.envs.errors import HandrailError


@dataclass(frozen=True)
class OperatorConfig:
    """The people of a simulated desk.

    Attributes:
        people: how many work there, >= 1.
        slips: how often they slip on average; each person is more or less careful than that.
        rates: what they make of suggestions.
    """

    people: int = CREW
    slips: Slips = field(default_factory=Slips)
    rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        if self.people < 1:
            raise HandrailError(f"operator.people={self.people}: expected at least 1 operator")
