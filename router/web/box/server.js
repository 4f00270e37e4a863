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
    return (await this.#ask(`sync/${this.#user}/check?device=${this.#device}${known}`)).json();
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
    return (await this.#ask(`sync/${this.#user}/read-status${query}`)).json();
  }

  /** Send `changes`, and get what changed elsewhere after `since`. */
  async push(changes, since) {
    const body = JSON.stringify({ changes, clock: new Date().toISOString(), ...(since !== null && { since }) });
    const headers = { "Content-Type": "application/json" };
    return (await this.#ask(`sync/${this.#user}/read-status`, { method: "POST", headers, body })).json();
  }

  /** The node's key, for which a browser subscribes at its push service. */
  async pushKey() {
    return (await (await this.#ask("push/key")).json()).publicKey;
  }

  /** Have this device told of new messages while the page is closed; `{endpoint, keys}`. */
  async subscribe(subscription) {
    const headers = { "Content-Type": "application/json" };
    await this.#ask(this.#pushPath, { method: "PUT", headers, body: JSON.stringify(subscription) });
  }

  /** And no more; if it wasn't, that is no failure. */
  async unsubscribe() {
    await this.#ask(this.#pushPath, { method: "DELETE" }).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  get #pushPath() {
    return `users/${this.#user}/devices/${this.#device}/push`;
  }

  /** Delete a message for good; one that is gone already is no failure. */
  async remove(messageId) {
    try {
      await this.#ask(`users/${this.#user}/messages/${encodeURIComponent(messageId)}`, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }

  /** All channels that anybody may join. */
  async openChannels() {
    const found = [];
    for (let cursor = ""; cursor !== null;) {
      const page = await (await this.#ask(`users/${this.#user}/open-channels?limit=500&cursor=${cursor}`)).json();
      found.push(...page.channels);
      cursor = page.cursor && encodeURIComponent(page.cursor);
    }
    return found;
  }

  async devices() {
    return (await (await this.#ask(`users/${this.#user}/devices`)).json()).devices;
  }

  /** Which devices have a message. */
  async holders(messageId) {
    return (await (await this.#ask(`users/${this.#user}/messages/${encodeURIComponent(messageId)}/devices`)).json())
      .devices;
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
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(until === null ? {} : { until });
    await this.#ask(`${this.#channel(channel)}/mute`, { method: "PUT", headers, body });
  }

  async unmute(channel) {
    await this.#ask(`${this.#channel(channel)}/mute`, { method: "DELETE" });
  }

  #channel(channel) {
    return `users/${this.#user}/channels/${encodeURIComponent(channel)}`;
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
