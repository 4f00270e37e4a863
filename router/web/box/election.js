// Several tabs, one box: the tab that holds the lock has the files open, the others ask it.
//
// The lock goes to the next in line when its holder closes, however it closes. What was asked and not answered
// is then asked again of the new one; so everything that can be asked must bear being done twice.

export class Election {
  #bus = null;
  #name = crypto.randomUUID?.() ?? String(Math.random());
  #owner = null;
  #waiting = new Map(); // number of a call -> {method, args, resolve, reject}
  #last = 0;
  #open;
  #say;

  /** `open(say)` resolves to the owner, when it is this tab's turn; `say(news)` hears the owner, wherever it is. */
  constructor(open, say) {
    this.#open = open;
    this.#say = say;
  }

  /** Stand for the box of `user`. */
  run(user) {
    if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel) {
      void this.#begin(); // then every tab has a box of its own, in memory
      return;
    }
    this.#bus = new BroadcastChannel(`pobox:${user}`);
    this.#bus.onmessage = ({ data }) => this.#hear(data);
    this.#bus.postMessage({ kind: "who" });
    void navigator.locks.request(`pobox:${user}`, async () => {
      await this.#begin();
      await new Promise(() => {}); // until the tab closes
    });
  }

  /** Ask the owner. */
  call(method, args) {
    return new Promise((resolve, reject) => {
      const number = ++this.#last;
      this.#waiting.set(number, { method, args, resolve, reject });
      this.#ask(number);
    });
  }

  async #begin() {
    try {
      this.#owner = await this.#open((news) => {
        this.#say(news);
        this.#bus?.postMessage({ kind: "news", news });
      });
    } catch (error) {
      console.error(error);
      this.#say({ phase: "broken" });
      return;
    }
    this.#bus?.postMessage({ kind: "owner" });
    this.#askAll();
  }

  #askAll() {
    for (const number of this.#waiting.keys()) this.#ask(number);
  }

  #ask(number) {
    const { method, args } = this.#waiting.get(number);
    if (this.#owner === null) this.#bus?.postMessage({ kind: "call", from: this.#name, number, method, args });
    else void this.#answer(method, args).then((answer) => this.#take(number, answer));
  }

  async #answer(method, args) {
    try {
      return { result: await this.#owner.call(method, args) };
    } catch (error) {
      return { error: String(error?.message ?? error) };
    }
  }

  #take(number, { result, error }) {
    const call = this.#waiting.get(number);
    if (!call) return;
    this.#waiting.delete(number);
    if (error === undefined) call.resolve(result);
    else call.reject(new Error(error));
  }

  #hear(data) {
    if (data.kind === "call" && this.#owner) {
      void this.#answer(data.method, data.args).then((answer) =>
        this.#bus.postMessage({ kind: "answer", to: data.from, number: data.number, ...answer }),
      );
    } else if (data.kind === "answer" && data.to === this.#name) {
      this.#take(data.number, data);
    } else if (data.kind === "news") {
      this.#say(data.news);
    } else if (data.kind === "owner") {
      this.#askAll();
    } else if (data.kind === "who" && this.#owner) {
      this.#bus.postMessage({ kind: "news", news: this.#owner.news });
    }
  }
}
