// Live updates, keyboard, images. The server renders and escapes every page; the script only replaces whole parts of a page.
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
    if (fresh.querySelectorAll("[data-live]").length !== parts().length) return location.reload(); // a page that got its content
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
    const lost = () => say("not connected: is chiron view still running?", true);
    let events = null;
    let busy = false;
    let again = false;
    async function changed() {
      again = true;
      if (busy) return;
      busy = true;
      while (again) {
        again = false;
        try { await refresh(); } catch { lost(); }
      }
      busy = false;
    }
    // Browsers open few connections to one server, so a hidden tab gives its own back.
    function connect() {
      events?.close();
      events = null;
      if (document.hidden) return;
      events = new EventSource(`/events?run=${encodeURIComponent(scope)}`);
      events.addEventListener("open", () => {
        say("live");
        changed(); // what changed before the server listened for this page
      });
      events.addEventListener("error", lost);
      events.addEventListener("changed", changed);
    }
    document.addEventListener("visibilitychange", connect);
    connect();
  }

  // Parts of a page that are loaded when they are opened.
  for (const details of document.querySelectorAll("details[data-lazy]")) {
    details.addEventListener("toggle", async () => {
      if (!details.open || details.dataset.loaded) return;
      details.dataset.loaded = "1";
      const answer = await fetch(details.dataset.lazy);
      const fragment = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("fragment");
      if (fragment) details.querySelector("p").replaceWith(fragment);
    });
  }

  // A filter that is chosen is applied at once.
  const filters = document.getElementById("filters");
  filters?.addEventListener("change", () => filters.requestSubmit());
  filters?.addEventListener("submit", () => {
    for (const field of filters.elements) if (field.name && !field.value) field.disabled = true; // keeps the address short
  });

  // Keys: j and k move in a table, / searches, p and n open the page before and after, u goes up.
  function move(by) {
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))]?.focus();
  }
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    "/": () => document.querySelector("[data-find]")?.focus(),
    p: () => document.querySelector("[data-before]")?.click(),
    n: () => document.querySelector("[data-after]")?.click(),
    u: () => (document.querySelector("[data-up]") ?? document.getElementById("to-home"))?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  // An image that cannot be shown is replaced by the reason, which is on the page that the server sends in its place.
  async function explain(picture) {
    const note = document.createElement("p");
    const title = document.createElement("b");
    const why = document.createElement("span");
    note.className = "no-image";
    title.textContent = "image cannot be shown";
    why.dir = "auto";
    note.append(title, why);
    picture.replaceWith(note);
    const answer = await fetch(picture.src);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    why.textContent = page.querySelector(".problem")?.textContent ?? "";
  }
  for (const picture of document.querySelectorAll("img[data-shown]")) {
    picture.addEventListener("error", () => explain(picture), { once: true });
    if (picture.complete && picture.currentSrc && !picture.naturalWidth) explain(picture);
  }

  function view(viewer) {
    const stage = viewer.querySelector(".stage");
    const figures = [...stage.querySelectorAll("[data-image]")];
    const said = viewer.querySelector("output");
    const sliders = [...viewer.querySelectorAll("[data-window]")];
    let at = 0;
    let scale = 1;
    let x = 0;
    let y = 0;
    let waiting = 0;
    const image = () => figures[at].querySelector("img");

    function draw() {
      if (image()) image().style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
      said.textContent = `image ${at + 1} of ${figures.length}, ${Math.round(scale * 100)} %`;
    }
    function zoom(by) {
      scale = Math.max(1, Math.min(20, scale * by));
      if (scale === 1) x = y = 0;
      draw();
    }
    function pan(dx, dy) {
      if (scale === 1) return;
      x += dx;
      y += dy;
      draw();
    }
    function reset() {
      scale = 1;
      x = y = 0;
      draw();
    }
    function turn(by) {
      at = (at + by + figures.length) % figures.length;
      figures.forEach((figure, number) => { figure.hidden = number !== at; });
      reset();
      window_();
    }
    function window_() {
      const [center, width] = ["center", "width"].map((name) => Number(viewer.querySelector(`[data-window=${name}]`).value));
      if (!image()) return;
      const plain = image().src.split("?")[0];
      const wanted = center === 0.5 && width === 1 ? plain : `${plain}?center=${center}&width=${width}`;
      if (image().src !== wanted) image().src = wanted;
    }
    const actions = { before: () => turn(-1), after: () => turn(1), in: () => zoom(1.25), out: () => zoom(0.8), reset };
    const stageKeys = {
      "+": actions.in, "=": actions.in, "-": actions.out, 0: reset, "[": actions.before, "]": actions.after,
      ArrowLeft: () => pan(40, 0), ArrowRight: () => pan(-40, 0), ArrowUp: () => pan(0, 40), ArrowDown: () => pan(0, -40),
    };
    viewer.addEventListener("click", (event) => actions[event.target.closest("[data-do]")?.dataset.do]?.());
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in stageKeys)) return;
      event.preventDefault();
      event.stopPropagation();
      stageKeys[event.key]();
    });
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && scale === 1 && event.deltaY > 0) return; // lets the page scroll
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => stage.setPointerCapture(event.pointerId));
    stage.addEventListener("pointermove", (event) => {
      if (stage.hasPointerCapture(event.pointerId)) pan(event.movementX, event.movementY);
    });
    for (const slider of sliders) {
      slider.addEventListener("input", () => {
        clearTimeout(waiting);
        waiting = setTimeout(window_, 120);
      });
    }
    viewer.querySelector(".handles").hidden = false;
    draw();
  }

  document.querySelector("details.tree")?.setAttribute("open", ""); // a page about one case has room for its tree
  const viewer = document.getElementById("viewer");
  if (viewer) view(viewer);
  if (parts().length) listen();
})();
