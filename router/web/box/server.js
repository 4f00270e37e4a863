// The node, as the box sees it: one function a request, two kinds of failure.
//
// `Offline`: nobody answered; trying again later is all there is to do. `Problem`: an answer that says no.

const API = new URL("../../api/v3/", import.meta.url);
const PATIENCE_MS = 30_000;

export class Offline extends Error {}

export class Problem extends Error {
  constructor(status, code, detail) {
    super(`${status} ${code}: ${detail}`);
    this.status = status;
    this.code = code;
  }
}

export class Server {
  #user;
  #device;
  #token;

  /** `token` says to the node that it is `user` who asks; null for a node that asks nobody. */
  constructor(user, device, token) {
    this.#user = encodeURIComponent(user);
    this.#device = encodeURIComponent(device);
    this.#token = token;
  }

  /** Another token, from now on. */
  show(token) {
    this.#token = token;
  }

  /** The stream of events after the one with this id, as long as it lasts. */
  async events(last, signal) {
    const headers = last === null ? {} : { "Last-Event-ID": last };
    return this.#ask(`users/${this.#user}/events?device=${this.#device}`, { headers, signal });
  }

  /** `{serverVersion, serverSize, serverChecksum, needSync}`; `version` is what is here, or null. */
  async check(version) {
    const known = version === null ? "" : `&localVersion=${encodeURIComponent(version)}`;
    return this.#get(`sync/${this.#user}/check?device=${this.#device}${known}`);
  }

  /** The pages that differ from those with these hashes; null when a download is cheaper. */
  async delta(hashes) {
    const response = await this.#ask(`sync/${this.#user}/delta?device=${this.#device}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: hashes,
      redirect: "manual",
    });
    return response.type === "opaqueredirect" ? null : response;
  }

  /** The box from byte `from` on, if that is still to be had of `version`; else the newest from its beginning. */
  async download(from, version, signal) {
    const headers = from > 0 ? { Range: `bytes=${from}-`, "If-Range": `"${version}"` } : {};
    return this.#ask(`sync/${this.#user}/download?device=${this.#device}`, { headers, signal });
  }

  async pull(since) {
    const query = since === null ? "" : `?since=${encodeURIComponent(since)}`;
    return this.#get(`sync/${this.#user}/read-status${query}`);
  }

  /** Send `changes`, and get what changed elsewhere after `since`. */
  async push(changes, since) {
    const told = { changes, clock: new Date().toISOString(), ...(since !== null && { since }) };
    return (await this.#send("POST", `sync/${this.#user}/read-status`, told)).json();
  }

  /** The node's key, for which a browser subscribes at its push service. */
  async pushKey() {
    return (await this.#get("push/key")).publicKey;
  }

  /** Have this device told of new messages while the page is closed; `{endpoint, keys}`. */
  async subscribe(subscription) {
    await this.#send("PUT", this.#pushPath, subscription);
  }

  /** And no more; if it wasn't, that is no failure. */
  async unsubscribe() {
    await this.#discard(this.#pushPath);
  }

  get #pushPath() {
    return `users/${this.#user}/devices/${this.#device}/push`;
  }

  /** Delete a message for good; one that is gone already is no failure. */
  async remove(messageId) {
    await this.#discard(this.#message(messageId));
  }

  /** All channels that anybody may join. */
  async openChannels() {
    const found = [];
    for (let cursor = ""; cursor !== null;) {
      const page = await this.#get(`users/${this.#user}/open-channels?limit=500&cursor=${cursor}`);
      found.push(...page.channels);
      cursor = page.cursor && encodeURIComponent(page.cursor);
    }
    return found;
  }

  async devices() {
    return (await this.#get(`users/${this.#user}/devices`)).devices;
  }

  /** How much is in the box, and how much may be. */
  async usage() {
    return this.#get(`users/${this.#user}`);
  }

  /** Which devices have a message. */
  async holders(messageId) {
    return (await this.#get(`${this.#message(messageId)}/devices`)).devices;
  }

  async forget(device) {
    await this.#ask(`users/${this.#user}/devices?device=${encodeURIComponent(device)}`, { method: "DELETE" });
  }

  async join(channel) {
    await this.#ask(this.#channel(channel), { method: "PUT" });
  }

  async leave(channel) {
    await this.#ask(this.#channel(channel), { method: "DELETE" });
  }

  /** Until a moment, or for good (null). */
  async mute(channel, until) {
    await this.#send("PUT", `${this.#channel(channel)}/mute`, until === null ? {} : { until });
  }

  async unmute(channel) {
    await this.#ask(`${this.#channel(channel)}/mute`, { method: "DELETE" });
  }

  #channel(channel) {
    return `users/${this.#user}/channels/${encodeURIComponent(channel)}`;
  }

  #message(id) {
    return `users/${this.#user}/messages/${encodeURIComponent(id)}`;
  }

  async #get(path) {
    return (await this.#ask(path)).json();
  }

  async #send(method, path, body) {
    return this.#ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  }

  /** What is gone already is no failure. */
  async #discard(path) {
    await this.#ask(path, { method: "DELETE" }).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  async #ask(path, options = {}) {
    let response;
    try {
      const signal = options.signal ?? AbortSignal.timeout(PATIENCE_MS);
      const headers = { ...options.headers, ...(this.#token && { Authorization: `Bearer ${this.#token}` }) };
      response = await fetch(new URL(path, API), { cache: "no-store", credentials: "omit", ...options, headers, signal });
    } catch (error) {
      throw new Offline(error.message);
    }
    if (response.ok || response.type === "opaqueredirect") return response;
    const problem = await response.json().catch(() => ({}));
    throw new Problem(response.status, problem.code ?? "unknown", problem.detail ?? problem.title ?? "");
  }
}
