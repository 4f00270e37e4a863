// Whose box it is, asked once.

import { h } from "../dom.js";
import { isName } from "../address.js";
import { t } from "../words.js";

export function welcome() {
  const problem = h("p", { class: "problem", id: "user-problem", role: "alert" });
  const field = h("input", {
    id: "user",
    type: "text",
    required: true,
    maxLength: 128,
    autocomplete: "username",
    autocapitalize: "off",
    spellcheck: false,
    "aria-describedby": "user-problem",
  });
  const submit = (event) => {
    event.preventDefault();
    const user = field.value.trim();
    if (isName(user)) location.search = `?user=${encodeURIComponent(user)}`;
    else {
      problem.textContent = t("badUser");
      field.setAttribute("aria-invalid", "true");
      field.focus();
    }
  };
  return h(
    "main",
    { class: "welcome" },
    h(
      "form",
      { onsubmit: submit, noValidate: true },
      h("img", { src: "icons/icon.svg", alt: "", width: 64, height: 64 }),
      h("h1", {}, t("welcome")),
      h("p", {}, t("welcomeHint")),
      h("label", { for: "user" }, t("userId")),
      h("div", { class: "welcome-row" }, field, h("button", { class: "button is-first" }, t("open"))),
      problem,
    ),
  );
}
