// The form of a review: verdicts by mouse and keyboard, drafts that are saved while they are typed.
(() => {
  "use strict";
  const form = document.getElementById("review");
  if (!form) return;
  const steps = [...form.querySelectorAll("[data-step]")];
  const saved = document.getElementById("saved");
  const trouble = document.getElementById("trouble");
  const place = `chiron-review/${form.dataset.draft}/${form.dataset.path}`;
  const original = new Map(steps.map((step) => [step, step.querySelector("textarea").defaultValue]));
  let waiting = 0;
  let changes = 0; // number of changes so far
  let sending = Promise.resolve();
  let leaving = false;

  const verdictOf = (step) => step.querySelector("input[type=radio]:checked")?.value ?? "";
  function entry(step) {
    const verdict = verdictOf(step);
    return {
      verdict,
      reason: verdict === "accept" ? "" : step.querySelector("select").value,
      note: step.querySelector(".note-field input").value,
      text: step.querySelector("textarea").value === original.get(step) && verdict !== "edit" ? "" : step.querySelector("textarea").value,
    };
  }
  function review() {
    const entries = steps.map(entry);
    return { steps: entries.slice(0, -1), final: entries.at(-1), note: form.elements.note.value };
  }
  function fill(draft) {
    [...draft.steps, draft.final].forEach((given, n) => {
      const step = steps[n];
      const choice = step.querySelector(`input[value="${CSS.escape(given.verdict)}"]`);
      if (choice) choice.checked = true;
      step.querySelector("select").value = given.reason;
      step.querySelector(".note-field input").value = given.note;
      if (given.text) step.querySelector("textarea").value = given.text;
    });
    form.elements.note.value = draft.note;
  }
  function show() {
    for (const step of steps) {
      step.dataset.verdict = verdictOf(step);
      step.querySelector(".why-field").hidden = !["edit", "reject"].includes(step.dataset.verdict);
      step.querySelector(".text-field").hidden = step.dataset.verdict !== "edit";
    }
  }
  function complain(why) {
    trouble.textContent = why;
    trouble.hidden = !why;
  }

  async function send(what, more) {
    const answer = await fetch(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Chiron-CSRF": form.dataset.csrf },
      body: JSON.stringify({ do: what, path_sha256: form.dataset.path, review: review() }),
      ...more,
    });
    const text = await answer.text();
    if (answer.ok) return JSON.parse(text);
    let why = "";
    try { why = JSON.parse(text).error; } catch { why = new DOMParser().parseFromString(text, "text/html").querySelector(".notice, .problem")?.textContent; }
    throw new Error(why || `the server refused it (${answer.status})`);
  }
  // A draft is on the server soon after it is typed. Until then, and while the server does not take it, the browser keeps it.
  function changed() {
    show();
    changes += 1;
    try { localStorage.setItem(place, JSON.stringify(review())); } catch { /* the server still gets it */ }
    saved.textContent = "";
    clearTimeout(waiting);
    waiting = setTimeout(() => { sending = sending.then(save); }, 400);
  }
  async function save(more) {
    if (leaving) return;
    const at = changes;
    try {
      await send("draft", more);
      if (at === changes) localStorage.removeItem(place);
      saved.textContent = "draft saved";
      complain("");
    } catch (problem) {
      saved.textContent = "";
      complain(`The draft is kept in this browser only: ${problem.message}`);
    }
  }
  async function leave(what) {
    if (leaving) return;
    clearTimeout(waiting);
    await sending;
    leaving = true;
    try {
      const { next } = await send(what);
      localStorage.removeItem(place);
      location.href = next;
    } catch (problem) {
      leaving = false;
      complain(`Nothing was stored: ${problem.message}`);
      const number = /^step (\d+)/.exec(problem.message)?.[1];
      if (number) steps[number - 1].focus();
    }
  }

  const current = () => document.activeElement?.closest("[data-step]") ?? steps[0];
  function choose(verdict) {
    const step = current();
    step.querySelector(`input[value="${verdict}"]`).checked = true;
    changed();
    if (verdict === "edit") step.querySelector("textarea").focus();
    else if (verdict === "reject") step.focus();
    else (steps[steps.indexOf(step) + 1] ?? document.getElementById("submit")).focus();
  }
  function because(number) {
    const step = current();
    if (step.querySelector(".why-field").hidden) return;
    step.querySelector("select").selectedIndex = number;
    changed();
    step.focus();
  }
  const keys = {
    a: () => choose("accept"),
    e: () => choose("edit"),
    r: () => choose("reject"),
    c: () => current().querySelector(".note-field input").focus(),
    i: () => document.querySelector(".stage")?.focus(),
    s: () => document.getElementById("skip")?.click(),
  };
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    leave("submit");
  });
  document.getElementById("skip")?.addEventListener("click", () => leave("skip"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      return void leave("submit");
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input:not([type=radio]), select, textarea");
    if (event.key === "Escape" && field) return current().focus();
    if (field) {
      if (event.key === "Enter" && field.matches("input")) event.preventDefault(); // does not submit by accident
      return;
    }
    if (/^[1-9]$/.test(event.key) && event.key <= form.querySelector("select").options.length - 1) because(Number(event.key));
    else if (event.key in keys) keys[event.key]();
    else return;
    event.preventDefault();
  });
  addEventListener("pagehide", () => {
    if (changes && localStorage.getItem(place)) save({ keepalive: true });
  });

  const kept = localStorage.getItem(place);
  if (kept) {
    try {
      fill(JSON.parse(kept));
      changed();
    } catch { localStorage.removeItem(place); }
  }
  show();
  (steps.find((step) => !verdictOf(step)) ?? document.getElementById("submit")).focus({ preventScroll: true });
})();
