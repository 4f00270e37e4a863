// One channel: what it is called, and who is in it.

import { fill, h, icon, iconButton } from "/inbox/dom.js";
import * as actions from "../actions.js";
import * as address from "../address.js";
import * as api from "../api.js";
import * as lists from "../lists.js";
import * as store from "../store.js";
import { number, t } from "../words.js";
import { importing } from "./importing.js";
import { button, complaint, confirm, field, found, heading, input, nothing, search } from "./parts.js";

export function channel(id) {
  const about = h("div", {});
  const count = h("p", { class: "state" });
  const membersPath = api.path("channels", id, "members");
  const renew = () => Promise.all([load(id), lists.renew()]);
  const page = h(
    "div",
    { class: "page" },
    h("a", { class: "text-button back", href: address.to("channels") }, icon("back"), t("back", t("channels"))),
    heading(
      id,
      h(
        "div",
        { class: "buttons" },
        h("a", { class: "button", href: address.to("deliver", id, "channel") }, icon("send"), t("deliverTo")),
        button(t("deleteChannel"), () => remove(id), { drawing: "trash" }),
      ),
    ),
    about,
    h(
      "div",
      { class: "heading is-second" },
      h("h2", {}, t("members")),
      search(membersPath, "members"),
      h("div", { class: "buttons" }, button(t("importTitle"), () => importing(id, renew), { drawing: "upload" })),
    ),
    found(
      (items) => h("ul", { class: "chips" }, ...items.map((user) => chip(id, user, renew))),
      () => nothing(t("noMembers")),
    ),
  );
  void load(id);
  return store.watch(page, ({ shown }, before) => {
    if (shown === before.shown && about.hasChildNodes()) return;
    if (shown === null) return fill(about, h("p", {}, t("loading")));
    if (shown.problem) return fill(about, complaint(shown.problem, () => load(id)));
    count.textContent = `${t("members")}: ${number(shown.members)}`;
    if (!about.contains(count)) fill(about, form(id, shown, count)); // else somebody may be writing in it
  });
}

async function load(id) {
  try {
    const shown = await api.get(api.path("channels", id));
    if (store.get().chosen === id) store.set({ shown });
  } catch (problem) {
    if (store.get().chosen === id) store.set({ shown: { problem } });
  }
}

function form(id, { name, description }, count) {
  const called = input({ value: name, maxLength: 256 });
  const told = input({ value: description ?? "", maxLength: 4096 });
  const submit = (event) => {
    event.preventDefault();
    const spec = { name: called.value.trim() || id, description: told.value.trim() };
    return actions.attempt(() => api.send("PUT", api.path("channels", id), spec), t("didSave"));
  };
  return h(
    "form",
    { class: "form is-row", onsubmit: submit },
    field(t("name"), called),
    field(t("description"), told, { wide: true }),
    h("button", { class: "button" }, t("save")),
    count,
  );
}

function chip(channel, user, renew) {
  const remove = async () => {
    const path = api.path("channels", channel, "members", user);
    if (await actions.attempt(() => api.remove(path), t("didRemove", user))) await renew();
  };
  return h(
    "li",
    { class: "chip" },
    h("a", { href: address.to("users", user) }, h("bdi", {}, user)),
    iconButton("close", t("removeMember", user), remove),
  );
}

function remove(id) {
  confirm(t("deleteChannel"), t("deleteChannelAsk", id, store.get().shown?.members ?? 0), async () => {
    const done = await actions.attempt(() => api.remove(api.path("channels", id)), t("didDelete", id));
    if (done) address.go("channels");
  });
}
