// The list, of which only what can be seen exists: rows of one height, asked for as they come into sight.
//
// What is known of the list is thrown away whenever the box or the view changed, and what is in sight asked for
// again; so it always shows one state of the box. A list that was scrolled stays at the message it was at.

import { h } from "../dom.js";
import * as actions from "../actions.js";
import * as box from "../box.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { empty } from "./empty.js";
import { row } from "./row.js";

const PORTION = 40;
const BEYOND = 6; // rows above and below what can be seen

export function list() {
  return new List().element;
}

class List {
  #known = new Map(); // index -> message
  #asked = new Set(); // portions
  #drawn = new Map(); // id -> {item, text}
  #edition = 0;
  #total = 0;
  #ready = false;
  #rows = h("ol", { class: "rows", role: "list", "aria-label": t("messages") });
  #nothing = h("div", { class: "nothing", hidden: true });
  #above = h("button", {
    type: "button",
    class: "above",
    hidden: true,
    onclick: () => this.element.scrollTo({ top: 0, behavior: "smooth" }),
  });
  element = h("div", { class: "scroll", id: "messages", tabIndex: -1 }, this.#above, this.#rows, this.#nothing);

  constructor() {
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this.element);
    store.subscribe((now, before) => this.#hear(now, before));
  }

  get #height() {
    return parseFloat(getComputedStyle(this.#rows).getPropertyValue("--row")) || 88;
  }

  #hear(now, before) {
    const moved = now.view !== before.view;
    const changed = now.news?.generation !== before.news?.generation || now.news?.phase !== before.news?.phase;
    if (moved) this.element.scrollTop = 0;
    if (moved || changed) void this.#renew(moved);
    else if (now.current !== before.current) void this.#select(now.current);
    if (now.side !== before.side && this.#ready) this.#draw(true);
    if (now.news !== before.news && this.#total === 0) this.#showNothing();
  }

  /** Ask again for what is in sight. */
  async #renew(moved) {
    const edition = ++this.#edition;
    const height = this.#height;
    const first = Math.floor(this.element.scrollTop / height);
    const anchor = moved || first === 0 ? null : this.#known.get(first);
    const view = actions.view();
    let from = first;
    if (anchor) {
      const place = await box.ask("place", view, anchor.id).catch(() => -1);
      if (place >= 0) from = place;
    }
    const portion = Math.floor(Math.max(0, from - BEYOND) / PORTION);
    const { rows, total } = await box
      .ask("page", view, portion * PORTION, 2 * PORTION)
      .catch(() => ({ rows: [], total: 0 }));
    if (edition !== this.#edition) return;
    const above = anchor && from > first ? from - first : 0;
    this.#known = new Map(rows.map((message, index) => [portion * PORTION + index, message]));
    this.#asked = new Set([portion, portion + 1]);
    this.#total = total;
    this.#ready = true;
    this.#rows.style.height = `${total * height}px`;
    if (from !== first) this.element.scrollTop += (from - first) * height;
    if (above) {
      this.#above.textContent = t("nNew", above);
      this.#above.hidden = false;
    }
    if (store.get().total !== total) store.set({ total });
    this.#showNothing();
    this.#draw(true);
  }

  async #select(id) {
    this.#draw(true);
    if (id === null) return;
    const place = await box.ask("place", actions.view(), id);
    if (place < 0 || store.get().current !== id) return;
    const height = this.#height;
    const { scrollTop, clientHeight } = this.element;
    if (place * height < scrollTop) this.element.scrollTop = place * height;
    else if ((place + 1) * height > scrollTop + clientHeight)
      this.element.scrollTop = (place + 1) * height - clientHeight;
    this.#draw(true);
  }

  async #fetch(portion) {
    if (this.#asked.has(portion)) return;
    this.#asked.add(portion);
    const edition = this.#edition;
    const { rows } = await box.ask("page", actions.view(), portion * PORTION, PORTION);
    if (edition !== this.#edition) return;
    for (const [index, message] of rows.entries()) this.#known.set(portion * PORTION + index, message);
    this.#draw();
  }

  #draw() {
    if (!this.#ready) return;
    const height = this.#height;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / height) - BEYOND);
    const last = Math.min(this.#total, Math.ceil((scrollTop + clientHeight) / height) + BEYOND);
    if (first === 0 && scrollTop < height) this.#above.hidden = true;
    const state = store.get();
    const focused = this.#rows.contains(document.activeElement)
      ? document.activeElement.closest("[data-id]")?.dataset.id
      : null;
    const wanted = [];
    for (let index = first; index < last; index++) {
      const message = this.#known.get(index);
      if (message) wanted.push(this.#item(message, index, state));
      else void this.#fetch(Math.floor(index / PORTION));
    }
    this.#place(wanted);
    this.#mark(wanted, state, focused);
  }

  /** The row of `message`, made anew only if anything in it changed. */
  #item(message, index, state) {
    const text = JSON.stringify([
      message,
      state.view.place,
      state.view.text,
      this.#total,
      index,
      state.side.channels.find(({ id }) => id === message.channel)?.name,
    ]);
    let drawn = this.#drawn.get(message.id);
    if (drawn?.text !== text) {
      drawn = { text, item: row(message, index, { total: this.#total, view: state.view, side: state.side }) };
      this.#drawn.set(message.id, drawn);
    }
    drawn.item.style.transform = `translateY(${index * this.#height}px)`;
    return drawn.item;
  }

  /** Have exactly these rows, in this order; those that stay aren't touched. */
  #place(wanted) {
    const stay = new Set(wanted);
    for (const item of [...this.#rows.children]) if (!stay.has(item)) item.remove();
    wanted.forEach((item, position) => {
      const there = this.#rows.children[position] ?? null;
      if (there !== item) this.#rows.insertBefore(item, there);
    });
    for (const [id, { item }] of this.#drawn) if (!stay.has(item)) this.#drawn.delete(id);
  }

  /** One row is the current one, and one of them is where Tab leads to; the focus goes with the current one. */
  #mark(wanted, { current, opened }, focused) {
    const entry =
      wanted.find(({ dataset }) => dataset.id === current) ??
      wanted.find(({ dataset }) => dataset.id === focused) ??
      wanted[BEYOND] ??
      wanted[0];
    for (const item of wanted) {
      const link = item.querySelector(".row-open");
      item.classList.toggle("is-current", item.dataset.id === current);
      if (item.dataset.id === opened?.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
      link.tabIndex = item === entry ? 0 : -1;
    }
    if (focused && entry && !this.#rows.contains(document.activeElement))
      entry.querySelector(".row-open").focus({ preventScroll: true });
    else if (focused && current && focused !== current && entry?.dataset.id === current)
      entry.querySelector(".row-open").focus({ preventScroll: true });
  }

  #showNothing() {
    const { news } = store.get();
    this.#nothing.hidden = this.#total > 0 || news === null;
    if (!this.#nothing.hidden) empty(this.#nothing, this.#ready);
  }
}
