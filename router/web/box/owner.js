// The one tab that has the box open, for all of them. It answers what pages ask, keeps the box in step with the
// node, and says what became of it. A sync is never run twice at a time; asked for during one, it is run once more.

import { Files } from "./files.js";
import { Listing } from "./listing.js";
import { Live } from "./live.js";
import { Marks } from "./marks.js";
import { Part } from "./part.js";
import { Search } from "./search.js";
import { Offline, Problem, Server } from "./server.js";
import { sync } from "./sync.js";
import { checksum } from "./pages.js";

const UNDO_MS = 7_000;
const FIRST_MS = 1_500; // the first look at the box belongs to the person
const REST_BYTES_MS = 20_000; // a box that was replaced rests a millisecond for so many of its bytes
const REPORT_MS = 100;
const SEND_MS = 250; // what a person does in one go is sent in one go
const DAMAGED = [11, 26]; // SQLITE_CORRUPT, SQLITE_NOTADB
const HEALING_MS = 60_000;
const FULL = [13, 778]; // SQLITE_FULL, SQLITE_IOERR_WRITE

export class Owner {
  #files;
  #server;
  #marks;
  #listing;
  #search;
  #live;
  #part;
  #say;
  #running = false;
  #again = false;
  #timer = null;
  #saidAt = 0;
  #restUntil = 0;
  #healedAt = 0;
  #device;
  news = {
    phase: "empty", // empty: there is no box yet; ready
    busy: null, // downloading, updating
    done: 0,
    total: 0,
    online: null,
    known: true, // the node has such a box
    trouble: null, // what the node, or this browser, can't do at the moment
    live: false,
    storage: "opfs",
    syncedAt: null,
    waiting: 0,
    indexed: 1,
    generation: 0,
  };

