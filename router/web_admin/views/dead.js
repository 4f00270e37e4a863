// What could not be stored for somebody: to be delivered after all, or forgotten for good.

import { h, iconButton } from "/inbox/dom.js";
import * as actions from "../actions.js";
import * as address from "../address.js";
import * as api from "../api.js";
import * as lists from "../lists.js";
import { t } from "../words.js";
import { confirm, found, heading, input, nothing, table } from "./parts.js";
import { moment } from "./users.js";

const REASONS = ["busy", "damaged", "expired", "full", "io_error"];

export function dead() {
  const user = input({ type: "search", placeholder: t("deadOfUser"), "aria-label": t("user"), maxLength: 128 });
  const reason = h(
    "select",
    { "aria-label": t("reason") },
    h("option", { value: "" }, t("reasonAny")),
    ...REASONS.map((one) => h("option", { value: one }, t(`reason_${one}`))),
  );
  const look = () => {
    const userId = user.value.trim();
    const fits = userId === "" || address.isName(userId);
    if (fits) void lists.begin(api.path("dead-letters"), "deadLetters", "", { userId, reason: reason.value });
    user.setAttribute("aria-invalid", String(!fits));
  };
  user.addEventListener("change", look);
  user.addEventListener("search", look);
  reason.addEventListener("change", look);
  look();
  return h(
    "div",
    { class: "page" },
    heading(t("dead"), h("div", { class: "buttons" }, user, reason)),
    found(list, () => nothing(t("noDead"), t("noDeadHint"))),
  );
}

function list(items) {
  const columns = [[t("messageTitle")], [t("user")], [t("channel")], [t("reason")], [t("tries"), "is-number"]];
  return table(t("dead"), [...columns, [t("died"), "is-number"], [t("whatToDo"), "is-number"]], items.map(row));
}

function row({ id, title, userId, channelId, reason, tries, diedAt }) {
  const path = api.path("dead-letters", id);
  const again = async () => {
    const work = () => api.send("POST", `${path}/requeue`);
    if (await actions.attempt(work, t("didRequeue", title))) await lists.renew();
  };
  const forget = () =>
    confirm(t("forget"), t("forgetAsk", title, userId), async () => {
      if (await actions.attempt(() => api.remove(path), t("didForget", title))) await lists.renew();
    });
  return [
    h("bdi", { class: "title" }, title),
    h("a", { href: address.to("users", userId) }, h("bdi", {}, userId)),
    channelId,
    REASONS.includes(reason) ? t(`reason_${reason}`) : reason,
    String(tries),
    moment(diedAt),
    h(
      "span",
      { class: "row-buttons" },
      iconButton("again", t("requeue", title), again),
      iconButton("trash", `${t("forget")}: ${title}`, forget),
    ),
  ];
}
