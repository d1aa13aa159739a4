// Records what is done on a page: snapshots of its HTML, clicks and changes, as records of a raw log
// (envs/logs/html_log.py). Load it before the page's own scripts, so that it sees which elements listen for clicks:
//
//   handrailRecord(record => navigator.sendBeacon("/log", JSON.stringify(record)), { session: "case-17" });
//
// Passwords are recorded as dots. Snapshots show the page as the operator saw it before an event: a field that is being filled keeps its old content
// until it is left.
function handrailRecord(send, options) {
  const session = options.session, actor = options.actor || "operator";
  const USABLE = "a, button, input, select, textarea, summary, tr, [role], [onclick], [contenteditable], [data-rec-click]";
  const numbers = new WeakMap(), contents = new WeakMap();
  let count = 0, shown = null, filling = null;

  const listen = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (type === "click" && this instanceof Element && this !== document.body) this.setAttribute("data-rec-click", "");
    return listen.call(this, type, ...rest);
  };

  function number(element) {
    if (!numbers.has(element)) numbers.set(element, String(++count));
    return numbers.get(element);
  }

  const checkable = element => element.type === "checkbox" || element.type === "radio";
  const hasContent = element => element.matches("input, select, textarea");

  function content(element) {
    if (checkable(element)) return element.checked;
    if (element.multiple) return [...element.selectedOptions].map(option => option.text).join(", ");
    if (element.tagName === "SELECT") return element.selectedIndex < 0 ? "" : element.selectedOptions[0].text;
    if (element.type === "password") return "•".repeat(element.value.length);
    if ((element.type === "number" || element.type === "range") && element.value !== "") return element.valueAsNumber;
    return hasContent(element) ? element.value : element.textContent;
  }

  // Properties, which HTML does not show, become attributes of the copy.
  function write(element, copy) {
    const value = filling && filling.element === element ? filling.before : content(element);
    contents.set(element, value);
    if (checkable(element)) copy.toggleAttribute("checked", value);
    else if (element.tagName === "SELECT") {
      const chosen = element.multiple ? value.split(", ") : [value];
      [...copy.options].forEach(option => option.toggleAttribute("selected", chosen.includes(option.text)));
    } else if (element.tagName === "TEXTAREA") copy.textContent = value;
    else if (element.type !== "file" && element.type !== "hidden") copy.setAttribute("value", value);
  }

  function snapshot() {
    const copy = document.documentElement.cloneNode(true);
    const originals = document.documentElement.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((twin, i) => {
      const original = originals[i];
      if (original.matches(USABLE) || original.onclick) twin.setAttribute("data-rec", number(original));
      if (original.onclick) twin.setAttribute("data-rec-click", "");
      if (hasContent(original)) write(original, twin);
      if (document.body.contains(original) && original !== document.body) {
        const style = getComputedStyle(original);
        if (style.display === "none" || style.visibility === "hidden") twin.setAttribute("data-rec-hidden", "");
      }
    });
    copy.querySelectorAll("script, style, noscript").forEach(element => element.remove());
    const page = "<!DOCTYPE html>" + copy.outerHTML;
    if (page !== shown) send({ record: "snapshot", session, page, url: location.href });
    shown = page;
  }

  function event(name, element, value) {
    const found = element.closest(USABLE) || element;
    const record = { record: "event", session, actor, time: Date.now() / 1000, event: name };
    record.element = found.id || "@" + number(found);
    if (value !== undefined) record.value = value;
    send(record);
  }

  // Listeners on the window run before those of the page.
  const on = (type, act) => listen.call(window, type, e => e.target instanceof Element && act(e.target), true);

  on("focusin", target => {
    if (!hasContent(target)) return;
    filling = { element: target, before: content(target) };
    snapshot();
  });
  on("focusout", target => { if (filling && filling.element === target) filling = null; });
  on("change", target => {
    if (!hasContent(target)) return;
    if (!filling || filling.element !== target) {
      // Changed without being focused, as scripts and some browsers' selects do: it held what was last seen.
      filling = { element: target, before: contents.has(target) ? contents.get(target) : content(target) };
      snapshot();
    }
    event("change", target, content(target));
    if (document.activeElement === target) filling.before = content(target);
    else filling = null;
  });
  on("click", target => {
    // A check box has already changed when its click arrives; its change event tells of it.
    if (hasContent(target) && !["submit", "button", "reset", "image"].includes(target.type)) return;
    snapshot();
    event("click", target);
  });
}
