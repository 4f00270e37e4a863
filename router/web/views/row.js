// One message in the list: who, when, what about.

import { h, icon, iconButton } from "../dom.js";
import * as actions from "../actions.js";
import { ofMessage } from "../address.js";
import { flat } from "../markdown.js";
import { short, whole } from "../time.js";
import { t } from "../words.js";
import { channelName } from "./side.js";

const WORD = /[\p{L}\p{N}\p{M}]+/gu;

/** The row of `message`, at `index` of `total`. */
export function row(message, index, { total, view, side }) {
  const channel = channelName(message.channel, side);
  const who = message.sender || channel;
  const words = view.text.match(WORD) ?? [];
  const open = h(
    "a",
    {
      href: ofMessage(message.id),
      class: "row-open",
      tabIndex: -1,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        void actions.open(message.id).then(() => {
          if (!actions.isWide()) document.querySelector("#reader-title")?.focus();
        });
      },
    },
    h(
      "span",
      { class: "row-top" },
      message.read ? null : h("span", { class: "dot" }, h("span", { class: "unseen" }, `${t("unreadState")}: `)),
      h("bdi", { class: "row-who" }, who),
      message.sender && view.place !== "channel" ? h("bdi", { class: "row-channel" }, channel) : null,
      h("time", { class: "row-time", dateTime: message.at, title: whole(message.at) }, short(message.at)),
    ),
    h(
      "span",
      { class: "row-title" },
      priority(message),
      h("bdi", {}, ...marked(message.title.trim() || t("noTitle"), words)),
    ),
    h(
      "span",
      { class: "row-snippet" },
      message.archived && view.place !== "archived" ? h("span", { class: "tag" }, t("archived")) : null,
      h("bdi", {}, ...marked(snippet(message, words), words)),
    ),
  );
  return h(
    "li",
    {
      class: message.read ? "row" : "row is-unread",
      "aria-setsize": String(total),
      "aria-posinset": String(index + 1),
      "data-id": message.id,
    },
    avatar(who),
    open,
    iconButton("star", t(message.starred ? "unstar" : "star"), () => actions.toggleStar(message), {
      tabIndex: -1,
      class: message.starred ? "icon-button row-star is-on" : "icon-button row-star",
    }),
  );
}

/** A circle with the first letter of a name, in a colour that is always the same for it. */
export function avatar(name) {
  let hash = 2166136261;
  for (const char of name.toLowerCase()) hash = Math.imul(hash ^ char.codePointAt(0), 16777619) >>> 0;
  const letter = (name.match(/[\p{L}\p{N}]/u) ?? ["·"])[0].toLocaleUpperCase();
  const circle = h("span", { class: "avatar", "aria-hidden": "true" }, letter);
  circle.style.setProperty("--hue", String((hash >>> 8) % 360));
  return circle;
}

/** A sign for what is urgent, or can wait; null for what is neither. */
export function priority({ priority }) {
  if (priority >= 8)
    return h(
      "span",
      { class: "priority is-high", title: t("highPriority") },
      h("span", { class: "unseen" }, `${t("highPriority")}: `),
    );
  if (priority <= 3)
    return h(
      "span",
      { class: "priority is-low", title: t("lowPriority") },
      icon("down"),
      h("span", { class: "unseen" }, `${t("lowPriority")}: `),
    );
  return null;
}

/** The beginning, or what stands around the first word that was looked for. */
function snippet({ snippet }, words) {
  const text = flat(snippet);
  const at = words.length ? text.toLowerCase().indexOf(words[0].toLowerCase()) : -1;
  return at > 60 ? `…${text.slice(at - 30)}` : text;
}

/** `text` with `words` marked in it. */
function marked(text, words) {
  if (words.length === 0) return [text];
  const pattern = new RegExp(
    `(${words
      .toSorted((a, b) => b.length - a.length)
      .map((word) => RegExp.escape?.(word) ?? word)
      .join("|")})`,
    "iu",
  );
  return text.split(pattern).map((part, index) => (index % 2 ? h("mark", {}, part) : part));
}
