// The side pane: mailboxes and channels, each with how much in it is unread; below, how the box fares.

import { fill, h, icon, iconButton, renew } from "../dom.js";
import * as actions from "../actions.js";
import { isMuted } from "../mutes.js";
import * as preferences from "../preferences.js";
import * as store from "../store.js";
import { ago } from "../time.js";
import { locale, t } from "../words.js";

const COUNT = new Intl.NumberFormat(locale);

export function side() {
  const places = h("ul", { class: "places" });
  const channels = h("ul", { class: "places" });
  const heading = h(
    "div",
    { class: "side-heading" },
    h("h2", {}, t("channels")),
    iconButton("settings", t("preferences"), preferences.open, { key: "p" }),
  );
  const state = h("p", { class: "side-state" });
  const pane = h(
    "nav",
    { class: "side", id: "side", "aria-label": t("mailboxes") },
    h("div", { class: "side-scroll" }, places, heading, channels),
    state,
  );
  const show = (now) => {
    renew(places, ...["inbox", "starred", "archived"].map((place) => entry(now, place)));
    const sorted = now.side.channels.toSorted(byUnreadAndTime);
    renew(channels, ...sorted.map((channel) => entry(now, "channel", channel)));
  };
  store.subscribe((now, before) => {
    if (now.side !== before.side || now.view !== before.view) keepFocus(pane, () => show(now));
    if (now.news !== before.news) fill(state, ...condition(now.news));
    if (now.drawer && !before.drawer) pane.querySelector("[aria-current]")?.focus();
  });
  setInterval(() => fill(state, ...condition(store.get().news)), 30_000);
  show(store.get());
  return pane;
}

/** The name of a channel for people. */
export function channelName(id, side = store.get().side) {
  return side.channels.find((channel) => channel.id === id)?.name ?? (id === "direct" ? t("direct") : id);
}

function entry({ view, side }, place, channel = null) {
  const unread = channel ? channel.unread : place === "inbox" ? side.unread : 0;
  const here = view.place === place && view.channel === (channel?.id ?? null);
  const muted = channel !== null && isMuted(channel);
  const name = channel ? channelName(channel.id, side) : t(place);
  const drawing = channel
    ? channel.id === "direct"
      ? "person"
      : muted
        ? "muted"
        : "hash"
    : place === "starred"
      ? "star"
      : place === "archived"
        ? "archive"
        : "inbox";
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: `place${unread && !muted ? " has-unread" : ""}${muted ? " is-muted" : ""}`,
        "aria-current": here ? "page" : null,
        "data-place": channel?.id ?? place,
        onclick: () => actions.go(place, channel?.id ?? null),
      },
      icon(drawing),
      h("bdi", { class: "place-name" }, name),
      muted ? h("span", { class: "unseen" }, ` ${t("muted")}`) : null,
      unread
        ? h("span", { class: "count" }, COUNT.format(unread), h("span", { class: "unseen" }, ` ${t("unreadState")}`))
        : null,
    ),
  );
}

function condition(news) {
  if (!news || news.phase === "broken") return [];
  const sentence =
    news.online === false
      ? null
      : news.busy
        ? t("updating")
        : news.indexed < 1
          ? t("indexing", Math.floor(news.indexed * 100))
          : news.syncedAt
            ? t("syncedAt", ago(news.syncedAt))
            : null;
  const waiting = news.waiting && news.online === false ? t("waitingToSend", news.waiting) : null;
  return [sentence, waiting].filter(Boolean).map((text) => h("span", {}, text));
}

function byUnreadAndTime(a, b) {
  return (a.id === "direct") - (b.id === "direct") || channelName(a.id).localeCompare(channelName(b.id), locale);
}

/** Draw anew, and give the focus back to what stands in the place of what had it. */
function keepFocus(pane, draw) {
  const had = document.activeElement?.closest("#side [data-place]")?.dataset.place;
  draw();
  if (had !== undefined)
    [...pane.querySelectorAll("[data-place]")].find(({ dataset }) => dataset.place === had)?.focus();
}
