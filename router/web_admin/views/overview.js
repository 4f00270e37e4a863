// What the node does just now.

import { fill, h } from "/inbox/dom.js";
import { ago } from "/inbox/time.js";
import * as store from "../store.js";
import { number, percent, size, t } from "../words.js";
import { heading, table } from "./parts.js";
import { spark } from "./spark.js";

const TILES = [
  ["accepted", true],
  ["stored", true],
  ["waiting", false],
  ["refused", true],
  ["requests", true],
  ["listeners", false],
  ["open", false],
  ["memory", false],
];
const NUMBER = "is-number";

export function overview() {
  const state = h("p", { class: "state" });
  const alerts = h("div", { class: "alerts", role: "status" });
  const tiles = h("dl", { class: "tiles" });
  const processes = h("div", {});
  const page = h("div", { class: "page" }, heading(t("overview"), state), alerts, tiles, processes);
  let said = null;
  return store.watch(page, (now, before) => {
    if (page.isConnected && now.figures === before.figures && now.silent === before.silent) return;
    const { figures, history, silent } = now;
    fill(state, silent ?? (figures ? condition(figures) : t("loading")));
    state.classList.toggle("is-bad", silent !== null);
    const wrong = JSON.stringify(now.alerts);
    if (wrong !== said) fill(alerts, ...now.alerts.map(alert)); // else a screen reader would be told each time
    said = wrong;
    if (figures === null) return;
    fill(tiles, ...TILES.map((one) => tile(one, figures, history)));
    const at = processes.querySelector(":focus")?.getAttribute("aria-label");
    fill(processes, shards(figures), routers(figures));
    if (at) [...processes.children].find((one) => one.getAttribute("aria-label") === at)?.focus();
  });
}

function condition({ shards, routers }) {
  const silent = [...shards, ...routers].filter(({ up }) => !up).length;
  return silent ? t("someSilent", silent) : t("allWell", shards.length, routers.length);
}

function alert({ shard, since, summary }) {
  return h(
    "div",
    { class: "alert" },
    h("strong", {}, t("alertShard", shard)),
    h("span", {}, summary),
    h("span", { class: "alert-since" }, t("alertSince", ago(since))),
  );
}

function tile([key, isRate], figures, history) {
  const value = key === "memory" ? size(figures.memory) : number(figures[key]);
  const unknown = isRate && !figures.known;
  return h(
    "div",
    { class: "tile", "data-figure": key },
    h("dt", {}, t(key)),
    h("dd", {}, h("span", { class: "tile-value" }, unknown ? "–" : value), isRate ? h("span", {}, t("perSecond")) : null),
    spark(history.map((one) => one[key])),
  );
}

function shards({ shards }) {
  const columns = [
    [t("shard")],
    [t("accepted"), NUMBER],
    [t("stored"), NUMBER],
    [t("lanes"), NUMBER],
    [t("postmen"), NUMBER],
    [t("open"), NUMBER],
    [t("rows"), NUMBER],
    [t("memory"), NUMBER],
    [t("cpu"), NUMBER],
    [t("breaker"), NUMBER],
  ];
  const row = (one) =>
    one.up
      ? [
          one.shard,
          number(one.accepted),
          number(one.stored),
          one.lanes.map(number).join(" · "),
          number(one.postmen),
          number(one.open),
          number(one.rows),
          size(one.memory),
          percent(one.cpu),
          word(one.breaker),
        ]
      : [one.shard, h("span", { class: "bad" }, t("silent")), "", "", "", "", "", "", "", word(one.breaker)];
  return table(t("shards"), columns, shards.map(row), { seen: true });
}

function word(breaker) {
  return breaker === "closed"
    ? t("closed")
    : h("span", { class: "bad" }, t(breaker === "open" ? "opened" : "halfOpen"));
}

function routers({ routers }) {
  const columns = [
    [t("router")],
    [t("requests"), NUMBER],
    [t("connections"), NUMBER],
    [t("listeners"), NUMBER],
    [t("memory"), NUMBER],
    [t("cpu"), NUMBER],
  ];
  const row = (one) =>
    one.up
      ? [
          one.process,
          number(one.requests),
          number(one.connections),
          number(one.listeners),
          size(one.memory),
          percent(one.cpu),
        ]
      : [one.process, h("span", { class: "bad" }, t("silent")), "", "", "", ""];
  return table(t("routers"), columns, routers.map(row), { seen: true });
}
