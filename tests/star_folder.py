"""A synthetic STAR folder: short dialogues of two tasks with a rule that can be learned, for tests of whole studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TASKS: dict[str, dict[str, str]] = {
    "bank_balance": {
        "hello": "Hello, how can I help?",
        "bank_ask_pin": "Your PIN, please.",
        "bank_say_balance": "Your balance is five dollars.",
        "bank_say_fee": "The fee is one dollar.",
        "goodbye": "Goodbye.",
    },
    "hotel_search": {
        "hello": "Hello, how can I help?",
        "hotel_ask_price": "Which price?",
        "hotel_say_stars": "It has four stars.",
        "hotel_say_parking": "It has parking.",
        "goodbye": "Goodbye.",
    },
}
"""Task -> its reply templates."""

FORMS: dict[str, list[dict[str, Any]]] = {
    "bank_balance": [{"Name": "FullName", "Type": "ShortString"}, {"Name": "Urgent", "Type": "Boolean"}],
    "hotel_search": [
        {"Name": "Name", "Type": "Categorical", "Categories": ["Hyatt", "Hilton"]},
        {"Name": "Rating", "Type": "Integer"},
    ],
}
ASKED = {
    "bank_balance": {"account": "bank_ask_pin", "money": "bank_say_balance", "cost": "bank_say_fee"},
    "hotel_search": {"room": "hotel_ask_price", "stars": "hotel_say_stars", "car": "hotel_say_parking"},
}
"""Task -> word of the customer -> the reply it gets."""

PEOPLE = ("john", "mary", "chris")
OPERATORS = ("w1", "w2", "w3")


def write_catalog(root: Path) -> None:
    """Write `tasks/` and `apis/` of the desk."""
    for task, replies in TASKS.items():
        folder = root / "tasks" / task
        folder.mkdir(parents=True)
        (folder / f"{task}.json").write_text(json.dumps({"task": task, "replies": replies, "graph": {}}))
        (folder / "responses.json").write_text(json.dumps(replies))
        form = root / "apis" / "apis" / f"{task}.json"
        form.parent.mkdir(parents=True, exist_ok=True)
        form.write_text(json.dumps({"input": FORMS[task], "required": []}))


def dialogue(number: int, rng: np.random.Generator, completion: str = "Complete", suggestions: bool = True) -> Any:
    """One dialogue: a greeting, two or three questions, a query, and goodbye.

    The reply follows from a word of the question. The suggestion shown is right four times in five, more often if the
    question is about money or rooms; the operator types the right reply's text before.
    """
    task = str(rng.choice(list(TASKS)))
    replies, events = TASKS[task], []
    clock = 1000.0 * number

    def event(agent: str, action: str, **more: Any) -> None:
        nonlocal clock
        clock += 1.0
        events.append({"Agent": agent, "Action": action, "UnixTime": clock, **more})

    def reply(template: str, right: float) -> None:
        others = [name for name in replies if name != template]
        wrong = str(rng.choice(others))
        if not suggestions:
            event("Wizard", "utter", Text=replies[template])
            return
        first, second = (template, wrong) if rng.random() < right else (wrong, template)
        event("Wizard", "request_suggestions", Text=replies[template].casefold())
        event(
            "Wizard",
            "pick_suggestion",
            Text=replies[template],
            ActionLabel=template,
            ActionLabelOptions=[first, second],
        )

    person, hotel = str(rng.choice(PEOPLE)), str(rng.choice(["Hyatt", "Hilton"]))
    event("User", "utter", Text="hi there")
    reply("hello", 0.95)
    for _ in range(int(rng.integers(2, 4))):
        word = str(rng.choice(list(ASKED[task])))
        event("User", "utter", Text=f"{rng.choice(['tell', 'ask', 'say'])} {word} please")
        reply(ASKED[task][word], 0.95 if word in ("money", "room") else 0.6)
    if task == "bank_balance":
        event("User", "utter", Text=f"i am {person}")
        event("Wizard", "query", APIName=task, Constraints=[{"FullName": json.dumps(person)}])
        item: dict[str, Any] = {"FullName": person, "Balance": 5}
    else:
        event("User", "utter", Text=f"the {hotel.casefold()} maybe")
        event("Wizard", "query", APIName=task, Constraints=[{"Name": json.dumps(hotel)}])
        item = {"Name": hotel, "Rating": 4}
    event("KnowledgeBase", "return_item", APIName=task, TotalItems=1, Item={"APIName": task, **item})
    if rng.random() < 0.3:
        event("Wizard", "utter", Text="one moment please")
    event("User", "utter", Text="thanks")
    reply("goodbye", 0.9)
    event("User", "complete")
    return {
        "DialogueID": number,
        "BatchID": "b1",
        "CompletionLevel": completion,
        "AnonymizedWizardWorkerID": str(rng.choice(OPERATORS)),
        "AnonymizedUserWorkerID": "u1",
        "Events": events,
        "Scenario": {
            "WizardCapabilities": [{"Task": task, "Domain": task.split("_")[0]}],
            "Happy": bool(rng.random() < 0.7),
            "MultiTask": False,
            "WizardTask": "Help the customer.",
            "UserTask": "You want something.",
            "Domains": [None],
        },
        "UserQuestionnaire": [],
        "WizardQuestionnaire": [],
    }


def write_star(root: Path, count: int, seed: int = 0, first: int = 1, **options: Any) -> Path:
    """Write a STAR folder of `count` dialogues with the ids `first`, `first + 1`, …; return `root`."""
    write_catalog(root)
    write_dialogues(root / "dialogues", count, seed, first, **options)
    return root


def write_dialogues(folder: Path, count: int, seed: int = 0, first: int = 1, **options: Any) -> Path:
    """Write dialogue files alone; return `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(first, first + count):
        (folder / f"{number}.json").write_text(json.dumps(dialogue(number, rng, **options)))
    return folder
