// What lies over the page: the help, the settings, and the panel of channels and devices.

import { fill, h, iconButton } from "../dom.js";
import * as actions from "../actions.js";
import { KEYS } from "../keys.js";
import * as preferences from "../preferences.js";
import * as push from "../push.js";
import * as settings from "../settings.js";
import * as store from "../store.js";
import { ago } from "../time.js";
import { notify } from "./notify.js";
import { LANGUAGES, language, t } from "../words.js";
import { follow, panel } from "./preferences.js";

const SIGNS = { ArrowDown: "↓", ArrowUp: "↑", Escape: "Esc" };
const CONTENT = { help, settings: ofThePage, preferences: (_state, close) => [head(t("preferences"), close), panel()] };

export function dialogs() {
  const dialog = h("dialog", {
    class: "dialog",
    "aria-labelledby": "dialog-title",
    onclose: () => store.set({ dialog: null }),
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  follow();
  store.subscribe((now, before) => {
    if (now.dialog === before.dialog) return;
    if (now.dialog === null) return dialog.open && dialog.close();
    fill(dialog, h("div", { class: "dialog-inside" }, ...CONTENT[now.dialog](now, () => dialog.close())));
    if (!dialog.open) dialog.showModal();
  });
  return dialog;
}

function head(title, close) {
  return h(
    "div",
    { class: "dialog-head" },
    h("h2", { id: "dialog-title" }, title),
    iconButton("close", t("close"), close),
  );
}

function help(_state, close) {
  const line = ({ keys, words }) => [
    h("dt", {}, ...keys.map((key) => h("kbd", {}, SIGNS[key] ?? key))),
    h("dd", {}, t(words)),
  ];
  return [head(t("keyboard"), close), h("dl", { class: "keys" }, ...KEYS.flatMap(line))];
}

function ofThePage({ user, news }, close) {
  const storage = news?.storage === "opfs" ? t("storageOpfs") : t("storageMemory");
  const state = news?.syncedAt ? t("syncedAt", ago(news.syncedAt)) : t("notSynced");
  return [
    head(t("settings"), close),
    h(
      "dl",
      { class: "facts" },
      h("dt", {}, t("account")),
      h(
        "dd",
        {},
        h("bdi", { class: "strong" }, user),
        h("button", { type: "button", class: "text-button", onclick: leave }, t("otherUser")),
      ),
      h("dt", {}, t("state")),
      h(
        "dd",
        {},
        `${state} · ${t(news?.live ? "live" : "polling")}`,
        h(
          "button",
          { type: "button", class: "text-button", onclick: () => (actions.syncNow(), close()) },
          t("syncNow"),
        ),
      ),
      h("dt", {}, t("storage")),
      h("dd", {}, storage),
    ),
    choice(
      t("appearance"),
      { auto: t("themeAuto"), light: t("themeLight"), dark: t("themeDark") },
      settings.theme(),
      settings.setTheme,
    ),
    choice(t("language"), LANGUAGES, language, settings.setLanguage),
    notify(user),
    h(
      "p",
      { class: "dialog-foot" },
      h("button", { type: "button", class: "text-button", onclick: preferences.open }, t("preferences"), h("kbd", {}, "p")),
      h(
        "button",
        {
          type: "button",
          class: "text-button",
          onclick: () => (close(), setTimeout(() => store.set({ dialog: "help" }))),
        },
        t("keyboard"),
        h("kbd", {}, "?"),
      ),
    ),
  ];
}

/** The next one to use this browser is not told of this one's messages. */
async function leave() {
  await push.turnOff().catch(() => {}); // the node may be away; the browser knows by now, and the node learns by its answer
  settings.leave();
}

function choice(title, options, now, choose) {
  const radio = ([value, label]) =>
    h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name: title, value, checked: value === now, onchange: () => choose(value) }),
      h("span", {}, label),
    );
  return h(
    "fieldset",
    { class: "choices" },
    h("legend", {}, title),
    h("div", {}, ...Object.entries(options).map(radio)),
  );
}
