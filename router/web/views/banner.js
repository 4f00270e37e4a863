// What a person should know of the state of things, above the list; nothing most of the time.

import { fill, h } from "../dom.js";
import * as store from "../store.js";
import { t } from "../words.js";

const SHOWN_FROM = 262_144; // bytes of a download: below, it is over before it is read

export function banner() {
  const place = h("div", { class: "banners" });
  const status = h("div", { role: "status" });
  const bar = h("div", { class: "progress", hidden: true });
  place.append(status, bar);
  store.subscribe(({ news }, before) => {
    if (news === before.news || news === null) return;
    const words = sentence(news);
    if (status.textContent !== (words ?? "")) fill(status, words && h("p", { class: "banner" }, words));
    progress(bar, news);
  });
  return place;
}

function sentence(news) {
  if (news.phase !== "ready") return null;
  if (news.online === false) return t("offline");
  if (news.trouble !== null) return t(`${news.trouble}Trouble`);
  return news.storage === "memory" ? t("memoryNote") : null;
}

/** For the first download the empty list shows it instead. */
function progress(bar, news) {
  bar.hidden = !(news.busy === "downloading" && news.total >= SHOWN_FROM && news.phase === "ready");
  if (!bar.hidden) fill(bar, meter(news));
}

export function meter({ done, total }) {
  const most = Math.max(1, total);
  return h("progress", { value: done, max: most, "aria-label": t("downloading") });
}
