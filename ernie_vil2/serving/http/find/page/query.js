// What is looked for: the words of the box, and pictures beside it, each with its sign. A picture is
// a file that was dropped, pasted or picked, or one of the collection ("more like this").

import { by, make, readable } from "./dom.js";
import { t } from "./language.js";
import { ask, post, Refused } from "./server.js";
import { load } from "./thumbs.js";

const MOST = 16; // pictures
const OPERATOR = /(?:^|(?<=\s))([+＋\-－])(?=\s)/gu; // as the server reads them

export class Query {
  /** @param changed called when chips were added, turned around or removed */
  constructor(changed) {
    this.changed = changed;
    this.pictures = []; // {blob or id, name, sign, address, known: the server's name of a blob}
  }

  get words() {
    return by("words").value.trim();
  }

  set words(text) {
    by("words").value = text;
  }

  get empty() {
    return !this.words && !this.pictures.length;
  }

  /** Take files for pictures of the query; says of one that is none. */
  addFiles(files) {
    for (const file of files) {
      if (this.pictures.length >= MOST) throw new Refused(422, "bad_query", t("too-many", { most: MOST }));
      if (file.type && !file.type.startsWith("image/")) {
        throw new Refused(422, "bad_image", t("no-picture", { name: readable(file.name) }));
      }
      const address = URL.createObjectURL(file);
      this.pictures.push({ blob: file, name: file.name || "", sign: 1, address, known: null });
    }
    this.draw();
    this.changed();
  }

  /** Look for pictures like one of the collection, and nothing else. */
  like(id) {
    this.words = "";
    this.setIds([id]);
    this.changed();
  }

  /** Put pictures of the collection in place of all pictures. */
  setIds(ids) {
    for (const picture of this.pictures) this.forget(picture);
    this.pictures = ids.map((each) => {
      const id = each.replace(/^-/, "");
      return { id, name: "", sign: each.startsWith("-") ? -1 : 1, address: null };
    });
    this.draw();
  }

  get ids() {
    const named = this.pictures.filter((picture) => picture.id);
    return named.map(({ id, sign }) => (sign < 0 ? `-${id}` : id));
  }

  /** The server's answer for a page of hits. */
  async fetch(page, signal) {
    const only = this.pictures.length === 1 && !this.words ? this.pictures[0] : null;
    if (only?.id && only.sign > 0) return post(`v1/similar/${only.id}`, page, signal);
    const terms = this.pictures
      .filter((picture) => picture.id)
      .map(({ id, sign }) => `${sign < 0 ? "-" : "+"} id:${id}`);
    const first = /^[+＋\-－]\s/u.test(this.words) || !this.words ? this.words : `+ ${this.words}`;
    const query = [first, ...terms].filter(Boolean).join(" ").replace(/^\+ /, "");
    const blobs = this.pictures.filter((picture) => picture.blob);
    try {
      return await this.send({ ...page, query }, blobs, signal);
    } catch (error) {
      if (error.code !== "unknown_image") throw error;
      for (const picture of blobs) picture.known = null; // the server was started anew
      return this.send({ ...page, query }, blobs, signal);
    }
  }

  /** A picture's bytes go to the server once; after that it has a name there. */
  async send(fields, blobs, signal) {
    const weights = blobs.map((picture) => picture.sign);
    const known = blobs.map((picture) => picture.known);
    let answer;
    if (known.every(Boolean)) {
      answer = await post("v1/search", { ...fields, images: known, weights }, signal);
    } else {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) {
        for (const each of Array.isArray(value) ? value : [value]) {
          if (each != null) form.append(name, String(each));
        }
      }
      for (const picture of blobs) {
        form.append("images", picture.known ?? picture.blob);
        form.append("weights", String(picture.sign));
      }
      answer = await post("v1/search", form, signal);
    }
    blobs.forEach((picture, index) => { picture.known = answer.images[index]; });
    return answer;
  }

  // -- Chips -------------------------------------------------------------------------------------

  draw() {
    const words = this.terms().map((term) => this.wordChip(term));
    by("chips").replaceChildren(...this.pictures.map((picture) => this.pictureChip(picture)), ...words);
  }

  /** The words as they are read, if there is more than one term or a picture beside them. */
  terms() {
    const text = by("words").value;
    const quoted = (place) => (text.slice(0, place).match(/"/g) ?? []).length % 2;
    const signs = [...text.matchAll(OPERATOR)].filter((found) => !quoted(found.index));
    if (!text.trim() || (!signs.length && !this.pictures.length)) return [];
    const starts = signs.map(({ index }) => index);
    if (text.slice(0, starts[0] ?? text.length).trim()) starts.unshift(-1);
    return starts.map((start, number) => {
      const end = starts[number + 1] ?? text.length;
      const sign = start >= 0 && "-－".includes(text[start]) ? -1 : 1;
      return { sign, text: text.slice(start < 0 ? 0 : start + 1, end).trim(), number };
    });
  }

  /** Write the terms back into the box, one of them turned around or left out. */
  rewrite(number, sign) {
    const terms = this.terms().filter((term) => term.number !== number || sign);
    if (sign) terms.find((term) => term.number === number).sign = sign;
    const parts = terms.map((term, place) => {
      if (place === 0) return term.sign < 0 ? `- ${term.text}` : term.text;
      return `${term.sign < 0 ? "-" : "+"} ${term.text}`;
    });
    this.words = parts.join(" ");
    this.draw();
    this.changed();
  }

  wordChip({ sign, text, number }) {
    return this.chip(sign, make("bdi", {}, readable(text)), readable(text), {
      turn: () => this.rewrite(number, -sign),
      remove: () => this.rewrite(number, 0),
    });
  }

  pictureChip(picture) {
    const what = picture.id ? t("like-chip") : t("picture", { name: readable(picture.name) });
    const image = make("img", { alt: what });
    if (picture.address) image.src = picture.address;
    else this.showAddress(picture, image);
    return this.chip(picture.sign, image, what, {
      turn: () => {
        picture.sign = -picture.sign;
        this.draw();
        this.changed();
      },
      remove: () => {
        this.forget(picture);
        this.pictures = this.pictures.filter((each) => each !== picture);
        this.draw();
        this.changed();
      },
    });
  }

  chip(sign, content, what, { turn, remove }) {
    const label = `${what}: ${t(sign < 0 ? "minus" : "plus")}`;
    const turning = { type: "button", class: "sign", "aria-label": label, title: label, onclick: turn };
    const gone = t("remove", { what });
    const removing = { type: "button", "aria-label": gone, title: gone, onclick: remove };
    return make(
      "li",
      { class: sign < 0 ? "chip minus" : "chip" },
      make("button", turning, sign < 0 ? "−" : "+"),
      content,
      make("button", removing, "×"),
    );
  }

  async showAddress(picture, image) {
    try {
      picture.address = await load(`thumb/${picture.id}`);
      image.src = picture.address;
    } catch {
      image.replaceWith(make("span", {}, t("like-chip"))); // the file may be gone, its vector is not
    }
  }

  forget(picture) {
    if (picture.address) URL.revokeObjectURL(picture.address);
  }
}

/** Whether a picture of the collection is still there. */
export const pictureInfo = async (id, signal) => (await ask(`v1/pictures/${id}`, { signal })).json();
