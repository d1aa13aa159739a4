"""Pages we did not render, worked by a script in a real browser and read from what the recorder sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handrail.envs.bpm.html import render
from handrail.envs.bpm.screenshot import find_chromium
from handrail.envs.logs import html_log
from handrail.envs.logs.pages import parse
from handrail.envs.logs.readers.html import Reader
from handrail.envs.schema import Action, Control, Session, Step, UIState

pytestmark = pytest.mark.slow

RECORDER = Path(html_log.__file__).with_name("recorder.js")
START = Action("click", "sync-task-cover")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tasks() -> Path:
    """The folder of miniwob's pages."""
    miniwob = pytest.importorskip("miniwob", reason="miniwob is not installed")
    return Path(miniwob.__file__).parent / "html" / "miniwob"


def record(browser: Any, url: str, work: Callable[[Any], Any], folder: Path) -> tuple[Session, Any, Reader]:
    """Let `work` use the page at `url`; return what the log of it says, and what `work` returned."""
    found: list[dict[str, Any]] = []
    page = browser.new_page()
    page.expose_function("handrailSend", lambda text: found.append(json.loads(text)))
    start = 'handrailRecord(record => handrailSend(JSON.stringify(record)), {session: "case-1"});'
    page.add_init_script(f"{RECORDER.read_text(encoding='utf-8')}\n{start}")
    page.goto(url)
    returned = work(page)
    page.wait_for_timeout(100)
    page.close()
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
    reader = Reader(folder)
    [session] = (item for unit in reader.units() for item in reader.read(unit))
    assert isinstance(session, Session)
    assert all(b.time >= a.time > 1.6e9 for a, b in zip(session.steps, session.steps[1:], strict=False))
    return session, returned, reader


def task(page: Any) -> list[str]:
    """Start a task of miniwob; return the quoted words of its instruction."""
    page.evaluate("Math.seedrandom('7')")
    page.click("#sync-task-cover")
    quoted: list[str] = page.inner_text("#query").split('"')[1::2]
    return quoted


def controls(step: Step) -> dict[str, Control]:
    return {control.id: control for control in step.state.controls}


def test_login(browser: Any, tasks: Path, tmp_path: Path) -> None:
    def work(page: Any) -> tuple[list[str], float]:
        words = task(page)
        page.fill("#username", words[0])
        page.fill("#password", words[1])
        page.click("#subbtn")
        return words, page.evaluate("WOB_RAW_REWARD_GLOBAL")

    session, ((user, password), reward), reader = record(browser, (tasks / "login-user.html").as_uri(), work, tmp_path)
    assert reward == 1
    assert [step.action for step in session.steps] == [
        START,
        Action("set_field", "username", {"value": user}),
        Action("set_field", "password", {"value": "•" * len(password)}),
        Action("click", "subbtn"),
    ]
    assert not reader.counts
    _, first, second, last = session.steps
    assert first.state.screen.endswith("/login-user.html")
    assert first.state.controls == (
        Control("username", "text", "Username"),
        Control("password", "text", "Password"),
        Control("subbtn", "button", "Login"),
    )
    assert "username" not in first.state.values
    assert second.state.values["username"] == user
    assert "password" not in second.state.values
    assert last.state.values["password"] == "•" * len(password)
    assert f'Enter the username "{user}"' in str(last.state.values["text"])


def test_form(browser: Any, tasks: Path, tmp_path: Path) -> None:
    def work(page: Any) -> None:
        task(page)
        page.locator("input[type=radio]").nth(1).check()
        page.locator("input[type=text]").nth(2).fill("-8")
        page.locator("button").click()

    session, _, _ = record(browser, (tasks / "form-sequence-2.html").as_uri(), work, tmp_path)
    _, choose, fill, press = session.steps
    [select] = [control for control in choose.state.controls if control.kind == "select"]
    texts = [control.id for control in choose.state.controls if control.kind == "text"]
    assert (len(select.options), len(texts)) == (3, 3)
    assert choose.action == Action("set_field", select.id, {"value": select.options[1]})
    assert select.id not in choose.state.values
    assert fill.state.values[select.id] == select.options[1]
    assert fill.action == Action("set_field", texts[2], {"value": "-8"})
    assert press.action.tool == "click"
    assert controls(press)[press.action.target].label == "Submit"


