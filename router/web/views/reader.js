// One message, with everything that can be done with it.

import { fill, h, iconButton, renew } from "../dom.js";
import * as actions from "../actions.js";
import * as preferences from "../preferences.js";
import { linkRow, link, offers } from "../links.js";
import { rendered } from "../markdown.js";
import * as store from "../store.js";
import { ago, whole } from "../time.js";
import { t } from "../words.js";
import { avatar, priority } from "./row.js";
import { channelName } from "./side.js";

const TITLE_MAX = 2_000; // characters
const LONG = 8_000; // characters: from here on only what is in sight is laid out
const AS_IT_CAME = new Set(["plain", "log", "code", "json"]); // message types that are no markdown

export function reader() {
  const pane = h("section", { class: "reader", "aria-label": t("message"), tabIndex: -1 });
  const show = (state) => (state.opened ? fill(pane, ...message(state)) : fill(pane, placeholder()));
  store.subscribe((now, before) => {
    if (now.holders !== before.holders) fill(pane.querySelector(".letter-devices") ?? h("p"), ...onDevices(now));
    if (now.opened !== null && now.opened.id !== before.opened?.id) void preferences.holders(now.opened.id);
    if (now.opened === before.opened && now.side === before.side) return;
    if (now.opened !== null && before.opened?.id === now.opened.id) {
      if (now.opened !== before.opened) refresh(pane, now);
      return;
    }
    if (now.opened === before.opened) return;
    show(now);
    pane.scrollTop = 0;
  });
  show(store.get());
  return pane;
}

/** Only the buttons change while a message is open. */
function refresh(pane, { opened }) {
  const had = document.activeElement?.closest(".reader-tools button")?.dataset.does;
  renew(pane.querySelector(".reader-tools"), ...tools(opened).children);
  if (had) pane.querySelector(`[data-does="${had}"]`)?.focus();
}

function message({ opened, side }) {
  const who = opened.sender || channelName(opened.channel, side);
  const { actions: offered, links, rest } = offers(opened.metadata);
  const title = opened.whole_title.trim().slice(0, TITLE_MAX) || t("noTitle");
  return [
    tools(opened),
    h(
      "article",
      { class: "letter", "aria-labelledby": "reader-title" },
      h("h2", { id: "reader-title", tabIndex: -1, dir: "auto" }, title),
      h(
        "div",
        { class: "letter-from" },
        avatar(who),
        h(
          "div",
          { class: "letter-who" },
          h("bdi", { class: "letter-sender" }, who),
          h(
            "button",
            { type: "button", class: "link-button", onclick: () => actions.go("channel", opened.channel) },
            h("bdi", {}, channelName(opened.channel, side)),
          ),
        ),
        h(
          "div",
          { class: "letter-when" },
          h("time", { dateTime: opened.at }, whole(opened.at)),
          h("span", {}, ago(opened.at)),
        ),
      ),
      urgency(opened),
      body(opened),
      offered.length
        ? h(
            "div",
            { class: "letter-actions", role: "group", "aria-label": t("actions") },
            ...offered.map(({ label, url }, index) =>
              link(url, { class: index ? "button" : "button is-first", title: url }, h("bdi", {}, label)),
            ),
          )
        : null,
      links.length
        ? h("div", { class: "letter-links", role: "group", "aria-label": t("links") }, ...links.map(linkRow))
        : null,
      rest.length
        ? h(
            "details",
            { class: "letter-details" },
            h("summary", {}, t("details")),
            h(
              "dl",
              {},
              ...rest.flatMap(([key, value]) => [
                h("dt", {}, h("bdi", {}, key)),
                h("dd", { dir: "auto" }, value.slice(0, 2_000)),
              ]),
            ),
          )
        : null,
      h("p", { class: "letter-devices" }),
    ),
  ];
}

/** Which devices have the message, and which are known not to. */
function onDevices({ holders }) {
  const names = (has) => holders?.devices.filter((device) => device.has === has).map(({ name }) => name) ?? [];
  const line = (words, some) => some.length ? h("span", {}, `${t(words)} `, h("bdi", {}, some.join(", "))) : null;
  return [line("onDevices", names(true)), line("notOnDevices", names(false))];
}

function tools(message) {
  const now = (act) => () => act(store.get().opened); // a button may stay while the message becomes another state
  const button = (name, label, act, key) => iconButton(name, label, now(act), { key, "data-does": key });
  return h(
    "div",
    { class: "reader-tools", role: "toolbar", "aria-label": t("message") },
    iconButton("back", t("back"), back, { class: "icon-button reader-back" }),
    h("span", { class: "spring" }),
    button(
      message.archived ? "unarchive" : "archive",
      t(message.archived ? "unarchive" : "archive"),
      actions.toggleArchive,
      "e",
    ),
    iconButton("star", t(message.starred ? "unstar" : "star"), now(actions.toggleStar), {
      key: "s",
      "data-does": "s",
      class: message.starred ? "icon-button is-on" : "icon-button",
    }),
    button(message.read ? "unread" : "read", t(message.read ? "markUnread" : "markRead"), actions.toggleRead, "u"),
    button("trash", t("remove"), actions.remove, "#"),
  );
}

function urgency(message) {
  const sign = priority(message);
  return (
    sign &&
    h(
      "p",
      { class: "letter-urgency" },
      sign,
      h("span", { "aria-hidden": "true" }, t(message.priority >= 8 ? "highPriority" : "lowPriority")),
    )
  );
}

function body({ content, type }) {
  const formatted = AS_IT_CAME.has(type) ? null : rendered(content);
  const name = content.length > LONG ? "letter-body is-long" : "letter-body";
  if (formatted) return h("div", { class: name, dir: "auto" }, formatted);
  const note = AS_IT_CAME.has(type) ? null : h("p", { class: "note" }, t("cutShort"));
  return h(
    "div",
    { class: name },
    note,
    ...pieces(content).map((piece) => h("pre", { class: "as-it-came", dir: "auto" }, piece)),
  );
}

/** Text in portions, cut between words: what is far out of sight needs no layout. */
function pieces(text) {
  const found = [];
  for (let at = 0; at < text.length;) {
    const most = at + LONG;
    const cut =
      most >= text.length ? text.length : Math.max(text.lastIndexOf("\n", most), text.lastIndexOf(" ", most)) + 1;
    const end = cut > at ? cut : most;
    found.push(text.slice(at, end));
    at = end;
  }
  return found;
}

function placeholder() {
  const key = (name) => h("kbd", {}, name);
  return h(
    "div",
    { class: "reader-empty" },
    h("img", { src: "icons/icon.svg", alt: "", width: 56, height: 56 }),
    h("p", { class: "nothing-title" }, t("pickOne")),
    h("p", {}, ...t("pickOneHint", key("j"), key("k"))),
  );
}

function back() {
  const { current } = store.get();
  actions.closeMessage();
  requestAnimationFrame(() =>
    document.querySelector(`.rows [data-id="${CSS.escape(current ?? "")}"] .row-open`)?.focus(),
  );
}
