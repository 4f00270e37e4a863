// A download that isn't complete: kept on disk so that a reload goes on where it was cut off.
//
// What is in it is worth nothing but time: anything odd about it, and it is as if it weren't there.

const WORTH_KEEPING = 1 << 20; // bytes of the whole: less is fetched again sooner than found

export class Part {
  #folder;
  #handle = null;
  version = null;
  size = 0;
  bytes = new Uint8Array(0); // as long as the whole will be
  got = 0;

  /** `folder`: where to keep it (a FileSystemDirectoryHandle), or null for memory only. */
  constructor(folder) {
    this.#folder = folder;
  }

  /** Take up what an earlier page left. */
  async load() {
    if (this.#folder === null || this.got > 0) return;
    try {
      const about = await (await this.#folder.getFileHandle("part.json")).getFile();
      const { version, size } = JSON.parse(await about.text());
      const file = await (await this.#folder.getFileHandle("part")).getFile();
      if (typeof version !== "string" || !(file.size > 0 && file.size < size)) return;
      const bytes = new Uint8Array(size);
      bytes.set(new Uint8Array(await file.arrayBuffer()));
      Object.assign(this, { version, size, bytes, got: file.size });
      await this.#open();
    } catch {
      // there is none
    }
  }

  /** Begin with nothing of `version`, which will have `size` bytes. */
  async begin(version, size) {
    await this.drop();
    Object.assign(this, { version, size, bytes: new Uint8Array(size), got: 0 });
    if (this.#folder === null || size < WORTH_KEEPING) return;
    try {
      const about = await (await this.#folder.getFileHandle("part.json", { create: true })).createSyncAccessHandle();
      about.truncate(0);
      about.write(new TextEncoder().encode(JSON.stringify({ version, size })));
      about.close();
      await this.#open();
      this.#handle?.truncate(0);
    } catch {
      this.#close(); // then it is in memory only
    }
  }

  append(chunk) {
    if (this.got + chunk.length > this.size) throw new RangeError("more came than was announced");
    this.bytes.set(chunk, this.got);
    try {
      this.#handle?.write(chunk, { at: this.got });
    } catch {
      this.#close();
    }
    this.got += chunk.length;
  }

  get complete() {
    return this.version !== null && this.got === this.size;
  }

  async drop() {
    this.#close();
    Object.assign(this, { version: null, size: 0, bytes: new Uint8Array(0), got: 0 });
    for (const name of ["part", "part.json"]) await this.#folder?.removeEntry(name).catch(() => {});
  }

  async #open() {
    this.#handle = await (await this.#folder.getFileHandle("part", { create: true })).createSyncAccessHandle();
  }

  #close() {
    this.#handle?.close();
    this.#handle = null;
  }
}
