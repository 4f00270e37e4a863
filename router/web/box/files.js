// The files of one person's box in this browser, behind one connection.
//
//   main   marks.db: what was read, starred, archived, what waits to be sent. The only file worth anything.
//   box    messages.db as the node has it, byte for byte; never written to. Each version is a file of its own,
//          and the one that `state` names is the box; so a switch is one transaction, and happens or doesn't.
//   found  search.db: the words of the box, made here, and made again when anything is wrong with it.
//
// They lie in the origin private file system if there is one, else in memory.

import sqlite3InitModule from "../vendor/sqlite-wasm/index.mjs";

const HANDLES = 12; // files that the pool holds at once: three databases, their journals, a box that comes
const CHUNK = 1 << 20;
const TRIES = 100; // ten a second: a tab that closes lets go of its files a moment after its lock, or some seconds
const EMPTY = `
CREATE TABLE box.messages(id TEXT PRIMARY KEY, channel_id TEXT, title TEXT, content TEXT, message_type TEXT,
  priority INTEGER, sender TEXT, created_at TEXT, updated_at TEXT, metadata TEXT);
CREATE TABLE box.channels(id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE box.user_channels(channel_id TEXT, user_id TEXT, joined_at TEXT, is_muted INTEGER);`;

export class Files {
  #sqlite3;
  #pool;
  #name = null; // of the box's file; null: it is in memory
  db;
  version = null;
  checksum = null;
  bytes = 0;

  /** Open what there is for `user`. `storage` says where it lies: "opfs" or "memory". */
  static async open(user) {
    globalThis.sqlite3ApiConfig = {
      warn() {},
      disable: { vfs: { opfs: true, "opfs-vfs": true, "opfs-wl": true, kvvfs: true } },
    };
    const sqlite3 = await sqlite3InitModule({ print() {}, printErr() {} });
    const folder = `pobox/${folderOf(user)}`;
    const files = new Files();
    files.#sqlite3 = sqlite3;
    files.#pool = await pool(sqlite3, folder);
    files.folder = files.#pool && (await directory(folder));
    files.#connect();
    return files;
  }

  get storage() {
    return this.#pool === null ? "memory" : "opfs";
  }

  rows(sql, bind) {
    return this.db.selectObjects(sql, bind);
  }

  values(sql, bind) {
    return this.db.selectValues(sql, bind);
  }

  value(sql, bind) {
    return this.db.selectValue(sql, bind);
  }

  run(sql, bind) {
    this.db.exec({ sql, bind });
  }

  /** All of `work`, or nothing of it. */
  transaction(work) {
    return this.db.transaction(work); // not IMMEDIATE: that would ask to write to the box too
  }

  setting(key) {
    return this.value("SELECT value FROM state WHERE key=?", [key]) ?? null;
  }

  set(key, value) {
    this.run("INSERT INTO state(key, value) VALUES(?,?) ON CONFLICT DO UPDATE SET value=excluded.value", [key, value]);
  }

