// One person: the channels they are in, and what came last.

import { fill, h, icon, iconButton } from "/inbox/dom.js";
import { room } from "/inbox/room.js";
import { locale } from "/inbox/words.js";
import * as actions from "../actions.js";
import * as address from "../address.js";
import * as api from "../api.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { complaint, heading, table } from "./parts.js";
import { moment } from "./users.js";

const LAST = 10;

export function user(id) {
  const content = h("div", {});
  const page = h(
    "div",
    { class: "page" },
    h("a", { class: "text-button back", href: address.to("users") }, icon("back"), t("back", t("users"))),
    heading(
      id,
      h(
        "div",
        { class: "buttons" },
        h("a", { class: "button", href: `/inbox/?user=${encodeURIComponent(id)}` }, icon("inbox"), t("openInbox")),
        h("a", { class: "button", href: address.to("deliver", id) }, icon("send"), t("deliverTo")),
      ),
    ),
    content,
  );
  void load(id);
  return store.watch(page, ({ shown }, before) => {
    if (shown === before.shown && content.hasChildNodes()) return;
    if (shown === null) return fill(content, h("p", { class: "nothing" }, t("loading")));
    if (shown.problem?.status === 404) return fill(content, h("p", { class: "nothing" }, t("noUser")));
    if (shown.problem) return fill(content, complaint(shown.problem, () => load(id)));
    fill(content, ...parts(id, shown));
  });
}

async function load(id) {
  try {
    const [usage, { channels }, { messages }] = await Promise.all([
      api.get(api.path("users", id)),
      api.get(api.path("users", id, "channels")),
      api.get(api.path("users", id, "messages"), { limit: LAST }),
    ]);
    if (store.get().chosen === id) store.set({ shown: { usage, channels, messages } });
  } catch (problem) {
    if (store.get().chosen === id) store.set({ shown: { problem } });
  }
}

function parts(id, { usage, channels, messages }) {
  return [
    h("h2", {}, t("room")),
    room(usage, t, locale),
    h("h2", {}, t("memberOf")),
    channels.length ? h("ul", { class: "chips" }, ...channels.map((one) => chip(id, one))) : h("p", {}, t("inNoChannel")),
    h("h2", {}, t("lastMessages")),
    messages.length
      ? table(
          t("lastMessages"),
          [[t("messageTitle")], [t("channel")], [t("sender")], [t("priority"), "is-number"], [t("arrived"), "is-number"]],
          messages.map((one) => [
            h("bdi", { class: "title" }, one.title),
            one.channelId,
            h("bdi", {}, one.sender ?? ""),
            String(one.priority),
            moment(one.updatedAt ?? one.createdAt),
          ]),
        )
      : h("p", {}, t("noMessages")),
  ];
}

function chip(user, { id, name }) {
  const leave = async () => {
    const path = api.path("channels", id, "members", user);
    if (await actions.attempt(() => api.remove(path), t("didLeave", user, name))) await load(user);
  };
  return h(
    "li",
    { class: "chip" },
    h("a", { href: address.to("channels", id) }, h("bdi", {}, name)),
    iconButton("close", t("leave", name), leave),
  );
}
