// Many members at once, pasted or from a file; what was understood is shown before anything is sent.

import { h } from "/inbox/dom.js";
import * as actions from "../actions.js";
import { understood } from "../members.js";
import { t } from "../words.js";
import { dialog, field } from "./parts.js";

/** Into `channel`, or (null) into those that the text names; `done` is called afterwards. */
export function importing(channel, done) {
  dialog(t("importTitle"), (close) => {
    const text = h("textarea", { rows: 8, spellcheck: false, autofocus: true });
    const state = h("p", { class: "state", role: "status" });
    const submit = h("button", { class: "button is-first", disabled: true }, t("importDo"));
    const file = h("input", {
      type: "file",
      accept: ".txt,.csv,.json,text/plain,text/csv,application/json",
      onchange: async () => {
        if (file.files.length === 0) return;
        text.value = await file.files[0].text();
        text.dispatchEvent(new Event("input"));
      },
    });
    const pasted = field(t("users"), text, { hint: t(channel === null ? "importHint" : "importHintHere") });
    text.addEventListener("input", () => {
      const { words, problem, ready } = judged(understood(text.value), channel);
      text.complain(problem);
      state.textContent = words ?? "";
      submit.disabled = !ready;
    });
    const send = async (event) => {
      event.preventDefault();
      const { users, channels } = understood(text.value);
      submit.disabled = true;
      const work = () => (users === null ? actions.importAll(channels) : actions.join(channel, users));
      if (!(await actions.attempt(work, (added) => t("didImport", added)))) return (submit.disabled = false);
      close();
      await done();
    };
    return h(
      "form",
      { class: "form", onsubmit: send },
      pasted,
      field(t("importFile"), file),
      h("div", { class: "buttons" }, submit, state),
    );
  });
}

function judged({ users, channels, bad }, channel) {
  if (bad.length) return { problem: t("importBad", bad), ready: false };
  if (users !== null) {
    if (users.length === 0) return { ready: false };
    if (channel === null) return { problem: t("importNeedsChannel"), ready: false };
    return { words: t("importCount", users.length), ready: true };
  }
  if (channel !== null) return { problem: t("importWrongPlace"), ready: false };
  const all = Object.values(channels);
  const words = t(
    "importChannels",
    all.length,
    all.reduce((sum, names) => sum + names.length, 0),
  );
  return { words, ready: all.length > 0 };
}