  /** The bytes of the box as they lie there; null if there is none, or it can't be read. */
  read() {
    try {
      if (this.#name !== null) return this.#pool.exportFile(this.#name);
      return this.version === null ? null : this.#sqlite3.capi.sqlite3_js_db_export(this.db, "box");
    } catch {
      return null;
    }
  }

  /** Put a new version in the place of the box. Where there is no room for it on disk it is held in memory. */
  async replace(content, version, checksum) {
    const name = this.#pool && `/box-${version.replace(/[^0-9A-Za-z]/g, "")}-${Date.now()}.db`;
    let stored = name;
    try {
      if (name) await this.#pool.importDb(name, chunks(content));
    } catch {
      stored = null;
    }
    const old = this.#name;
    this.run("DETACH box");
    if (stored) this.#attach(stored);
    else this.#hold(content);
    Object.assign(this, { version, checksum, bytes: content.length });
    if (this.#pool && !stored) return; // what is on disk stays the box of the next start
    this.transaction(() => {
      this.set("file", stored);
      this.set("version", version);
      this.set("checksum", checksum);
    });
    if (old) this.#pool.unlink(old);
  }

  /** Whether the box is in memory for want of room on the disk. */
  get crowded() {
    return this.#pool !== null && this.#name === null && this.version !== null;
  }

  /** There is no box here any more; the next sync brings one. */
  forget() {
    this.run("DETACH box");
    const old = this.#name;
    this.#attach(null);
    Object.assign(this, { version: null, checksum: null, bytes: 0 });
    this.run("DELETE FROM state WHERE key IN ('file','version','checksum')");
    if (old) this.#pool.unlink(old);
  }

  /** Throw everything away; what the node doesn't know yet is lost with it. */
  async wipe() {
    this.db.close();
    await this.#pool?.wipeFiles();
    this.#connect();
  }

  /** What is there is not what it should be, but good enough to be mended page by page. */
  distrust() {
    this.version = null;
    this.run("DELETE FROM state WHERE key='version'");
  }

  #connect() {
    this.db = this.#openMarks();
    this.run("CREATE TABLE IF NOT EXISTS state(key TEXT PRIMARY KEY, value) WITHOUT ROWID");
    const name = this.setting("file");
    const names = this.#pool?.getFileNames() ?? [];
    for (const other of names) if (other.startsWith("/box-") && other !== name) this.#pool.unlink(other);
    this.#attachSearch(names);
    try {
      this.#attach(names.includes(name) ? name : null);
      this.version = this.#name && this.setting("version");
      this.checksum = this.#name && this.setting("checksum");
      this.bytes = this.#name
        ? this.value("SELECT page_count*page_size FROM pragma_page_count('box'), pragma_page_size('box')")
        : 0;
      this.value("SELECT count(*) FROM box.messages LIMIT 1");
    } catch {
      this.#detach("box");
      if (name) this.#pool.unlink(name);
      this.#attach(null);
      Object.assign(this, { version: null, checksum: null, bytes: 0 });
      this.run("DELETE FROM state WHERE key IN ('file','version','checksum')");
    }
  }

  #openMarks() {
    const open = () => {
      const db = this.#pool
        ? new this.#pool.OpfsSAHPoolDb("/marks.db", "c")
        : new this.#sqlite3.oo1.DB(":memory:", "c");
      try {
        db.exec("PRAGMA temp_store=memory; PRAGMA cache_size=-16000; SELECT count(*) FROM sqlite_schema");
        return db;
      } catch (error) {
        db.close();
        throw error;
      }
    };
    try {
      return open();
    } catch {
      this.#pool?.unlink("/marks.db"); // damaged: the node knows all of it but what wasn't sent
      return open();
    }
  }

  #attachSearch(names) {
    if (!this.#pool) return this.dropSearch();
    try {
      this.run("ATTACH '/search.db' AS found");
      this.value("SELECT count(*) FROM found.sqlite_schema");
    } catch {
      this.dropSearch();
    }
    this.run("PRAGMA found.synchronous=off; PRAGMA found.cache_size=-16000");
  }

  /** Throw the search index away and begin with an empty one, on disk or in memory. */
  dropSearch({ memory = this.#pool === null } = {}) {
    this.#detach("found");
    this.#pool?.unlink("/search.db");
    this.run(`ATTACH '${memory ? ":memory:" : "/search.db"}' AS found`);
  }

  #attach(name) {
    if (name) this.run(`ATTACH 'file:${name}?mode=ro' AS box`);
    else this.run(`ATTACH ':memory:' AS box; ${EMPTY}`);
    this.run("PRAGMA box.cache_size=-32000"); // as much as the indexes of a large box
    this.#name = name;
  }

  /** The box in memory. */
  #hold(content) {
    const { capi, wasm } = this.#sqlite3;
    this.run("ATTACH ':memory:' AS box");
    const address = wasm.allocFromTypedArray(content);
    const flags = capi.SQLITE_DESERIALIZE_FREEONCLOSE | capi.SQLITE_DESERIALIZE_READONLY;
    this.db.checkRc(capi.sqlite3_deserialize(this.db, "box", address, content.length, content.length, flags));
    this.#name = null;
  }

  #detach(schema) {
    try {
      this.run(`DETACH ${schema}`);
    } catch {
      // it wasn't attached
    }
  }
}

/** The pool of files in the origin private file system; null where there is none. */
async function pool(sqlite3, folder) {
  if (!globalThis.navigator?.storage?.getDirectory) return null;
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    try {
      return await sqlite3.installOpfsSAHPoolVfs({
        name: "pobox",
        directory: `/${folder}/files`,
        initialCapacity: HANDLES,
        forceReinitIfPreviouslyFailed: true,
        preserveOnInitFailure: true,
        verbosity: 0,
      });
    } catch (error) {
      if (error?.name !== "NoModificationAllowedError" && attempt > 2) return null;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return null;
}

async function directory(path) {
  let handle = await navigator.storage.getDirectory();
  for (const name of path.split("/")) handle = await handle.getDirectoryHandle(name, { create: true });
  return handle;
}

/** A name for every person that any file system can hold: some don't tell A from a. */
function folderOf(user) {
  return user.replace(/[^a-z0-9.-]/g, (char) => `_${char.codePointAt(0).toString(16)}`);
}

function chunks(content) {
  let at = 0;
  return () => (at < content.length ? content.subarray(at, (at += CHUNK)) : undefined);
}
