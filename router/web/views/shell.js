// The frame of the page: landmarks, in the order in which focus walks through them.

import { h, icon, iconButton } from "../dom.js";
import * as actions from "../actions.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { banner } from "./banner.js";
import { filters } from "./filters.js";
import { list } from "./list.js";
import { reader } from "./reader.js";
import { side } from "./side.js";

/** All of the page once it is known whose box it shows. */
export function shell() {
  const skip = h("a", { class: "skip", href: "#messages", onclick: skipToList }, t("skip"));
  const scrim = h("div", { class: "scrim", onclick: () => store.set({ drawer: false }) });
  const main = h(
    "main",
    { class: "mail" },
    h("section", { class: "list-pane", "aria-labelledby": "view-title" }, filters(), banner(), list()),
    reader(),
  );
  const frame = h("div", { class: "shell" }, skip, bar(), side(), scrim, main);
  store.subscribe((state) => show(frame, state));
  show(frame, store.get());
  return frame;
}

function show(frame, { opened, drawer }) {
  frame.classList.toggle("is-reading", opened !== null);
  frame.classList.toggle("has-drawer", drawer);
}

function bar() {
  const field = h("input", {
    id: "search",
    type: "search",
    placeholder: t("searchPlaceholder"),
    autocomplete: "off",
    spellcheck: false,
    enterKeyHint: "search",
    "aria-keyshortcuts": "/",
    oninput: () => actions.search(field.value),
    onkeydown: (event) => {
      if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        document.querySelector(".rows a")?.focus();
      }
    },
  });
  const clear = h(
    "button",
    {
      type: "button",
      class: "icon-button search-clear",
      "aria-label": t("searchClear"),
      hidden: true,
      onclick: () => (actions.search(""), field.focus()),
    },
    icon("close"),
  );
  const key = h("kbd", { class: "search-key", "aria-hidden": "true" }, "/");
  store.subscribe(({ view }) => {
    if (field.value !== view.text && (document.activeElement !== field || view.text === "")) field.value = view.text;
    clear.hidden = view.text === "";
    key.hidden = view.text !== "";
  });
  const menu = iconButton("menu", t("menu"), () => store.set({ drawer: !store.get().drawer }), {
    id: "menu",
    "aria-controls": "side",
    "aria-expanded": "false",
  });
  store.subscribe(({ drawer }, before) => {
    menu.setAttribute("aria-expanded", String(drawer));
    if (before.drawer && !drawer && document.activeElement?.closest("#side")) menu.focus();
  });
  return h(
    "header",
    { class: "bar" },
    menu,
    h(
      "span",
      { class: "brand", "aria-hidden": "true" },
      h("img", { src: "icons/icon.svg", alt: "", width: 26, height: 26 }),
      h("span", {}, "pobox"),
    ),
    h(
      "search",
      { class: "search" },
      icon("search"),
      h("label", { for: "search", class: "unseen" }, t("search")),
      field,
      key,
      clear,
    ),
    iconButton("settings", t("settings"), () => store.set({ dialog: "settings" })),
  );
}

function skipToList(event) {
  event.preventDefault();
  (document.querySelector(".rows a[tabindex='0']") ?? document.querySelector("#messages")).focus();
}
