// What the list shows: its name, how much there is, and what narrows it.

import { fill, h, icon } from "../dom.js";
import * as actions from "../actions.js";
import * as store from "../store.js";
import { channelName } from "./side.js";
import { locale, t } from "../words.js";

const COUNT = new Intl.NumberFormat(locale);
const HITS_MAX = 2_000; // of box/search.js

export function filters() {
  const title = h("h1", { id: "view-title" });
  const amount = h("p", { class: "amount" });
  const readAll = h(
    "button",
    {
      type: "button",
      class: "text-button read-all",
      title: `${t("markAllRead")} (A)`,
      "aria-label": t("markAllRead"),
      "aria-keyshortcuts": "A",
      onclick: actions.readAll,
    },
    icon("check"),
    h("span", {}, t("markAllRead")),
  );
  const unread = chip("unread", t("unreadOnly"));
  const starred = chip("starred", t("starredOnly"));
  const priority = h(
    "select",
    {
      class: "chip",
      "aria-label": t("priority"),
      onchange: () => actions.filter({ priority: priority.value || null }),
    },
    ...["", "high", "normal", "low"].map((value) =>
      h("option", { value }, t(`priority${value ? value[0].toUpperCase() + value.slice(1) : "Any"}`)),
    ),
  );
  const show = ({ view, side, total }) => {
    const name = view.place === "channel" ? channelName(view.channel, side) : t(view.place);
    fill(title, h("bdi", {}, view.text.trim() ? t("searchTitle", view.text.trim()) : name));
    const unreadHere =
      view.place === "channel"
        ? (side.channels.find(({ id }) => id === view.channel)?.unread ?? 0)
        : view.place === "inbox"
          ? side.all
          : 0;
    const number = COUNT.format(unreadHere);
    amount.textContent =
      total === null
        ? ""
        : view.text.trim()
          ? t("nHits", total, HITS_MAX)
          : unreadHere
            ? t("nUnread", number)
            : total
              ? total === 1
                ? t("nMessages", 1)
                : t("nMessages", COUNT.format(total))
              : "";
    readAll.hidden = unreadHere === 0 || view.text !== "";
    for (const [button, on] of [
      [unread, view.unread],
      [starred, view.starred],
    ])
      button.setAttribute("aria-pressed", String(on));
    starred.hidden = view.place === "starred";
    priority.value = view.priority ?? "";
    priority.classList.toggle("is-on", view.priority !== null);
  };
  store.subscribe((now, before) => {
    if (now.view !== before.view || now.side !== before.side || now.total !== before.total) show(now);
  });
  show(store.get());
  return h(
    "div",
    { class: "list-head" },
    h("div", { class: "list-title" }, title, amount, readAll),
    h("div", { class: "chips", role: "group", "aria-label": t("filters") }, unread, starred, priority),
  );
}

function chip(field, label) {
  return h(
    "button",
    {
      type: "button",
      class: "chip",
      "aria-pressed": "false",
      onclick: () => actions.filter({ [field]: !store.get().view[field] }),
    },
    label,
  );
}