  /** `say(news)` is told of every change. */
  static async open(user, device, token, say) {
    const owner = new Owner();
    owner.#say = say;
    owner.#device = device;
    owner.#server = new Server(user, device, token);
    const files = (owner.#files = await Files.open(user));
    owner.#marks = await owner.#readable(files);
    owner.#listing = new Listing(files);
    owner.#search = new Search(files);
    owner.#part = new Part(files.folder);
    owner.#live = new Live(
      owner.#server,
      () => owner.wake(),
      () => owner.#report({ live: owner.#live.on }),
    );
    owner.#report({ storage: files.storage, phase: files.version ? "ready" : "empty", waiting: owner.#marks.waiting });
    owner.wake();
    setTimeout(() => void owner.#verify().then(() => owner.#follow()), FIRST_MS);
    return owner;
  }

  /** The marks of a box that can be read: what is damaged is thrown away, the box alone if that will do. */
  async #readable(files) {
    for (const mend of [() => {}, () => files.forget(), () => files.wipe()]) {
      try {
        await mend();
        return new Marks(files, this.#device);
      } catch (error) {
        if (!isDamage(error)) throw error;
      }
    }
    throw new Error("what was made anew can't be read");
  }

  /** What a page asks for, by name. */
  call(method, args) {
    try {
      return this[`on_${method}`](...args);
    } catch (error) {
      if (isDamage(error)) void this.#heal();
      throw error;
    }
  }

  on_page(view, from, count) {
    return this.#listing.page(view, from, count);
  }

  on_place(view, id) {
    return this.#listing.place(view, id);
  }

  on_message(id) {
    return this.#listing.message(id);
  }

  on_side() {
    return this.#listing.side();
  }

  on_mark(changes) {
    this.#marks.change(changes);
    this.#changedHere();
  }

  on_readAll(channel) {
    const ids = this.#marks.readAll(channel);
    if (ids.length) this.#changedHere();
    return ids;
  }

  on_remove(ids) {
    this.#marks.remove(ids, Date.now() + UNDO_MS);
    this.#changedHere();
  }

  on_restore(ids) {
    this.#marks.restore(ids);
    this.#changedHere();
  }

  /** A token that this tab, or another one, was opened with. */
  on_show(token) {
    this.#server.show(token);
    this.#live.retry();
    this.wake();
  }

  /** Ask the node what isn't in the box, or change it there: `{result}`, or `{failed}` with "offline" or "node". */
  async on_node(request, ...args) {
    try {
      const result = await this.#server[request](...args);
      if (result === undefined) this.wake(); // something was changed
      return { result: result ?? null };
    } catch (error) {
      if (error instanceof Offline) return { failed: "offline" };
      if (error instanceof Problem) return { failed: "node" };
      throw error;
    }
  }

  on_wake() {
    this.wake();
  }

  /** Exchange everything with the node, soon. */
  wake(after = 0) {
    this.#again = true;
    if (this.#running) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#run(), after);
  }

  async #run() {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#again) {
        this.#again = false;
        await this.#exchange();
      }
    } finally {
      this.#running = false;
      const now = Date.now();
      const due = [this.#marks.nextDue, this.#restUntil > now ? this.#restUntil : null].filter(
        (moment) => moment !== null,
      );
      if (due.length && this.news.online) this.wake(Math.max(0, Math.min(...due) - now));
    }
  }

  async #exchange() {
    try {
      const marked = await this.#marks.exchange(this.#server);
      const fresh = Date.now() >= this.#restUntil && (await this.#sync());
      if (fresh) this.#marks.lookAtAll();
      if (fresh || marked) this.#changed();
      this.#live.start();
      this.#report({
        phase: "ready",
        busy: null,
        online: true,
        known: true,
        trouble: this.#files.crowded ? "full" : null,
        syncedAt: new Date().toISOString(),
        waiting: this.#marks.waiting,
      });
      if (fresh) void this.#follow();
    } catch (error) {
      this.#failed(error);
    }
  }

  async #sync() {
    const fresh = await sync(this.#server, this.#files, this.#part, (...progress) => this.#progress(...progress));
    if (fresh) this.#restUntil = Date.now() + this.#files.bytes / REST_BYTES_MS;
    return fresh;
  }

  #failed(error) {
    const plain = { busy: null, waiting: this.#marks.waiting };
    if (error instanceof Offline) this.#report({ ...plain, online: false });
    else if (error instanceof Problem && error.status === 404)
      this.#report({ ...plain, online: true, known: false, trouble: null });
    else if (error instanceof Problem)
      this.#report({ ...plain, online: true, trouble: [401, 403].includes(error.status) ? "access" : "node" });
    else if (isDamage(error)) void this.#heal();
    else if (FULL.includes(error.resultCode)) this.#report({ ...plain, phase: "ready", online: true, trouble: "full" });
    else {
      console.error(error);
      this.#report({ ...plain, trouble: "here" });
    }
  }

  /** The box can't be read: away with it, and fetch it anew. If that was in vain, away with everything. */
  async #heal() {
    const again = Date.now() - this.#healedAt < HEALING_MS;
    this.#healedAt = Date.now();
    if (again) await this.#files.wipe();
    else this.#files.forget();
    this.#marks = await this.#readable(this.#files);
    this.#search = new Search(this.#files);
    this.#changed();
    this.#report({ phase: "empty" });
    this.wake();
  }

  /** See that the box is still what was once verified; mend it if not. */
  async #verify() {
    const { checksum: expected, version } = this.#files;
    if (expected === null || this.#files.storage !== "opfs") return;
    const content = this.#files.read();
    if (content !== null && (await checksum(content)) === expected) return;
    if (this.#files.version !== version) return;
    this.#files.distrust();
    this.wake();
  }

  async #follow() {
    await this.#search.follow((indexed) => {
      if (indexed === 1) this.#changed();
      if (indexed === 1 || Date.now() - this.#saidAt > REPORT_MS) this.#report({ indexed });
    });
  }

  #progress(busy, done, total) {
    if (busy === this.news.busy && Date.now() - this.#saidAt < REPORT_MS && done !== total) return;
    this.#report({ busy, done, total });
  }

  #changedHere() {
    this.#changed();
    this.#report({ waiting: this.#marks.waiting });
    this.wake(SEND_MS);
  }

  #changed() {
    this.#listing.changed();
    this.news.generation++;
    this.#report({});
  }

  #report(news) {
    this.#saidAt = Date.now();
    Object.assign(this.news, news);
    this.#say({ ...this.news });
  }
}

function isDamage(error) {
  return DAMAGED.includes(error.resultCode & 0xff);
}
