// The key that a node asks for. It is kept in this tab, and sent to this node alone.

import { h } from "/inbox/dom.js";
import * as api from "../api.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { field } from "./parts.js";

export function signIn() {
  const key = h("input", { type: "password", required: true, autocomplete: "off", autofocus: true });
  const submit = async (event) => {
    event.preventDefault();
    api.useKey(key.value.trim());
    try {
      await api.get(api.path("users"), { limit: 1 });
      location.reload();
    } catch (problem) {
      api.useKey(null);
      key.complain(problem.status === 401 || problem.status === 403 ? t("badKey") : problem.message);
      key.focus();
    }
  };
  const wasRefused = api.hasKey();
  if (wasRefused) api.useKey(null);
  const form = h(
    "form",
    { class: "form sign-in", onsubmit: submit },
    h("h1", {}, t("signIn")),
    h("p", {}, t("signInHint")),
    field(t("key"), key),
    h("div", { class: "buttons" }, h("button", { class: "button is-first" }, t("signInDo"))),
  );
  if (wasRefused) key.complain(t("badKey"));
  return form;
}