def test_email(browser: Any, tasks: Path, tmp_path: Path) -> None:
    def work(page: Any) -> str:
        task(page)
        sender = page.locator(".email-thread .email-sender").first.inner_text()
        page.locator(".email-thread").first.click()
        page.click("#email .email-reply")
        page.fill("#reply-text", "On my way")
        page.click("#send-reply")
        return str(sender)

    session, sender, _ = record(browser, (tasks / "email-inbox.html").as_uri(), work, tmp_path)
    _, opened, reply, write, send = session.steps
    labels = [control.label for control in opened.state.controls]
    assert labels.count("trash") == labels.count("star") >= 4
    assert opened.action.tool == "click"
    assert controls(opened)[opened.action.target].label.startswith(sender)
    # The list of mails is there, but not shown.
    assert [control.id for control in reply.state.controls] == ["close-email", "trash", "star", "reply", "forward"]
    assert reply.action == Action("click", "reply")
    assert write.action == Action("set_field", "reply-text", {"value": "On my way"})
    assert send.action == Action("click", "send-reply")
    assert send.state.values["reply-text"] == "On my way"


FORM = """<!DOCTYPE html><title>Desk</title>
<label><input type="checkbox" id="sure"> Sure</label>
<label>Size <select id="size"><option>small<option>large</select></label>
<label>Age <input type="number" id="age"></label>
<table id="orders"><tr data-rec-click id="first"><td>17</td><td>open</td></tr></table>
<ul id="list"></ul><button>Add <b>one</b></button>
<script>
document.querySelector("button").addEventListener("click", () => {
  const item = document.createElement("li");
  item.textContent = "Item";
  item.addEventListener("click", e => e.target.remove());
  document.querySelector("#list").append(item);
});
</script>"""


def test_each_kind_of_control(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "form.html"
    file.write_text(FORM, encoding="utf-8")

    def work(page: Any) -> None:
        page.check("#sure")
        page.select_option("#size", "large")
        page.fill("#age", "7")
        page.click("#first")
        page.click("button b")
        page.click("li")
        page.uncheck("#sure")

    session, _, _ = record(browser, file.as_uri(), work, tmp_path)
    assert [step.action for step in session.steps] == [
        Action("set_field", "sure", {"value": True}),
        Action("set_field", "size", {"value": "large"}),
        Action("set_field", "age", {"value": 7}),
        Action("select_item", "orders", {"item": "17"}),
        Action("click", "add_one"),
        Action("click", "item"),
        Action("set_field", "sure", {"value": False}),
    ]
    before = [{name: step.state.values.get(name) for name in ("sure", "size", "age")} for step in session.steps]
    assert before[:4] == [
        {"sure": False, "size": "small", "age": None},
        {"sure": True, "size": "small", "age": None},
        {"sure": True, "size": "large", "age": None},
        {"sure": True, "size": "large", "age": 7},
    ]
    assert ["item" in controls(step) for step in session.steps] == [False] * 5 + [True, False]


def test_our_pages_survive_a_browser(browser: Any) -> None:
    desk = (
        Control("home", "link", "Home"),
        Control("list", "table", "Cards", options=("4421",)),
        Control("f.note", "text", "A < B & 'C'"),
        Control("f.why", "select", "Why", options=("lost", "stolen"), required=True),
        Control("f", "button", "Go", enabled=False),
        Control("close:refused", "button", "refused"),
    )
    values = {"x": 1.5, "list.4421": "a ·  · ", "f.note": "<b>\n'\"", "f.why": "stolen", "error": "No."}
    state = UIState("home", "p", desk, values, {"table": "list", "item": "4421"})
    page = browser.new_page()
    page.set_content(render(state))
    found = parse(page.content())
    page.close()
    assert found == state
