// The node says when there is something new. What it says isn't looked at: any event means "sync now".
//
// A node that can't do that is asked again now and then; the pages ask for news by themselves until then.

const AGAIN_MS = 60_000;

export class Live {
  #url;
  #wake;
  #report;
  #source = null;
  #refusedAt = 0;
  on = false;

  constructor(url, wake, report) {
    this.#url = url;
    this.#wake = wake;
    this.#report = report;
  }

  /** Listen, if nobody does. */
  start() {
    if (this.#source !== null || Date.now() - this.#refusedAt < AGAIN_MS) return;
    const source = (this.#source = new EventSource(this.#url));
    source.onopen = () => this.#say(true);
    for (const kind of ["message", "status"]) source.addEventListener(kind, this.#wake);
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        this.#source = null;
        this.#refusedAt = Date.now();
      }
      this.#say(false);
    };
  }

  #say(on) {
    const was = this.on;
    this.on = on;
    if (was !== on) this.#report();
    if (on) this.#wake();
  }
}
