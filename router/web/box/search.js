// The words of the box, in an FTS5 table of their own, beside the box and never in it.
//
// Han, kana and hangul are written without spaces, so each such character is indexed as a word, and what is
// looked for is a phrase of them. The index follows the box by row number; where that can't be true
// (a row is gone or another's) the rows that don't fit are found by comparing all.

const SCHEMA = `
CREATE VIRTUAL TABLE IF NOT EXISTS found.words USING fts5(
  title, content, sender, content='', contentless_delete=1, prefix='2 3', tokenize="unicode61 remove_diacritics 2");
CREATE TABLE IF NOT EXISTS found.rows(row INTEGER PRIMARY KEY, id TEXT NOT NULL);`;
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/gu;
const RUN = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]+|[\p{L}\p{N}\p{M}]+/gu;
const PORTION = 250; // rows a transaction
const CONTENT_MAX = 100_000; // characters of a message that are looked through
export const HITS_MAX = 2_000;

export class Search {
  #files;
  #job = 0;

  constructor(files) {
    this.#files = files;
    this.#prepare();
  }

  /** Bring the index up to date with the box, bit by bit; `report(fraction)` while it takes its time. */
  async follow(report) {
    const job = ++this.#job;
    try {
      let [known, total] = this.#forgetWhatIsGone();
      while (job === this.#job && this.#indexSome()) {
        report((known += PORTION) / total);
        await new Promise((resolve) => setTimeout(resolve)); // who wants to read something goes first
      }
    } catch {
      if (job !== this.#job) return;
      this.#files.dropSearch({ memory: true }); // it is damaged, or there is no room for it: it will be made anew
      this.#files.run(SCHEMA);
      return this.follow(report);
    }
    if (job === this.#job) report(1);
  }

  #prepare() {
    try {
      this.#files.run(SCHEMA);
    } catch {
      this.#files.dropSearch();
      this.#files.run(SCHEMA);
    }
  }

  /** How many messages are indexed then, and how many there are. */
  #forgetWhatIsGone() {
    const files = this.#files;
    const [{ known, total }] = files.rows(
      "SELECT (SELECT count(*) FROM found.rows) AS known, (SELECT count(*) FROM box.messages) AS total",
    );
    if (known === 0) return [known, total];
    const [{ fresh, same }] = files.rows(`SELECT
      (SELECT count(*) FROM box.messages WHERE rowid>coalesce((SELECT max(row) FROM found.rows),0)) AS fresh,
      (SELECT m.id IS r.id FROM found.rows r LEFT JOIN box.messages m ON m.rowid=r.row ORDER BY r.row DESC LIMIT 1) AS same`);
    if (known === total - fresh && same) return [known, total];
    const gone = files.values(
      "SELECT r.row FROM found.rows r LEFT JOIN box.messages m ON m.rowid=r.row AND m.id=r.id WHERE m.id IS NULL",
    );
    files.transaction(() => {
      for (const row of gone) {
        files.run("DELETE FROM found.words WHERE rowid=?", [row]);
        files.run("DELETE FROM found.rows WHERE row=?", [row]);
      }
    });
    return [known - gone.length, total];
  }

  #indexSome() {
    const files = this.#files;
    const rows = files.rows(
      `SELECT rowid AS row, id, title, substr(content,1,${CONTENT_MAX}) AS content, sender FROM box.messages
       WHERE rowid>coalesce((SELECT max(row) FROM found.rows),0) ORDER BY rowid LIMIT ${PORTION}`,
    );
    files.transaction(() => {
      for (const { row, id, title, content, sender } of rows) {
        files.run("INSERT INTO found.words(rowid, title, content, sender) VALUES(?,?,?,?)", [
          row,
          spaced(title.slice(0, CONTENT_MAX)),
          spaced(content),
          spaced(sender ?? ""),
        ]);
        files.run("INSERT INTO found.rows(row, id) VALUES(?,?)", [row, id]);
      }
    });
    return rows.length === PORTION;
  }
}

/** What FTS5 is asked for when a person types `text`: all the words, the last letters of each left open; null for no
 * word at all. Pure. */
export function matchOf(text) {
  const words = (text.match(RUN) ?? []).slice(0, 12).map((run) => `"${spaced(run).trim()}"*`);
  return words.length ? words.join(" AND ") : null;
}

function spaced(text) {
  return text.replace(CJK, " $& ");
}
