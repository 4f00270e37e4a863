// The node says when there is something new. What it says isn't looked at: any event means "sync now".
//
// The stream of events is read by hand: the browser's own reader of such streams can't show a token. A node that
// can't do that is asked again now and then; the pages ask for news by themselves until then.

import { Problem } from "./server.js";

const AGAIN_MS = 60_000; // after a no
const RETRY_MS = 2_000; // after a stream that ended, as the node asks for
const SILENCE_MS = 45_000; // the node says something every 15 seconds

export class Live {
  #server;
  #wake;
  #report;
  #running = false;
  #refusedAt = 0;
  #last = null; // id of the last event
  on = false;

  constructor(server, wake, report) {
    this.#server = server;
    this.#wake = wake;
    this.#report = report;
  }

  /** Listen, if nobody does. */
  start() {
    if (this.#running || Date.now() - this.#refusedAt < AGAIN_MS) return;
    this.#running = true;
    void this.#run();
  }

  /** A no of before counts no more. */
  retry() {
    this.#refusedAt = 0;
  }

  async #run() {
    while (this.#running) {
      try {
        await this.#listen();
      } catch (error) {
        if (error instanceof Problem) {
          this.#running = false;
          this.#refusedAt = Date.now();
        }
      }
      this.#say(false);
      if (this.#running) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** One stream, to its end. */
  async #listen() {
    const control = new AbortController();
    let clock = null;
    const heard = () => {
      clearTimeout(clock);
      clock = setTimeout(() => control.abort(), SILENCE_MS);
    };
    try {
      heard();
      const response = await this.#server.events(this.#last, control.signal);
      this.#say(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        heard();
        const { done, value } = await reader.read();
        if (done) return;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) this.#hear(event);
      }
    } finally {
      clearTimeout(clock);
    }
  }

  #hear(event) {
    const lines = event.split("\n");
    this.#last = lines.find((line) => line.startsWith("id: "))?.slice(4) ?? this.#last;
    if (lines.some((line) => line.startsWith("data:"))) this.#wake();
  }

  #say(on) {
    const was = this.on;
    this.on = on;
    if (was !== on) this.#report();
    if (on) this.#wake();
  }
}
