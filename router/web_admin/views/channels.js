// All channels.

import { h } from "/inbox/dom.js";
import * as actions from "../actions.js";
import * as address from "../address.js";
import * as api from "../api.js";
import * as lists from "../lists.js";
import { number, t } from "../words.js";
import { importing } from "./importing.js";
import { button, dialog, field, found, heading, input, nothing, search, table } from "./parts.js";
import { moment } from "./users.js";

export function channels() {
  return h(
    "div",
    { class: "page" },
    heading(
      t("channels"),
      search(api.path("channels"), "channels"),
      h(
        "div",
        { class: "buttons" },
        button(t("newChannel"), create, { first: true }),
        button(t("importTitle"), () => importing(null, lists.renew), { drawing: "upload" }),
      ),
    ),
    found(list, () => nothing(t("noChannels"), t("noChannelsHint"))),
  );
}

function list(items) {
  const row = ({ id, name, members, createdAt }) => [
    h("a", { href: address.to("channels", id) }, h("bdi", {}, id)),
    h("bdi", {}, name === id ? "" : name),
    number(members),
    moment(createdAt),
  ];
  const columns = [[t("channel")], [t("name")], [t("members"), "is-number"], [t("created"), "is-number"]];
  return table(t("channels"), columns, items.map(row));
}

function create() {
  dialog(t("newChannel"), (close) => {
    const id = input({ required: true, maxLength: 128, autofocus: true });
    const name = input({ maxLength: 256 });
    const description = h("textarea", { rows: 3, maxLength: 4096 });
    const submit = async (event) => {
      event.preventDefault();
      if (!address.isName(id.value)) return (id.complain(t("badId")), id.focus());
      const spec = { name: name.value.trim() || undefined, description: description.value.trim() || undefined };
      const work = () => api.send("PUT", api.path("channels", id.value), spec);
      if (!(await actions.attempt(work, t("didCreate", id.value)))) return;
      close();
      address.go("channels", id.value);
    };
    return h(
      "form",
      { class: "form", onsubmit: submit, noValidate: true },
      field(t("channelId"), id, { hint: t("idHint") }),
      field(t("name"), name),
      field(t("description"), description),
      h("div", { class: "buttons" }, h("button", { class: "button is-first" }, t("create"))),
    );
  });
}
