// What the node does, of two readings of /metrics. Nothing here asks or shows anything.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const BREAKERS = ["closed", "halfOpen", "open"];

/** A text of Prometheus as `Map(name → [{labels, value}])`, with the moment it was read, in ms. */
export function parsed(text, at) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (found === null || found[1].endsWith("_bucket")) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!samples.has(found[1])) samples.set(found[1], []);
    samples.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return { at, samples };
}

/** What is so `after`, and what was done a second since `before` (null: not known yet). */
export function between(before, after) {
  const shards = ids(after, "shard").map((shard) => ofShard(before, after, shard));
  const routers = ids(after, "process").map((process) => ofRouter(before, after, process));
  const sum = (parts, key) => parts.reduce((total, part) => total + (part[key] ?? 0), 0);
  return {
    at: after.at,
    known: before !== null,
    shards,
    routers,
    accepted: sum(shards, "accepted"),
    stored: sum(shards, "stored"),
    refused: sum(shards, "refused"),
    waiting: sum(shards, "waiting"),
    requests: sum(routers, "requests"),
    listeners: sum(routers, "listeners"),
    open: sum(shards, "open"),
    memory: sum(shards, "memory") + sum(routers, "memory"),
  };
}

function ofShard(before, after, shard) {
  const own = { shard };
  const now = (name, labels) => total(after, name, { ...own, ...labels });
  const rate = (name) => growth(before, after, name, own);
  return {
    shard,
    up: now("pobox_up") === 1,
    accepted: rate("pobox_deliveries_accepted_total"),
    stored: rate("pobox_deliveries_stored_total"),
    refused: rate("pobox_letters_refused_total"),
    waiting: now("pobox_waiting"),
    lanes: ["high", "normal", "low"].map((lane) => now("pobox_lane_users", { lane })),
    postmen: now("pobox_postmen"),
    memory: now("process_resident_memory_bytes"),
    cpu: rate("process_cpu_seconds_total"),
    open: now("pobox_mailboxes_open"),
    rows: now("pobox_journal_rows"),
    breaker: BREAKERS[Math.max(0, ...values(after, "pobox_link_breaker", { to_shard: shard }))],
  };
}

function ofRouter(before, after, process) {
  const own = { process };
  const now = (name) => total(after, name, own);
  return {
    process,
    up: now("pobox_up") === 1,
    requests: growth(before, after, "pobox_http_seconds_count", own),
    connections: now("pobox_connections"),
    listeners: now("pobox_listeners"),
    memory: now("process_resident_memory_bytes"),
    cpu: growth(before, after, "process_cpu_seconds_total", own),
  };
}

function ids(reading, label) {
  const found = (reading.samples.get("pobox_up") ?? []).map(({ labels }) => labels[label]);
  return found.filter((id) => id !== undefined).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}

function values(reading, name, wanted) {
  const fits = ({ labels }) => Object.entries(wanted).every(([label, value]) => labels[label] === value);
  return (reading.samples.get(name) ?? []).filter(fits).map(({ value }) => value);
}

function total(reading, name, wanted) {
  return values(reading, name, wanted).reduce((sum, value) => sum + value, 0);
}

/** A second; a process that was started anew counts from nothing. */
function growth(before, after, name, wanted) {
  if (before === null || after.at <= before.at) return 0;
  const was = total(before, name, wanted);
  const is = total(after, name, wanted);
  return ((is >= was ? is - was : is) * 1000) / (after.at - before.at);
}
