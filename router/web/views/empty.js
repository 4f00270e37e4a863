// Why there is nothing in the list, and what can be done about it.

import { fill, h, icon } from "../dom.js";
import * as actions from "../actions.js";
import * as store from "../store.js";
import { t } from "../words.js";
import { meter } from "./banner.js";

/** Fill `place`; drawn again only if it says something else than before. */
export function empty(place) {
  const state = store.get();
  const { news } = state;
  const { drawing, title, hint, button } = reason(state);
  const shown = `${title}|${hint}`;
  if (place.dataset.shown !== shown) {
    place.dataset.shown = shown;
    fill(
      place,
      h("div", { class: "nothing-sign" }, icon(drawing)),
      h("p", { class: "nothing-title" }, title),
      hint && h("p", {}, hint),
      button,
      h("div", { class: "nothing-meter" }),
    );
  }
  const downloading = news.phase === "empty" && news.busy === "downloading";
  const bar = place.querySelector(".nothing-meter");
  if (downloading) fill(bar, meter(news));
  else fill(bar);
}

function reason({ news, view, user }) {
  if (news.phase === "broken") return { drawing: "close", title: t("brokenTitle"), hint: t("brokenHint") };
  if (!news.known) return { drawing: "inbox", title: t("unknownBox", user), hint: t("unknownBoxHint") };
  if (news.phase === "empty") {
    if (news.online === false) return { drawing: "inbox", title: t("offlineEmpty"), hint: t("offlineEmptyHint") };
    if (news.trouble !== null) return { drawing: "inbox", title: t("offlineEmpty"), hint: t(`${news.trouble}Trouble`) };
    return { drawing: "inbox", title: t(news.busy === "downloading" ? "downloading" : "loading") };
  }
  if (view.text.trim())
    return {
      drawing: "search",
      title: t("emptySearch"),
      hint: news.indexed < 1 ? t("indexing", Math.floor(news.indexed * 100)) : t("emptySearchHint"),
    };
  if (view.priority || (view.starred && view.place !== "starred"))
    return { drawing: "search", title: t("emptyFilter"), button: clearButton() };
  if (view.unread) return { drawing: "check", title: t("emptyUnread"), hint: t("emptyUnreadHint") };
  if (view.place === "starred") return { drawing: "star", title: t("emptyStarred"), hint: t("emptyStarredHint") };
  if (view.place === "archived") return { drawing: "archive", title: t("emptyArchived"), hint: t("emptyArchivedHint") };
  return { drawing: "check", title: t("emptyInbox"), hint: t("emptyInboxHint") };
}

function clearButton() {
  return h(
    "button",
    {
      type: "button",
      class: "text-button",
      onclick: () => actions.filter({ priority: null, starred: false, unread: false }),
    },
    t("clearFilters"),
  );
}
