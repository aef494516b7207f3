"use strict";
(() => {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const list = document.getElementById("list");
  const find = document.getElementById("find");
  const order = document.getElementById("order");
  const compact = document.getElementById("compact");
  const buttons = [...tools.querySelectorAll("button[data-kind]")];
  const cases = [...list.children].map((element, place) => ({
    element,
    place,
    kind: element.dataset.kind,
    score: element.dataset.score === undefined ? null : Number(element.dataset.score),
    words: [...element.querySelectorAll(".id, .question, .known, .final")].map((e) => e.textContent).join("\n").toLowerCase(),
  }));
  let kind = "all";

  function filter() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const c of cases) {
      const fits = (kind === "all" || c.kind === kind) && wanted.every((word) => c.words.includes(word));
      c.element.hidden = !fits;
      if (fits) number += 1;
    }
    document.getElementById("count").textContent = number === cases.length ? "" : `${number} of ${cases.length}`;
    document.getElementById("none").hidden = number > 0;
  }

  function sort() {
    const sign = order.value === "low" ? 1 : -1;
    const sorted = [...cases];
    if (order.value !== "file") {
      // Cases without a score come last, whichever way the others go.
      sorted.sort((a, b) => (a.score === null) - (b.score === null) || sign * (a.score - b.score) || a.place - b.place);
    }
    list.append(...sorted.map((c) => c.element));
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      kind = button.dataset.kind;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  compact.addEventListener("click", () => {
    compact.setAttribute("aria-pressed", String(list.classList.toggle("compact")));
  });
  find.addEventListener("input", filter);
  order.addEventListener("change", sort);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  // A browser that restores the form after a reload restores what it says, so do what it says.
  filter();
  sort();
})();
