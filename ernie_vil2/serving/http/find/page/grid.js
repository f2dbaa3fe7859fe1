// The pictures found, as a grid in the page's own scrolling. Only what can be seen is in the
// document; the rest is a height. A line divides the likely hits from the others.

import { fileName, make, readable } from "./dom.js";
import { t } from "./language.js";
import { showThumb } from "./thumbs.js";

const GAP = 12;
const LEAST_WIDTH = 150; // of a tile; a phone of 360 pixels has two in a row
const CAPTION = 46;
const LINE = 48;
const ROWS_AROUND = 2; // above and below what is seen

export class Grid {
  /** @param open called with the place of a picture that was chosen, and how */
  constructor(root, open) {
    this.root = root;
    this.open = open;
    this.hits = null;
    this.count = 0; // tiles, after those that are hidden
    this.tiles = new Map(); // place -> element
    this.focused = 0; // place
    this.awaited = null; // place that gets the focus when its hit is here
    this.divider = make("div", { class: "divider", role: "separator" }, make("span"));
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(root);
  }

  /** Show another list from its beginning. */
  show(hits) {
    this.clear();
    this.hits = hits;
    this.focused = 0;
    this.layout();
  }

  clear() {
    for (const place of [...this.tiles.keys()]) this.drop(place);
    this.hits = null;
    this.count = 0;
    this.layout();
  }

  /** How many are shown: all, or fewer where less relevant ones are hidden. */
  limit(count) {
    this.count = count;
    this.layout();
  }

  /** The measures of a row, for the width there is, and the list's height. */
  layout() {
    const width = this.root.clientWidth;
    if (!width) return;
    this.columns = Math.max(1, Math.floor((width + GAP) / (LEAST_WIDTH + GAP)));
    this.side = Math.floor((width - GAP * (this.columns - 1)) / this.columns);
    this.row = this.side + CAPTION + GAP;
    const line = this.hits?.line;
    this.split = line != null && line < this.count ? line : null; // the line stands before it
    this.above = Math.ceil((this.split ?? this.count) / this.columns); // rows above the line
    const below = this.split === null ? 0 : Math.ceil((this.count - this.split) / this.columns);
    const height = (this.above + below) * this.row + (this.split === null ? 0 : LINE);
    this.root.style.height = `${height}px`;
    this.render();
  }

  /** Where the tile at a place is. */
  position(place) {
    const late = this.split !== null && place >= this.split;
    const local = late ? place - this.split : place;
    const row = Math.floor(local / this.columns) + (late ? this.above : 0);
    const column = local % this.columns;
    return { x: column * (this.side + GAP), y: row * this.row + (late ? LINE : 0) };
  }

