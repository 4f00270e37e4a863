// What a view shows, out of the box and the marks: a list of row numbers, and rows by their place in it.
//
// A view is `{place, channel, unread, starred, priority, text, keep}`: place is "inbox", "starred", "archived" or
// "channel"; `keep` is a message that stays though it no longer fits. Lists are kept until something changes.
//
// A list is made of what the indexes of the box hold (created_at, channel_id, priority, and the row): to read
// the rows themselves takes a hundred times as long, and is done for those that are shown.

import { HITS_MAX, matchOf } from "./search.js";

const FROM = "FROM box.messages m LEFT JOIN temp.seen s ON s.row=m.rowid";
const NOT_DELETED = "s.deleted IS NOT 1";
const PLACES = {
  inbox: "s.archived IS NOT 1",
  starred: "s.starred",
  archived: "s.archived",
  channel: "s.archived IS NOT 1 AND m.channel_id=:channel",
};
const PRIORITIES = { high: "priority>=8", normal: "priority BETWEEN 4 AND 7", low: "priority<=3" };
const KEPT_MAX = 6;
const SNIPPET = 400; // characters
const TITLE_MAX = 400;
const COLUMNS = `
m.rowid AS row, m.id, m.channel_id AS channel, substr(m.title,1,${TITLE_MAX}) AS title, m.sender,
substr(m.content,1,${SNIPPET}) AS snippet, m.message_type AS type, m.priority, m.created_at AS at,
s.read IS 1 AS read, s.archived IS 1 AS archived, s.starred IS 1 AS starred`;

export class Listing {
  #files;
  #kept = new Map();
  #side = null;

  constructor(files) {
    this.#files = files;
  }

  /** Something changed: what was kept is no longer true. */
  changed() {
    this.#kept.clear();
    this.#side = null;
  }

  /** `count` messages of `view` from place `from` on, and how many there are. */
  page(view, from, count) {
    const all = this.#rows(view);
    const wanted = all.slice(from, from + count);
    const found = new Map();
    for (const row of this.#files.rows(`SELECT ${COLUMNS} ${FROM} WHERE m.rowid IN (SELECT value FROM json_each(?))`, [
      JSON.stringify(wanted),
    ])) {
      found.set(row.row, row);
    }
    return { total: all.length, rows: wanted.map((row) => found.get(row)).filter(Boolean) };
  }

  /** The place of a message in `view`; -1 if it isn't there. */
  place(view, id) {
    const row = this.#files.value("SELECT rowid FROM box.messages WHERE id=?", [id]);
    return row === undefined ? -1 : this.#rows(view).indexOf(row);
  }

  /** All of one message; null if it isn't here. */
  message(id) {
    const [found] = this.#files.rows(
      `SELECT ${COLUMNS}, m.content, m.metadata, m.title AS whole_title ${FROM} WHERE m.id=? AND ${NOT_DELETED}`,
      [id],
    );
    return found ?? null;
  }

  /** What stands beside the list: channels with what is unread in each, and how the person is in it. */
  side() {
    return (this.#side ??= this.#count());
  }

  #count() {
    const channels = this.#files.rows(`
      SELECT m.channel_id AS id, count(*) AS total, sum(s.read IS NOT 1) AS unread, max(m.created_at) AS at,
        (SELECT name FROM box.channels c WHERE c.id=m.channel_id) AS name
      ${FROM} WHERE s.archived IS NOT 1 AND ${NOT_DELETED} GROUP BY m.channel_id`);
    const known = new Map(channels.map((channel) => [channel.id, channel]));
    for (const { id, name, joined, muted, until } of this.#files.rows(this.#memberships())) {
      if (!known.has(id)) {
        if (!joined) continue;
        known.set(id, { id, name, total: 0, unread: 0, at: null });
        channels.push(known.get(id));
      }
      Object.assign(known.get(id), { joined, muted, until });
    }
    const none = { joined: 0, muted: 0, until: null };
    return { channels: channels.map((channel) => ({ ...none, ...channel })) };
  }

  /** Of the person's channels; a box that was never muted anything may be older than that column. */
  #memberships() {
    const timed = this.#files.value("SELECT 1 FROM pragma_table_info('user_channels', 'box') WHERE name='muted_until'");
    return `
      SELECT c.id, c.name, u.channel_id IS NOT NULL AS joined, u.is_muted IS 1 AS muted,
        ${timed ? "u.muted_until" : "NULL"} AS until
      FROM box.channels c LEFT JOIN box.user_channels u ON u.channel_id=c.id`;
  }

  #rows(view) {
    const key = JSON.stringify(view);
    let rows = this.#kept.get(key);
    if (rows === undefined) {
      rows = this.#select(view);
      this.#kept.set(key, rows);
      if (this.#kept.size > KEPT_MAX) this.#kept.delete(this.#kept.keys().next().value);
    }
    return rows;
  }

  #select({ place, channel, unread, starred, priority, text, keep }) {
    const bind = {};
    const searches = Boolean(text?.trim());
    const match = searches ? matchOf(text) : null;
    if (searches && match === null) return [];
    const where = [NOT_DELETED];
    if (!(searches && place === "inbox")) where.push(PLACES[place]);
    if (place === "channel") bind[":channel"] = channel;
    if (starred) where.push("s.starred");
    if (priority) where.push(`m.rowid IN (SELECT rowid FROM box.messages WHERE ${PRIORITIES[priority]})`);
    if (unread) {
      where.push("(s.read IS NOT 1 OR m.rowid=:keep)");
      bind[":keep"] = this.#files.value("SELECT rowid FROM box.messages WHERE id=?", [keep ?? ""]) ?? 0;
    }
    let from = FROM;
    if (match !== null) {
      from = `FROM (SELECT rowid AS hit FROM found.words WHERE words MATCH :match ORDER BY rowid DESC LIMIT ${HITS_MAX})
        CROSS JOIN box.messages m ON m.rowid=hit LEFT JOIN temp.seen s ON s.row=m.rowid`;
      bind[":match"] = match;
    }
    const sql = `SELECT m.rowid ${from} WHERE ${where.join(" AND ")} ORDER BY m.created_at DESC, m.rowid DESC`;
    return this.#files.values(sql, Object.keys(bind).length ? bind : undefined);
  }
}
