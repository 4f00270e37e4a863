// The switch for notifications on this device, in the settings.

import { fill, h } from "../dom.js";
import * as actions from "../actions.js";
import * as push from "../push.js";
import { t } from "../words.js";

/** On or off, and why it can't be. */
export function notify(user) {
  const body = h("div");
  const hint = h("p", { class: "hint", role: "status" });
  const show = (state) => {
    const option = (value, label, act) =>
      h(
        "label",
        { class: "choice" },
        h("input", {
          type: "radio",
          name: "notify",
          checked: value === (state === "on"),
          disabled: state === "impossible" || (state === "denied" && value),
          onchange: () => act().then(show, () => (actions.toast(t("failed")), refresh())),
        }),
        h("span", {}, label),
      );
    fill(body, option(false, t("notifyOff"), push.turnOff), option(true, t("notifyOn"), () => push.turnOn(user)));
    hint.textContent = { denied: t("notifyDenied"), impossible: t("notifyImpossible") }[state] ?? "";
  };
  const refresh = () => push.state(user).then(show);
  void refresh();
  return h("fieldset", { class: "choices" }, h("legend", {}, t("notify")), body, hint);
}
