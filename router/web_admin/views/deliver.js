// A message by hand, with what it will look like beside it.

import { fill, h } from "/inbox/dom.js";
import { rendered } from "/inbox/markdown.js";
import * as address from "../address.js";
import * as api from "../api.js";
import { t } from "../words.js";
import { field, heading, input } from "./parts.js";

const FIELDS = { users: "to", channelId: "to", title: "title", content: "content", sender: "sender" };
const LOOK_MS = 700;
const LOOKS = 20;

/** To `chosen` to begin with: a user, or a channel if the address says so. */
export function deliver(chosen) {
  const toChannel = location.hash.endsWith("?channel");
  const to = input({ value: chosen ?? "", required: true });
  const parts = {
    to,
    title: input({ required: true, autocapitalize: "sentences", spellcheck: true }),
    content: h("textarea", { rows: 10 }),
    sender: input({ maxLength: 256, spellcheck: true }),
    priority: h("input", { type: "range", min: 1, max: 10, step: 1, value: 5 }),
  };
  const target = field(t("to"), to, { hint: t(toChannel ? "toChannelHint" : "toUsersHint") });
  const kinds = kind(toChannel, (isChannel) => {
    target.querySelector(".field-hint").textContent = t(isChannel ? "toChannelHint" : "toUsersHint");
    to.complain(null);
  });
  const output = h("output", { class: "priority-value" }, "5");
  const state = h("p", { class: "state", role: "status" });
  const submit = h("button", { class: "button is-first" }, t("sendIt"));
  const preview = h("div", { class: "preview" });
  const draw = () => shown(preview, parts.title.value, parts.content.value);
  parts.title.addEventListener("input", draw);
  parts.content.addEventListener("input", draw);
  parts.priority.addEventListener("input", () => (output.textContent = parts.priority.value));
  let id = crypto.randomUUID(); // a second press, after no answer, doubles nothing
  const form = h(
    "form",
    {
      class: "form",
      noValidate: true,
      oninput: () => (id = crypto.randomUUID()),
      onsubmit: async (event) => {
        event.preventDefault();
        const message = checked(parts, kinds.isChannel());
        if (message === null) return;
        submit.disabled = true;
        state.textContent = t("sending");
        try {
          const { targets } = await api.send("POST", api.path("messages"), { ...message, id });
          state.textContent = t("didSend", targets);
          void follow(id, state);
          id = crypto.randomUUID();
          parts.title.value = parts.content.value = "";
          draw();
        } catch (problem) {
          state.textContent = "";
          const control = parts[FIELDS[problem.field?.replace(/\[.*/, "")] ?? "to"];
          control.complain(problem.message);
          control.focus();
        }
        submit.disabled = false;
      },
    },
    kinds.element,
    target,
    field(t("messageTitle"), parts.title),
    field(t("content"), parts.content, { hint: t("contentHint") }),
    h(
      "div",
      { class: "form-pair" },
      field(t("sender"), parts.sender),
      field([t("priority"), output], parts.priority, { hint: t("priorityHint") }),
    ),
    h("div", { class: "buttons" }, submit, state),
  );
  draw();
  return h(
    "div",
    { class: "page" },
    heading(t("deliver")),
    h(
      "div",
      { class: "two" },
      form,
      h("section", { class: "preview-pane", "aria-label": t("preview") }, h("h2", {}, t("preview")), preview),
    ),
  );
}

function kind(toChannel, changed) {
  const radio = (value, words, checked) =>
    h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name: "kind", value, checked }),
      h("span", {}, words),
    );
  const element = h(
    "fieldset",
    { class: "choices" },
    h("legend", { class: "unseen" }, t("toWhom")),
    h("div", {}, radio("users", t("toUsers"), !toChannel), radio("channel", t("toChannel"), toChannel)),
  );
  const isChannel = () => element.querySelector("input:checked").value === "channel";
  element.addEventListener("change", () => changed(isChannel()));
  return { element, isChannel };
}

/** The message, or null and the fields say why. */
function checked({ to, title, content, sender, priority }, isChannel) {
  const names = to.value.split(/[\s,;]+/).filter(Boolean);
  const complaint = !names.length
    ? t("needUsers")
    : names.every(address.isName) && !(isChannel && names.length > 1)
      ? null
      : t("badId");
  to.complain(complaint);
  title.complain(title.value.trim() ? null : t("needTitle"));
  const wrong = [to, title].find((control) => control.hasAttribute("aria-invalid"));
  if (wrong) return (wrong.focus(), null);
  const message = { title: title.value.trim(), content: content.value, priority: Number(priority.value) };
  if (sender.value.trim()) message.sender = sender.value.trim();
  return isChannel ? { ...message, channelId: names[0] } : { ...message, users: [...new Set(names)] };
}

/** Say how far the message has come until it is everywhere. */
async function follow(id, state) {
  for (let look = 0; look < LOOKS && state.isConnected; look++) {
    try {
      const receipt = await api.get(api.path("messages", id, "receipt"));
      state.textContent = t("receipt", receipt);
      if (receipt.pending === 0) return;
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function shown(place, title, content) {
  if (!title && !content) return fill(place, h("p", { class: "nothing" }, t("previewEmpty")));
  const body = rendered(content);
  fill(
    place,
    h("h3", { class: "preview-title" }, h("bdi", {}, title)),
    body === null
      ? [h("p", { class: "note" }, t("cutShort")), h("pre", { class: "as-it-came" }, content.slice(0, 2_000))]
      : h("div", { class: "letter-body" }, body),
  );
}
