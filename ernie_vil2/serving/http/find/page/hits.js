// The hits of one search, in pages that are fetched when they are looked at, few of them kept:
// a list of 100,000 takes no more memory than one of 1,000.

const PAGE = 100;
const MOST_PAGES = 60;

export class Hits {
  /**
   * @param fetchPage (offset, k, signal) -> {hits, total, line}
   * @param changed called after a page has come, or the total has changed
   * @param failed called with an error
   */
  constructor(fetchPage, changed, failed) {
    this.fetchPage = fetchPage;
    this.changed = changed;
    this.failed = failed;
    this.pages = new Map(); // number -> hits, the last used at the end
    this.loading = new Map(); // number -> AbortController
    this.wanted = new Set();
    this.total = 0;
    this.line = null; // how many are likely; null: not known
  }

  /** The first page; raises what `fetchPage` does. */
  async start(signal) {
    this.take(0, await this.fetchPage(0, PAGE, signal));
  }

  /** The hit at a place, undefined while it is not here. */
  at(place) {
    const number = Math.floor(place / PAGE);
    const page = this.pages.get(number);
    if (page) {
      this.pages.delete(number);
      this.pages.set(number, page);
    }
    return page?.[place % PAGE];
  }

  /** The hit at a place that is not looked at, with the page that it is in. */
  async one(place) {
    await this.load(Math.floor(place / PAGE));
    return this.at(place);
  }

  /** The first place, of those that are here, whose hit is less relevant; they fall from hit to hit. */
  firstBelow(least) {
    if (!least) return this.total;
    const numbers = [...this.pages.keys()].sort((one, two) => one - two);
    for (const number of numbers) {
      const place = this.pages.get(number).findIndex((hit) => hit.relevance != null && hit.relevance < least);
      if (place >= 0) return number * PAGE + place;
    }
    return this.total;
  }

  /** Fetch what is missing of a range that is looked at, and nothing else any longer. */
  want(first, end) {
    this.wanted.clear();
    for (let number = Math.floor(first / PAGE); number * PAGE < end; number += 1) {
      this.wanted.add(number);
    }
    for (const [number, stop] of this.loading) if (!this.wanted.has(number)) stop.abort();
    clearTimeout(this.soon);
    // while somebody scrolls fast, pages in between are not worth a search
    this.soon = setTimeout(() => {
      for (const number of this.wanted) {
        if (!this.pages.has(number) && !this.loading.has(number)) this.load(number);
      }
    }, 60);
  }

  /** Nothing more is wanted of this search. */
  stop() {
    this.wanted.clear();
    clearTimeout(this.soon);
    for (const stop of this.loading.values()) stop.abort();
  }

  async load(number) {
    const stop = new AbortController();
    this.loading.set(number, stop);
    try {
      this.take(number, await this.fetchPage(number * PAGE, PAGE, stop.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    } finally {
      this.loading.delete(number);
    }
  }

  take(number, answer) {
    this.pages.set(number, answer.hits);
    while (this.pages.size > MOST_PAGES) {
      const oldest = [...this.pages.keys()].find((each) => !this.wanted.has(each));
      if (oldest === undefined) break;
      this.pages.delete(oldest);
    }
    // folded near-duplicates make the list shorter than it was thought to be
    const ended = answer.hits.length < PAGE;
    this.total = ended ? Math.min(answer.total, number * PAGE + answer.hits.length) : answer.total;
    this.line = answer.line;
    this.changed();
  }
}
