// Live updates. The server renders and escapes every page; the script only replaces whole parts of a page by newer ones.
(() => {
  "use strict";
  const live = document.getElementById("live");
  const parts = () => [...document.querySelectorAll("[data-live]")];

  function say(text, off) {
    live.hidden = false;
    live.textContent = text;
    live.classList.toggle("off", Boolean(off));
  }

  async function refresh() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts()) {
      const other = fresh.getElementById(part.id);
      if (!other || other.outerHTML === part.outerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      const open = new Set([...part.querySelectorAll("details[open][id]")].map((details) => details.id));
      for (const details of other.querySelectorAll("details[id]")) if (open.has(details.id)) details.open = true;
      part.replaceWith(other);
      if (focused) document.getElementById(focused)?.focus();
    }
  }

  function listen() {
    const scope = document.querySelector("[data-watch]")?.dataset.watch ?? "";
    const events = new EventSource(`/events?run=${encodeURIComponent(scope)}`);
    let busy = false;
    let again = false;
    events.addEventListener("open", () => say("live"));
    events.addEventListener("error", () => say("not connected: is chiron view still running?", true));
    events.addEventListener("changed", async () => {
      again = true;
      if (busy) return;
      busy = true;
      while (again) {
        again = false;
        try { await refresh(); } catch { say("not connected: is chiron view still running?", true); }
      }
      busy = false;
    });
  }

  if (parts().length) listen();
})();