  /** The first place of the row at a height, and of the one after it. */
  placeAt(y) {
    const row = Math.max(0, Math.floor(y / this.row));
    if (this.split === null || row < this.above) return row * this.columns;
    const late = Math.max(0, Math.floor((y - LINE) / this.row) - this.above);
    return this.split + late * this.columns;
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  render() {
    const hits = this.hits;
    if (!hits || !this.row) return;
    const top = -this.root.getBoundingClientRect().top;
    const first = this.placeAt(top - ROWS_AROUND * this.row);
    const last = this.placeAt(top + innerHeight + ROWS_AROUND * this.row) + this.columns;
    const end = Math.min(this.count, last);
    hits.want(Math.min(first, end), end);
    for (const place of this.tiles.keys()) {
      // one that has the focus stays, or the keyboard would lose its place
      const kept = this.tiles.get(place).contains(document.activeElement) && place < this.count;
      if ((place < first || place >= end) && !kept) this.drop(place);
    }
    for (let place = first; place < end; place += 1) this.tile(place, hits.at(place));
    for (const [place, tile] of this.tiles) this.put(tile, this.position(place));
    this.drawLine();
  }

  put(element, { x, y }) {
    element.style.width = `${this.side}px`;
    element.style.height = `${this.row - GAP}px`;
    element.style.transform = `translate(${x}px, ${y}px)`;
  }

  drawLine() {
    if (this.split === null) {
      this.divider.remove();
      return;
    }
    this.divider.firstChild.textContent = t("unlikely");
    this.divider.style.transform = `translate(0, ${this.above * this.row}px)`;
    if (!this.divider.isConnected) this.root.append(this.divider);
  }

  /** The tile at a place, filled as soon as its hit is here. */
  tile(place, hit) {
    let tile = this.tiles.get(place);
    if (tile && tile.hit === hit && tile.total === this.count) return;
    if (!tile || (tile.hit && tile.hit !== hit)) {
      this.drop(place);
      tile = make("div", { class: "tile", role: "listitem" });
      this.tiles.set(place, tile);
      // in their order in the document too: that is how Tab and a screen reader go
      const after = [...this.tiles.keys()].filter((each) => each > place);
      const next = after.length ? this.tiles.get(Math.min(...after)) : null;
      this.root.insertBefore(tile, next ?? (this.divider.isConnected ? this.divider : null));
    }
    tile.setAttribute("aria-posinset", place + 1);
    tile.setAttribute("aria-setsize", this.count);
    tile.total = this.count;
    if (hit && !tile.hit) this.fill(tile, place, hit);
    if (hit) tile.firstChild.setAttribute("aria-label", this.label(place, hit));
  }

  label(place, hit) {
    const relevance = percent(hit.relevance);
    const key = hit.likely ? "hit" : "hit-unlikely";
    const name = readable(hit.tags.length ? `${fileName(hit.path)} (${hit.tags.join(", ")})` : fileName(hit.path));
    return t(key, { name, place: place + 1, total: this.count, percent: relevance });
  }

  fill(tile, place, hit) {
    tile.hit = hit;
    const image = make("img", { alt: "", draggable: "false" });
    const missing = () => image.replaceWith(make("span", { class: "missing" }, t("missing")));
    const picture = make(
      "button",
      {
        type: "button",
        class: "picture",
        title: readable(hit.path),
        tabindex: place === this.focused ? 0 : -1,
        onclick: () => this.open(place),
        onfocus: () => this.mark(place),
      },
      image,
    );
    const name = make("bdi", { class: "name" }, readable(fileName(hit.path)));
    const cosine = hit.cosine.toFixed(3);
    const known = hit.relevance != null;
    const score = known ? t("score", { cosine, percent: percent(hit.relevance) }) : cosine;
    tile.append(picture, make("p", { class: "caption" }, name, make("span", {}, score)));
    tile.classList.toggle("unlikely", !hit.likely);
    if (hit.duplicates.count) {
      const label = t("twins", { n: hit.duplicates.count });
      const attributes = { type: "button", class: "twins", title: label, "aria-label": label };
      const more = make("button", { ...attributes, tabindex: -1 }, `+${hit.duplicates.count}`);
      more.addEventListener("click", () => this.open(place, { twins: true }));
      tile.append(more);
    }
    showThumb(image, hit.id, missing);
    if (place === this.awaited) this.focus(place);
  }

  drop(place) {
    const tile = this.tiles.get(place);
    tile?.querySelector("img")?.stop?.();
    tile?.remove();
    this.tiles.delete(place);
  }

  /** The hit that has the focus, or had it last. */
  get chosen() {
    return this.hits?.at(this.focused);
  }

  // -- The keyboard ------------------------------------------------------------------------------

  /** The one tile that Tab comes to. */
  mark(place) {
    this.tiles.get(this.focused)?.firstChild?.setAttribute("tabindex", -1);
    this.focused = place;
    this.tiles.get(place)?.firstChild?.setAttribute("tabindex", 0);
  }

  /** Go to a place: into view, and with the focus. */
  focus(place) {
    if (!this.count) return;
    const to = Math.min(Math.max(0, place), this.count - 1);
    const y = this.root.getBoundingClientRect().top + scrollY + this.position(to).y;
    const margin = 8;
    if (y < scrollY + margin) scrollTo({ top: y - margin });
    else if (y + this.row > scrollY + innerHeight) scrollTo({ top: y + this.row - innerHeight });
    this.render();
    this.mark(to);
    const button = this.tiles.get(to)?.firstChild;
    this.awaited = button ? null : to; // its hit is on the way
    button?.focus({ preventScroll: true });
  }

  /** The place that an arrow leads to. */
  move(key) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    if (key === "Home") this.focus(0);
    else if (key === "End") this.focus(this.count - 1);
    else this.focus(this.focused + steps[key]);
  }
}

/** A relevance as people read it; one that is not known is none. */
export const percent = (relevance) => (relevance == null ? "–" : Math.floor(100 * relevance));
