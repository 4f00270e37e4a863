// What several places are made of: headings, fields, tables, lists that are searched, questions.

import { fill, h, icon, iconButton } from "/inbox/dom.js";
import * as lists from "../lists.js";
import * as store from "../store.js";
import { t } from "../words.js";

const WAIT_MS = 150;
let fields = 0;

/** The heading of a place, and what can be done there. */
export function heading(words, ...more) {
  return h("div", { class: "heading" }, h("h1", {}, h("bdi", {}, words)), ...more);
}

export function button(words, onclick, { drawing = null, first = false, ...more } = {}) {
  return h(
    "button",
    { type: "button", class: first ? "button is-first" : "button", onclick, ...more },
    drawing && icon(drawing),
    words,
  );
}

/** A field with its label, a hint and, once it is wrong, what is wrong: `control.complain(words)`. */
export function field(words, control, { hint = null, wide = false } = {}) {
  const id = `field-${++fields}`;
  const problem = h("span", { class: "field-problem", id: `${id}-problem` });
  control.id = id;
  control.setAttribute("aria-describedby", hint ? `${id}-hint ${id}-problem` : `${id}-problem`);
  control.complain = (said) => {
    problem.textContent = said ?? "";
    if (said) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  control.addEventListener("input", () => control.complain(null));
  return h(
    "div",
    { class: wide ? "field is-wide" : "field" },
    h("label", { for: id }, ...[words].flat()),
    control,
    hint && h("span", { class: "field-hint", id: `${id}-hint` }, hint),
    problem,
  );
}

/** A text field for ids and words. */
export function input(properties = {}) {
  return h("input", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: false, ...properties });
}

/** A table that scrolls by itself where there is no room: `columns` are `[words, class]`, `rows` lists of cells. */
export function table(caption, columns, rows, { seen = false } = {}) {
  const head = columns.map(([words, kind]) => h("th", { scope: "col", class: kind ?? null }, words));
  const body = rows.map((cells) =>
    h(
      "tr",
      {},
      ...cells.map((cell, at) =>
        at === 0
          ? h("th", { scope: "row" }, cell)
          : h("td", { class: columns[at][1] ?? null, "data-of": columns[at][0] }, cell),
      ),
    ),
  );
  return h(
    "div",
    { class: "table", role: "region", "aria-label": caption, tabIndex: 0 },
    h(
      "table",
      {},
      h("caption", { class: seen ? null : "unseen" }, caption),
      h("thead", {}, h("tr", {}, ...head)),
      h("tbody", {}, ...body),
    ),
  );
}

/** A field that searches `path` by the beginning of an id. */
export function search(path, key, more = {}) {
  let timer = 0;
  const box = input({
    type: "search",
    placeholder: t("search"),
    "aria-label": t("searchLabel"),
    enterKeyHint: "search",
    maxLength: 128,
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => void lists.begin(path, key, box.value.trim(), more), WAIT_MS);
    },
  });
  void lists.begin(path, key, "", more);
  return h("search", { class: "find" }, icon("search"), box);
}

/** What was found: `draw(items)` of it, or why there is nothing, and the way to more. `none` is shown for no items. */
export function found(draw, none) {
  const place = h("div", { class: "found" });
  return store.watch(place, ({ found: now }, before) => {
    if (now === null || (now === before.found && place.hasChildNodes())) return;
    const { items, busy, cursor, problem, prefix } = now;
    const nothing = prefix ? h("p", { class: "nothing" }, t("nothingFound", prefix)) : none();
    const atMore = document.activeElement?.closest(".more") !== null && document.activeElement !== null;
    fill(
      place,
      items.length ? draw(items) : !busy && problem === null ? nothing : null,
      problem && complaint(problem, items.length ? lists.next : lists.renew),
      busy && !items.length ? h("p", { class: "nothing" }, t("loading")) : null,
      cursor !== null && problem === null ? h("div", { class: "more" }, button(t("more"), lists.next)) : null,
    );
    place.setAttribute("aria-busy", String(busy));
    if (atMore) place.querySelector(".more button")?.focus();
  });
}

export function nothing(words, hint) {
  return h("div", { class: "nothing" }, h("p", { class: "nothing-title" }, words), hint && h("p", {}, hint));
}

/** What went wrong, and how to try again. */
export function complaint(problem, again) {
  return h("div", { class: "complaint", role: "alert" }, h("p", {}, problem.message), button(t("again"), () => again()));
}

/** A dialog over the page with `content(close)` in it. */
export function dialog(words, content) {
  const opener = document.activeElement;
  const over = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" });
  const close = () => over.close();
  over.addEventListener("click", (event) => event.target === over && close());
  over.addEventListener("close", () => (over.remove(), opener?.isConnected && opener.focus()));
  over.append(
    h(
      "div",
      { class: "dialog-inside" },
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "dialog-title" }, words),
        iconButton("close", t("close"), close),
      ),
      content(close),
    ),
  );
  document.body.append(over);
  over.showModal();
}

/** Ask before something that can't be undone. */
export function confirm(words, question, work) {
  dialog(words, (close) =>
    h(
      "div",
      {},
      h("p", {}, question),
      h(
        "div",
        { class: "buttons" },
        button(words, () => (close(), work()), { first: true }),
        button(t("cancel"), close),
      ),
    ),
  );
}
