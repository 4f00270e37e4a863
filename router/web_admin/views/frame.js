// The frame: where one can go, and what is open. Each place is a module of its own.

import { fill, h, icon, iconButton } from "/inbox/dom.js";
import { LANGUAGES, language } from "/inbox/words.js";
import { setLanguage, setTheme, theme } from "/inbox/settings.js";
import * as address from "../address.js";
import * as api from "../api.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { channel } from "./channel.js";
import { channels } from "./channels.js";
import { dead } from "./dead.js";
import { deliver } from "./deliver.js";
import { overview } from "./overview.js";
import { signIn } from "./sign_in.js";
import { user } from "./user.js";
import { users } from "./users.js";

const PLACES = {
  overview: { drawing: "pulse", all: overview },
  users: { drawing: "person", all: users, one: user },
  channels: { drawing: "hash", all: channels, one: channel },
  deliver: { drawing: "send", all: deliver, one: deliver },
  dead: { drawing: "stuck", all: dead },
};
const LOOKS = { auto: "light", light: "dark", dark: "auto" };

export function frame() {
  const main = h("main", { id: "main", tabIndex: -1 });
  let shown = null;
  const show = ({ place, chosen, locked }) => {
    const wanted = locked ? "locked" : address.to(place, chosen);
    if (wanted === shown) return;
    const first = shown === null;
    shown = wanted;
    const { all, one } = PLACES[place];
    fill(main, locked ? signIn() : (chosen !== null && one ? one : all)(chosen));
    main.scrollTop = 0;
    document.title = `${t(place)} · pobox`;
    if (!first && !locked) main.focus({ preventScroll: true });
  };
  store.watch(main, show);
  return h(
    "div",
    { class: "frame" },
    h("a", { class: "skip", href: "#main", onclick: (event) => (event.preventDefault(), main.focus()) }, t("skip")),
    head(),
    places(),
    main,
    toasts(),
  );
}

function head() {
  const forget = iconButton("close", t("signOut"), () => (api.useKey(null), location.reload()));
  return store.watch(
    h(
      "header",
      { class: "head" },
      h("img", { src: "/inbox/icons/icon.svg", alt: "", width: 26, height: 26 }),
      h("span", { class: "head-name" }, "pobox", h("span", { class: "head-what" }, ` ${t("title")}`)),
      h("a", { class: "text-button", href: "/inbox/" }, icon("inbox"), t("inbox")),
      look(),
      tongue(),
      forget,
    ),
    () => (forget.hidden = !api.hasKey()),
  );
}

function look() {
  const button = iconButton("settings", "", () => (setTheme(LOOKS[theme()]), name()));
  const words = { auto: "◐", light: "☀", dark: "☾" };
  const name = () => {
    button.setAttribute("aria-label", `${t("appearance")}: ${t(`theme_${theme()}`)}`);
    button.title = button.getAttribute("aria-label");
    fill(button, h("span", { "aria-hidden": "true" }, words[theme()]));
  };
  name();
  return button;
}

function tongue() {
  const other = language === "zh" ? "en" : "zh";
  return h(
    "button",
    { type: "button", class: "icon-button", lang: other, title: LANGUAGES[other], onclick: () => setLanguage(other) },
    h("span", { "aria-hidden": "true" }, other === "zh" ? "中" : "En"),
    h("span", { class: "unseen" }, LANGUAGES[other]),
  );
}

function places() {
  const link = ([place, { drawing }]) =>
    h("li", {}, h("a", { class: "place", href: address.to(place), "data-place": place }, icon(drawing), t(place)));
  const nav = h("nav", { class: "places", "aria-label": t("places") }, h("ul", {}, ...Object.entries(PLACES).map(link)));
  return store.watch(nav, ({ place }) => {
    for (const entry of nav.querySelectorAll("a")) {
      if (entry.dataset.place === place) entry.setAttribute("aria-current", "page");
      else entry.removeAttribute("aria-current");
    }
  });
}

function toasts() {
  const place = h("div", { class: "toasts", role: "status" });
  return store.watch(place, ({ toast }, before) => {
    if (toast !== before.toast) fill(place, toast && h("div", { class: "toast" }, h("span", {}, toast)));
  });
}
