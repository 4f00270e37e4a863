// Everybody who has a box.

import { h } from "/inbox/dom.js";
import { ago, whole } from "/inbox/time.js";
import * as address from "../address.js";
import * as api from "../api.js";
import { number, size, t } from "../words.js";
import { found, heading, nothing, search, table } from "./parts.js";

export function users() {
  return h(
    "div",
    { class: "page" },
    heading(t("users"), search(api.path("users"), "users")),
    found(list, () => nothing(t("noUsers"), t("noUsersHint"))),
  );
}

function list(items) {
  const columns = [[t("user")], [t("messages"), "is-number"], [t("size"), "is-number"], [t("lastDelivery"), "is-number"]];
  return table(t("users"), columns, items.map(row));
}

function row({ id, messages, size: bytes, lastDelivery }) {
  return [
    h("a", { href: address.to("users", id) }, h("bdi", {}, id)),
    messages === null ? t("unknown") : number(messages),
    size(bytes),
    lastDelivery === null ? "–" : moment(lastDelivery),
  ];
}

/** How long ago, and when exactly for who asks. */
export function moment(iso) {
  return h("time", { dateTime: iso, title: whole(iso) }, ago(iso));
}
