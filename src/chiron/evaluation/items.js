// Draws items, a page of them at a time. Whatever they say is set as text, never as markup.
(() => {
  "use strict";
  const SIZE = 25;
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const protocols = new Set(data.items.map((item) => item.protocol)).size;
  const place = (item) => (protocols > 1 ? `${item.benchmark} (${item.protocol})` : item.benchmark);
  const anchor = (item) => `${place(item)}/${item.id}`;
  const list = at("items");
  const buttons = [...document.querySelectorAll("[data-kind]")];
  let kind = "all";
  let found = data.items;
  let page = 0;

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function fill(select, first, names) {
    [first, ...names].forEach((name, number) => {
      const option = make("option", "", name);
      option.value = String(number - 1);
      select.append(option);
    });
  }

  function words(item) {
    // Made when it is first searched, and kept.
    if (item.words === undefined) {
      const said = item.said.map((s) => `${s.given ?? ""} ${s.reply} ${s.problem}`);
      item.words = [item.id, item.question, ...item.options, item.known, ...item.labels, ...said].join(" ").toLowerCase();
    }
    return item.words;
  }

  function fits(item, by, place_, wanted) {
    if (place_ !== null && place(item) !== place_) return false;
    const said = by < 0 ? item.said : item.said.filter((s) => s.by === by);
    if (!said.length) return false;
    if (kind === "wrong" && !said.some((s) => s.verdict === "wrong")) return false;
    if (kind === "unparsed" && !said.some((s) => s.verdict === "unparsed")) return false;
    if (kind === "unanswered" && !said.some((s) => s.verdict === "unjudged" || s.verdict === "unusable" || s.verdict === "pending")) return false;
    if (kind === "disagree" && new Set(item.said.map((s) => s.verdict === "right")).size < 2) return false;
    return wanted.every((word) => words(item).includes(word));
  }

  const places = [...new Set(data.items.map(place))];

  function filter() {
    const wanted = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const by = Number(at("by").value);
    const chosen = Number(at("benchmark").value);
    found = data.items.filter((item) => fits(item, by, chosen < 0 ? null : places[chosen], wanted));
    page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / SIZE));
    list.replaceChildren(...found.slice(page * SIZE, (page + 1) * SIZE).map(drawn));
    const all = data.items.length.toLocaleString("en");
    at("count").textContent = found.length === data.items.length ? `${all} items` : `${found.length.toLocaleString("en")} of ${all}`;
    at("none").hidden = found.length > 0;
    at("pages").hidden = pages === 1;
    at("page").textContent = `page ${page + 1} of ${pages}`;
    at("before").disabled = page === 0;
    at("after").disabled = page === pages - 1;
  }

  function drawn(item) {
    const right = item.said.filter((s) => s.verdict === "right").length;
    const article = make("article", `case ${right === item.said.length ? "good" : right ? "split" : "off"}`);
    const header = make("header");
    const title = make("h3");
    const link = make("a", "anchor");
    link.href = `#${encodeURIComponent(anchor(item))}`;
    link.setAttribute("aria-label", `link to ${item.id}`);
    article.id = anchor(item);
    title.append(link, make("bdi", "", item.id));
    header.append(title, make("span", "place", `${item.benchmark}, protocol ${item.protocol}`));
    const body = make("div", "body");
    if (item.images.length) body.append(images(item));
    const text = make("div", "text");
    text.append(make("p", "question", item.question || "(no question)"));
    if (item.options.length) text.append(options(item));
    const known = make("p", "gold-line", "known answer: ");
    known.append(make("b", "", item.known || "(none)"));
    text.append(known);
    if (item.labels.length) text.append(make("p", "labels", item.labels.join(" \u00b7 ")));
    body.append(text);
    const columns = make("div", "side");
    item.said.forEach((said) => columns.append(answer(said)));
    article.append(header, body, columns);
    return article;
  }

  function options(item) {
    const all = make("ol", "options");
    item.options.forEach((option) => all.append(make("li", option.toLowerCase() === item.known.toLowerCase() ? "gold" : "", option)));
    return all;
  }

  function images(item) {
    const all = make("div", `images images-${Math.min(item.images.length, 2)}`);
    item.images.forEach((number) => {
      const image = data.images[number];
      const figure = make("figure");
      if (image.url) {
        const picture = make("img");
        picture.src = image.url;
        picture.alt = "";
        picture.width = image.width;
        picture.height = image.height;
        figure.append(picture);
      } else {
        const missing = make("div", "no-image");
        missing.append(make("b", "", "no image"), make("span", "", image.problem));
        figure.append(missing);
      }
      const caption = make("figcaption");
      caption.append(make("bdi", "", image.name));
      figure.append(caption);
      all.append(figure);
    });
    if (item.more_images) all.append(make("p", "muted", `and ${item.more_images} more images`));
    return all;
  }

  function answer(said) {
    const part = make("div", "said");
    const line = make("p");
    line.append(make("bdi", "by", data.answerers[said.by]), make("span", `badge ${said.verdict}`, said.verdict));
    if (said.given !== null) line.append(make("bdi", "given", said.given));
    const how = [said.rule && `by rule: ${said.rule}`, said.cut && "cut off at the token limit", said.problem, ...said.scores];
    line.append(make("span", "how", how.filter(Boolean).join(" \u00b7 ")));
    part.append(line);
    if (said.reply) {
      const details = make("details");
      details.open = at("open").getAttribute("aria-pressed") === "true";
      details.append(make("summary", "", "reply"), make("pre", "", said.reply));
      part.append(details);
    }
    return part;
  }

  function turn(by) {
    page += by;
    draw();
    at("tools").scrollIntoView();
  }

  function target() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return ""; // not a link of this page
    }
  }

  // A link may point to an item that is on another page, or that the filters hide.
  function follow() {
    const wanted = target();
    const number = wanted ? data.items.findIndex((item) => anchor(item) === wanted) : -1;
    if (number < 0) return;
    if (!found.includes(data.items[number])) {
      at("tools").reset();
      choose("all");
    }
    page = Math.floor(found.indexOf(data.items[number]) / SIZE);
    draw();
    const article = document.getElementById(wanted);
    article.classList.add("linked");
    article.scrollIntoView();
  }

  function choose(chosen) {
    kind = chosen;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    filter();
  }

  fill(at("by"), "any model", data.answerers);
  fill(at("benchmark"), "all benchmarks", places);
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button.dataset.kind));
  }
  at("open").addEventListener("click", () => {
    const open = at("open").getAttribute("aria-pressed") !== "true";
    at("open").setAttribute("aria-pressed", String(open));
    for (const details of list.querySelectorAll("details")) details.open = open;
  });
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  at("find").addEventListener("input", filter);
  at("by").addEventListener("change", filter);
  at("benchmark").addEventListener("change", filter);
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("tools").hidden = false;
  window.addEventListener("hashchange", follow);
  filter();
  follow();
})();
