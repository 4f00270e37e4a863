// The panel of channels and devices: what the person is in and hears, what there is to join, which devices there are.

import { h, icon, iconButton, renew } from "../dom.js";
import { isMuted, SPANS } from "../mutes.js";
import * as preferences from "../preferences.js";
import { room } from "../room.js";
import * as settings from "../settings.js";
import * as store from "../store.js";
import { ago, moment } from "../time.js";
import { locale, t } from "../words.js";
import { channelName } from "./side.js";

/** What the dialog holds; drawn anew, with the focus where it was, whenever something of it changed. */
export function panel() {
  const place = h("div", { class: "panel" });
  draw(place, store.get());
  return place;
}

/** Keep an open panel in step with the state. */
export function follow() {
  store.subscribe((now, before) => {
    const place = document.querySelector(".panel");
    if (place === null || now.dialog !== "preferences") return;
    if (now.news?.generation !== before.news?.generation) void preferences.load();
    const changed = now.side !== before.side || now.preferences !== before.preferences;
    if (!changed && now.news?.online === before.news?.online) return;
    const had = document.activeElement?.closest(".panel [data-control]")?.dataset.control;
    const top = place.closest("dialog").scrollTop;
    draw(place, now);
    place.closest("dialog").scrollTop = top;
    if (had === undefined) return;
    const again = place.querySelector(`[data-control="${CSS.escape(had)}"]:not(:disabled)`);
    (again ?? place.closest("dialog").querySelector(".icon-button")).focus();
  });
}

function draw(place, { side, news, preferences: { open, devices, usage, busy, leaving } }) {
  const offline = news?.online === false;
  const mine = side.channels.filter(({ joined }) => joined).toSorted(byName);
  const others = (open ?? []).filter(({ id }) => !mine.some((channel) => channel.id === id)).toSorted(byName);
  renew(
    place,
    h("p", { class: "panel-note", role: "status" }, offline ? t("needsNetwork") : ""),
    section(
      "joinedChannels",
      mine.map((channel) => joined(channel, { disabled: offline || busy === channel.id, leaving: leaving === channel.id })),
      t("noChannels"),
    ),
    section(
      "openChannels",
      others.map((channel) => joinable(channel, offline || busy === channel.id)),
      open === null ? t(offline ? "needsNetwork" : "loadingList") : t("noOpenChannels"),
    ),
    section(
      "devices",
      (devices ?? []).map((device) => known(device, offline)),
      devices === null ? t(offline ? "needsNetwork" : "loadingList") : t("noDevices"),
    ),
    usage === null ? null : h("section", { "aria-labelledby": "panel-room" }, h("h3", { id: "panel-room" }, t("room")), room(usage, t, locale)),
  );
}

function section(words, items, nothing) {
  const id = `panel-${words}`;
  return h(
    "section",
    { "aria-labelledby": id },
    h("h3", { id }, t(words)),
    items.length ? h("ul", { class: "panel-list" }, ...items) : h("p", { class: "panel-nothing" }, nothing),
  );
}

function joined(channel, { disabled, leaving }) {
  const name = channelName(channel.id);
  const muted = isMuted(channel);
  const choice = h(
    "select",
    {
      class: "panel-choice",
      "aria-label": t("muteOf", name),
      "data-control": `mute ${channel.id}`,
      disabled,
      onchange: () => void preferences.mute(channel.id, choice.value),
    },
    muted ? h("option", { value: "now", selected: true }, mutedState(channel)) : null,
    h("option", { value: "" }, t(muted ? "unmute" : "heard")),
    ...Object.keys(SPANS).map((span) => h("option", { value: span }, t(span))),
  );
  const out = (text, act, control) =>
    h("button", { type: "button", class: "text-button", disabled, "data-control": control, onclick: act }, text);
  return h(
    "li",
    { class: muted ? "panel-item is-muted" : "panel-item" },
    icon(muted ? "muted" : "hash"),
    h("bdi", { class: "panel-name" }, name),
    h(
      "span",
      { class: "panel-controls" },
      choice,
      leaving
        ? null
        : h(
            "button",
            {
              type: "button",
              class: "text-button",
              disabled,
              "aria-label": t("leaveOf", name),
              "data-control": `leave ${channel.id}`,
              onclick: () => void preferences.leave(channel.id),
            },
            t("leave"),
          ),
    ),
    leaving
      ? h(
          "span",
          { class: "panel-sure", role: "alert" },
          h("span", {}, t("noWayBack")),
          out(t("leave"), () => void preferences.leave(channel.id), `leave ${channel.id}`),
          out(t("stay"), preferences.stay, `stay ${channel.id}`),
        )
      : null,
  );
}

function mutedState({ until }) {
  return until === null ? t("mutedForGood") : t("mutedUntil", moment(until));
}

function joinable({ id, name, description, members }, disabled) {
  return h(
    "li",
    { class: "panel-item" },
    icon("hash"),
    h(
      "span",
      { class: "panel-name" },
      h("bdi", {}, name),
      h("small", {}, [description, t("nMembers", members)].filter(Boolean).join(" · ")),
    ),
    h(
      "button",
      {
        type: "button",
        class: "button",
        disabled,
        "aria-label": t("joinOf", name),
        "data-control": `join ${id}`,
        onclick: () => void preferences.join(id),
      },
      t("join"),
    ),
  );
}

function known({ name, lastSync, version, newest, push }, disabled) {
  const here = name === settings.device();
  const state = newest ? t("deviceNewest") : version ? t("deviceBehind") : t("deviceUnknown");
  const said = [here ? t("thisDevice") : null, state, push ? t("deviceTold") : null, t("lastSync", ago(lastSync))];
  return h(
    "li",
    { class: "panel-item" },
    icon("device"),
    h(
      "span",
      { class: "panel-name" },
      h("bdi", {}, name),
      h("small", {}, said.filter(Boolean).join(" · ")),
    ),
    here
      ? null
      : iconButton("close", t("forgetOf", name), () => void preferences.forget(name), {
          disabled,
          "data-control": `forget ${name}`,
        }),
  );
}

function byName(a, b) {
  return (a.name ?? a.id).localeCompare(b.name ?? b.id, locale);
}
