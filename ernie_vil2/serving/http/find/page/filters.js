// Which pictures may be found: folder, dates, tags; and whether near-duplicates are one hit.

import { by, make, readable } from "./dom.js";
import { t } from "./language.js";

const DAY = 86400;

export class Filters {
  /** @param changed called when another set of pictures passes */
  constructor(changed) {
    this.changed = changed;
    this.tags = [];
    for (const id of ["folder", "after", "before", "fold"]) {
      by(id).addEventListener("change", () => this.change());
    }
    by("tag").addEventListener("change", () => this.addTag());
    by("clear").addEventListener("click", () => this.clear());
  }

  /** As the server takes them. */
  get fields() {
    const after = seconds(by("after").value);
    const before = seconds(by("before").value);
    return {
      folder: by("folder").value.trim() || null,
      after,
      before: before === null ? null : before + DAY, // with that day
      tags: this.tags,
      fold: by("fold").checked,
    };
  }

  /** How many are set. */
  get number() {
    const set = ["folder", "after", "before"].filter((id) => by(id).value.trim());
    return set.length + this.tags.length;
  }

  /** As text for the page's address, and back. */
  write(address) {
    for (const id of ["folder", "after", "before"]) if (by(id).value) address.set(id, by(id).value);
    for (const tag of this.tags) address.append("tag", tag);
    if (!by("fold").checked) address.set("fold", "0");
  }

  read(address) {
    for (const id of ["folder", "after", "before"]) by(id).value = address.get(id) ?? "";
    this.tags = address.getAll("tag");
    by("fold").checked = address.get("fold") !== "0";
    this.draw();
  }

  /** Offer what the collection has. */
  offer({ folders, tags, oldest, newest }) {
    const options = (named) => named.map(({ name, count }) => make("option", { value: name }, String(count)));
    by("folders").replaceChildren(...options(folders));
    by("tags").replaceChildren(...options(tags));
    for (const id of ["after", "before"]) {
      by(id).min = oldest === null ? "" : day(oldest);
      by(id).max = newest === null ? "" : day(newest);
    }
  }

  clear() {
    for (const id of ["folder", "after", "before", "tag"]) by(id).value = "";
    this.tags = [];
    this.change();
  }

  addTag() {
    const tag = by("tag").value.trim();
    if (!tag) return;
    if (!this.tags.includes(tag)) this.tags.push(tag);
    by("tag").value = "";
    this.change();
  }

  change() {
    this.draw();
    this.changed();
  }

  draw() {
    by("filter-count").textContent = this.number ? t("filtered", { n: this.number }) : "";
    by("chosen-tags").replaceChildren(
      ...this.tags.map((tag) => {
        const remove = () => {
          this.tags = this.tags.filter((each) => each !== tag);
          this.change();
        };
        const label = t("remove", { what: readable(tag) });
        const button = make("button", { type: "button", "aria-label": label, onclick: remove }, "×");
        return make("li", { class: "chip" }, make("bdi", {}, readable(tag)), button);
      }),
    );
  }
}

/** A day's beginning in seconds since 1970, UTC, as the collection counts. */
function seconds(date) {
  const time = Date.parse(`${date}T00:00:00Z`);
  return Number.isNaN(time) ? null : time / 1000;
}

const day = (time) => new Date(time * 1000).toISOString().slice(0, 10);
