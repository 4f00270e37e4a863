// What the person did to messages: read, starred, archived, deleted, and what of that the node doesn't know yet.
//
// A change is made here at once and put into the outbox in the same transaction. What the node says is put over
// everything but what waits in the outbox; so a change is never lost, and in the end the node is right.
//
// `seen` says the same by row of the box, in memory: with it lists are made of numbers, and no row of a large box
// has to be read but those that are shown.

const SCHEMA = `
CREATE TABLE IF NOT EXISTS marks(
  message_id TEXT PRIMARY KEY, read_at TEXT, archived_at TEXT, starred_at TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox(
  message_id TEXT, field TEXT, status TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY(message_id, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deletions(
  message_id TEXT PRIMARY KEY, due INTEGER NOT NULL, sent INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS seen(row INTEGER PRIMARY KEY, read INTEGER, archived INTEGER, starred INTEGER, deleted INTEGER);`;
const FIELDS = {
  read: ["read_at", true],
  unread: ["read_at", false],
  archived: ["archived_at", true],
  unarchived: ["archived_at", false],
  starred: ["starred_at", true],
  unstarred: ["starred_at", false],
};
const AT_ONCE = 2_000; // changes a request
const SEEN = `
INSERT OR REPLACE INTO temp.seen(row, read, archived, starred, deleted)
SELECT m.rowid, k.read_at IS NOT NULL, k.archived_at IS NOT NULL, k.starred_at IS NOT NULL, d.due IS NOT NULL`;
const MARKED = "LEFT JOIN marks k ON k.message_id=m.id LEFT JOIN deletions d ON d.message_id=m.id";
const UNREAD = `
SELECT m.id FROM box.messages m LEFT JOIN temp.seen s ON s.row=m.rowid
WHERE s.read IS NOT 1 AND s.archived IS NOT 1 AND s.deleted IS NOT 1`;

export class Marks {
  #files;
  #device;

  constructor(files, device) {
    this.#files = files;
    this.#device = device;
    files.run(SCHEMA);
    this.lookAtAll();
  }

  /** Make `changes`, each `{id, status}`, now. */
  change(changes, at = new Date().toISOString()) {
    const ids = Map.groupBy(changes, ({ status }) => status);
    this.#files.transaction(() => {
      for (const [status, some] of ids)
        this.#apply(
          some.map(({ id }) => id),
          status,
          at,
          true,
        );
      this.#look(changes.map(({ id }) => id));
    });
  }

  /** Mark everything in the inbox read, or everything in one channel; the ids of what was unread. */
  readAll(channel = null) {
    const ids =
      channel === null ? this.#files.values(UNREAD) : this.#files.values(`${UNREAD} AND m.channel_id=?`, [channel]);
    this.change(ids.map((id) => ({ id, status: "read" })));
    return ids;
  }

  /** Delete messages for good once `due` (ms since 1970) has come. */
  remove(ids, due) {
    for (const id of ids) this.#files.run("INSERT OR REPLACE INTO deletions(message_id, due) VALUES(?,?)", [id, due]);
    this.#look(ids);
  }

  /** Take deletions back that weren't sent yet. */
  restore(ids) {
    for (const id of ids) this.#files.run("DELETE FROM deletions WHERE message_id=? AND NOT sent", [id]);
    this.#look(ids);
  }

  /** When the next deletion is due; null if none is. */
  get nextDue() {
    return this.#files.value("SELECT min(due) FROM deletions WHERE NOT sent") ?? null;
  }

  /** How many changes the node doesn't know yet. */
  get waiting() {
    return this.#files.value("SELECT (SELECT count(*) FROM outbox)+(SELECT count(*) FROM deletions WHERE NOT sent)");
  }

  /** Tell the node what it doesn't know, and learn what is new there. True if anything changed here. */
  async exchange(server) {
    let changed = await this.#removeDue(server);
    for (let more = true; more;) {
      const sent = this.#files.rows("SELECT message_id, field, status, at FROM outbox LIMIT ?", [AT_ONCE]);
      const since = this.#files.setting("since");
      const changes = sent.map(({ message_id: messageId, status, at }) => ({
        messageId,
        status,
        at,
        device: this.#device,
      }));
      const answer = sent.length ? await server.push(changes, since) : await server.pull(since);
      this.#learn(sent, answer);
      changed ||= answer.full || answer.statuses.length > 0;
      more = answer.more || sent.length === AT_ONCE;
    }
    return changed;
  }

  /** There is another box: find its rows, and forget deletions that it knows of. */
  lookAtAll() {
    const files = this.#files;
    files.run("DELETE FROM deletions WHERE sent AND NOT EXISTS(SELECT 1 FROM box.messages WHERE id=message_id)");
    files.run(`DELETE FROM temp.seen;
      ${SEEN} FROM marks k CROSS JOIN box.messages m ON m.id=k.message_id LEFT JOIN deletions d ON d.message_id=m.id`);
    this.#look(files.values("SELECT message_id FROM deletions"));
  }

  async #removeDue(server) {
    const ids = this.#files.values("SELECT message_id FROM deletions WHERE NOT sent AND due<=?", [Date.now()]);
    for (const id of ids) {
      await server.remove(id);
      this.#files.run("UPDATE deletions SET sent=1 WHERE message_id=?", [id]);
    }
    return ids.length > 0;
  }

  #learn(sent, { full, since, statuses }) {
    const files = this.#files;
    files.transaction(() => {
      files.run(
        `DELETE FROM outbox WHERE (message_id, field, status, at) IN (SELECT
         value->>'message_id', value->>'field', value->>'status', value->>'at' FROM json_each(?))`,
        [JSON.stringify(sent)],
      );
      if (full) files.run("DELETE FROM marks");
      if (statuses.length) {
        files.run(
          `INSERT OR REPLACE INTO marks(message_id, read_at, archived_at, starred_at) SELECT
           value->>'messageId', value->>'readAt', value->>'archivedAt', value->>'starredAt' FROM json_each(?)`,
          [JSON.stringify(statuses)],
        );
      }
      if (full || statuses.length) {
        for (const { message_id, status, at } of files.rows("SELECT message_id, status, at FROM outbox")) {
          this.#apply([message_id], status, at, false);
        }
      }
      files.set("since", since);
      if (full) this.lookAtAll();
      else this.#look(statuses.map(({ messageId }) => messageId));
    });
  }

  #apply(ids, status, at, sends) {
    const [field, set] = FIELDS[status];
    const list = JSON.stringify(ids);
    this.#files.run(
      `INSERT INTO marks(message_id, ${field}) SELECT value, ?2 FROM json_each(?1) WHERE true
       ON CONFLICT DO UPDATE SET ${field}=excluded.${field}`,
      [list, set ? at : null],
    );
    if (!sends) return;
    this.#files.run(
      "INSERT OR REPLACE INTO outbox(message_id, field, status, at) SELECT value, ?2, ?3, ?4 FROM json_each(?1)",
      [list, field, status, at],
    );
  }

  /** Bring `seen` up to date for some messages. */
  #look(ids) {
    if (ids.length === 0) return;
    this.#files.run(`${SEEN} FROM json_each(?) CROSS JOIN box.messages m ON m.id=value ${MARKED}`, [
      JSON.stringify(ids),
    ]);
  }
}
