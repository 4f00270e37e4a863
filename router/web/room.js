// How much a box holds, and how much it may: a line each for messages and bytes, with a bar where there is a limit.

import { h } from "./dom.js";

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

/** `usage` is what the node says of the box, `t` the page's own words. */
export function room({ messages, bytes, quotaMessages, quotaBytes, full }, t, locale) {
  const number = new Intl.NumberFormat(locale);
  const line = (held, most, words, format) => {
    const said = words(format(held), most === null ? null : format(most), held);
    const bar = most === null ? null : h("progress", { max: most, value: Math.min(held, most), "aria-label": said });
    return h("div", { class: "room" }, h("span", {}, said), bar);
  };
  return h(
    "div",
    {},
    line(messages, quotaMessages, (...all) => t("roomMessages", ...all), (value) => number.format(value)),
    line(bytes, quotaBytes, (...all) => t("roomBytes", ...all), (value) => size(value, locale)),
    full ? h("p", { class: "room-note" }, t("roomFull")) : null,
  );
}

export function size(bytes, locale) {
  const step = bytes > 0 ? Math.min(UNITS.length - 1, Math.floor(Math.log10(bytes) / 3)) : 0;
  const value = bytes / 1000 ** step;
  const maximumFractionDigits = value < 10 && step > 0 ? 1 : 0;
  return new Intl.NumberFormat(locale, { style: "unit", unit: UNITS[step], maximumFractionDigits }).format(value);
}
