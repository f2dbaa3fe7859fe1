// One picture in full, over the grid: what is known of it, what is like it, its near-duplicates.

import { by, fileName, make, readable } from "./dom.js";
import { percent } from "./grid.js";
import { t } from "./language.js";
import { pictureInfo } from "./query.js";
import { load, showThumb } from "./thumbs.js";

export class Viewer {
  /**
   * @param like called with the id that more like it are wanted of
   * @param move called with -1 or 1, to show the picture beside this one
   * @param closed called when it is gone
   */
  constructor(like, move, closed) {
    this.dialog = by("viewer");
    this.hit = null;
    this.address = null; // of the picture shown
    by("viewer-close").addEventListener("click", () => this.dialog.close());
    by("viewer-like").addEventListener("click", () => this.like());
    by("viewer-copy").addEventListener("click", () => this.copy());
    by("viewer-back").addEventListener("click", () => move(-1));
    by("viewer-next").addEventListener("click", () => move(1));
    this.dialog.addEventListener("close", () => {
      this.clear();
      closed();
    });
    // a click beside it, on the backdrop, closes it
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.wantLike = like;
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Show a hit, or a picture alone, which has no score. */
  async show(hit, { twins = false } = {}) {
    this.clear();
    this.hit = hit;
    const name = readable(fileName(hit.path));
    by("viewer-name").textContent = name;
    const image = by("viewer-image");
    image.alt = readable(hit.tags.length ? hit.tags.join(", ") : name);
    by("viewer-facts").replaceChildren(...facts(hit));
    this.showTwins(hit, twins);
    if (!this.isOpen) this.dialog.showModal();
    const stop = new AbortController();
    this.stop = stop;
    try {
      const address = await load(`image/${hit.id}`, stop.signal);
      this.address = address;
      // a browser that cannot decode a TIFF shows the thumbnail, which is a JPEG
      image.onerror = () => {
        image.onerror = null;
        showThumb(image, hit.id, (reason) => this.missing(reason));
      };
      image.src = address;
      image.hidden = false;
    } catch (error) {
      if (error.name !== "AbortError") this.missing(error.message);
    }
  }

  showTwins(hit, focus) {
    const ids = hit.duplicates?.ids ?? [];
    by("twins").hidden = !ids.length;
    by("twins-title").textContent = t("twins", { n: hit.duplicates?.count ?? 0 });
    by("twins-list").replaceChildren(
      ...ids.map((id) => {
        const image = make("img", { alt: "" });
        const button = make("button", { type: "button", onclick: () => this.showOther(id) }, image);
        showThumb(image, id, () => image.replaceWith(t("missing")));
        pictureInfo(id).then(
          (info) => button.setAttribute("aria-label", readable(info.path)),
          () => button.setAttribute("aria-label", id),
        );
        return make("li", {}, button);
      }),
    );
    if (focus) requestAnimationFrame(() => by("twins-list").querySelector("button")?.focus());
  }

  async showOther(id) {
    try {
      await this.show(await pictureInfo(id));
    } catch (error) {
      this.missing(error.message);
    }
  }

  like() {
    const { id } = this.hit;
    this.dialog.close();
    this.wantLike(id);
  }

  async copy() {
    by("viewer-said").textContent = await copyPath(this.hit.path);
  }

  missing(reason) {
    by("viewer-image").hidden = true;
    by("viewer-missing").hidden = false;
    by("viewer-missing").textContent = t("gone", { reason });
  }

  clear() {
    this.stop?.abort();
    const image = by("viewer-image");
    image.onerror = null;
    image.removeAttribute("src");
    image.hidden = true;
    by("viewer-missing").hidden = true;
    by("viewer-said").textContent = "";
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
  }
}

/** Put a path into the clipboard; returns what to say of it. */
export async function copyPath(path) {
  try {
    await navigator.clipboard.writeText(path);
    return t("copied");
  } catch {
    return t("not-copied", { path: readable(path) }); // over plain HTTP from another machine
  }
}

/** What is known of a picture, as terms and their values. */
function facts(hit) {
  const rows = [["path", make("bdi", {}, readable(hit.path))]];
  if (hit.cosine !== undefined) rows.push(["cosine", hit.cosine.toFixed(4)]);
  if (hit.relevance != null) {
    rows.push(["relevance-is", t("relevance-means", { percent: percent(hit.relevance) })]);
  }
  rows.push(["size", `${hit.width} × ${hit.height}`]);
  rows.push(["taken", hit.taken.replace("T", " ").replace(/(\.\d+)?Z$/, "")]);
  if (hit.tags.length) rows.push(["tags-are", make("bdi", {}, readable(hit.tags.join(", ")))]);
  return rows.flatMap(([key, value]) => [make("dt", {}, t(key)), make("dd", {}, value)]);
}
