// What was just done, and the way back. A screen reader is told too.

import { fill, h } from "../dom.js";
import * as actions from "../actions.js";
import * as store from "../store.js";
import { t } from "../words.js";

export function toasts() {
  const place = h("div", { class: "toasts", role: "status" });
  store.subscribe(({ toast }, before) => {
    if (toast === before.toast) return;
    if (toast === null) return fill(place);
    const undo =
      toast.undo &&
      h("button", { type: "button", class: "toast-undo", "aria-keyshortcuts": "z", onclick: actions.undo }, t("undo"));
    fill(place, h("div", { class: "toast" }, h("span", {}, toast.text), undo));
  });
  return place;
}
