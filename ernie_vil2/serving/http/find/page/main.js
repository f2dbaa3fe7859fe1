// The page: a query and filters become a search, its hits a grid. Its address holds both, so that
// Back leads to the search before; only a picture from outside has no place in an address.

import { by, make } from "./dom.js";
import { receive } from "./drops.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Hits } from "./hits.js";
import { drawKeys, listen } from "./keys.js";
import { listOf, switchLanguage, t, translate } from "./language.js";
import { Query } from "./query.js";
import { drawCount, watch } from "./status.js";
import { copyPath, Viewer } from "./viewer.js";

const MOST = 100000; // hits that the server lists

const query = new Query(() => search());
const filters = new Filters(() => search());
const grid = new Grid(by("results"), (place, how) => open(place, how));
let opened = 0; // place of the picture in the viewer
const viewer = new Viewer(
  (id) => query.like(id),
  (step) => open(opened + step),
  refocus,
);
let running = null; // AbortController of the search on its way
let collection = { count: 0, name: "", indexing: null };
let hidden = null; // at most so many hits are as relevant as the slider asks, by the server
let counting = null; // AbortController of the question how many these are

// -- Searching -----------------------------------------------------------------------------------

async function search({ remember = true } = {}) {
  running?.abort();
  const stop = new AbortController();
  running = stop;
  grid.hits?.stop();
  query.draw();
  if (remember) history.pushState(null, "", address());
  fail(null);
  if (query.empty) {
    grid.clear();
    draw();
    return;
  }
  by("status").textContent = t("searching");
  const fields = filters.fields;
  const fetchPage = (offset, k, signal) => query.fetch({ ...fields, offset, k }, signal);
  const hits = new Hits(fetchPage, () => grid.hits === hits && draw(), fail);
  try {
    await hits.start(stop.signal);
    if (running !== stop) return;
    hidden = null;
    grid.show(hits);
    draw();
    limit();
  } catch (error) {
    if (error.name !== "AbortError") {
      grid.clear();
      draw();
      fail(error);
    }
  }
}

/** Find out how many hits the slider leaves: what is here is hidden at once, then the rest. */
async function limit() {
  const hits = grid.hits;
  const least = leastRelevance();
  const said = `${by("relevance").value} %`;
  by("relevance-value").textContent = said;
  by("relevance").setAttribute("aria-valuetext", said);
  hidden = null;
  draw();
  if (!hits || !least || hits.firstBelow(least) < hits.total) return;
  counting?.abort();
  const stop = new AbortController();
  counting = stop;
  try {
    const { total } = await query.fetch({ ...filters.fields, minimum: least, k: 1 }, stop.signal);
    if (grid.hits !== hits) return;
    hidden = total;
    draw();
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

const leastRelevance = () => Number(by("relevance").value) / 100;

// -- What is said --------------------------------------------------------------------------------

function draw() {
  const hits = grid.hits;
  const total = hits?.total ?? 0;
  const shown = Math.min(total, hidden ?? total, hits?.firstBelow(leastRelevance()) ?? 0);
  grid.limit(shown);
  by("relevance-field").hidden = !hits || hits.at(0)?.relevance == null;
  by("start").hidden = !query.empty;
  const said = sentence(hits, total, shown);
  if (by("status").textContent !== said) by("status").textContent = said;
}

function sentence(hits, total, shown) {
  const least = Number(by("relevance").value);
  if (!hits) {
    return collection.count || collection.indexing || !collection.name
      ? ""
      : t("empty", { db: collection.name });
  }
  if (!total) return t(collection.count ? "none" : "empty", { db: collection.name });
  if (!shown) return t("all-hidden", { total, percent: least });
  if (shown < total) return t("shown", { shown, total, percent: least });
  if (hits.line === null) return t("count", { n: total });
  const cut = total >= MOST && collection.count > total;
  return t(cut ? "found-some" : "found", { likely: hits.line, total, count: collection.count });
}

function fail(error) {
  by("error").hidden = !error;
  by("error").textContent = error ? t("error", { message: error.message }) : "";
  if (error) by("status").textContent = "";
}

async function open(place, how) {
  const hits = grid.hits;
  if (!hits || place < 0 || place >= grid.count) return;
  opened = place;
  grid.focus(place);
  try {
    const hit = hits.at(place) ?? (await hits.one(place));
    if (hit) await viewer.show(hit, how);
  } catch (error) {
    fail(error);
  }
}

/** After the viewer: the browser goes back to the picture that was opened first, not to the last. */
function refocus() {
  const now = document.activeElement;
  // it is told late that it was closed: whoever types by then keeps the focus
  if (now === document.body || by("results").contains(now)) grid.focus(opened);
}

function drawExamples() {
  by("examples").replaceChildren(
    ...listOf("examples").map((text) => {
      const ask = () => {
        query.words = text;
        search();
      };
      return make("li", {}, make("button", { type: "button", onclick: ask }, text));
    }),
  );
}

function drawAll() {
  translate();
  drawKeys();
  drawExamples();
  if (collection.name) drawCount(collection);
  filters.draw();
  query.draw();
  if (grid.hits) grid.show(grid.hits);
  draw();
}

// -- The page's address --------------------------------------------------------------------------

function address() {
  const parts = new URLSearchParams();
  if (query.words) parts.set("q", query.words);
  for (const id of query.ids) parts.append("like", id);
  filters.write(parts);
  return `#${parts}`;
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  query.words = parts.get("q") ?? "";
  query.setIds(parts.getAll("like").filter((id) => /^-?[0-9a-f]{20}$/.test(id)));
  filters.read(parts);
  search({ remember: false });
}

// -- Beginning -----------------------------------------------------------------------------------

by("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
by("words").addEventListener("input", () => {
  query.draw();
  by("start").hidden = !query.empty;
});
by("relevance").addEventListener("input", limit);
by("language").addEventListener("click", () => {
  switchLanguage();
  drawAll();
});
addEventListener("popstate", readAddress);
receive((files) => {
  try {
    query.addFiles(files);
  } catch (error) {
    fail(error);
  }
});
const like = (id) => query.like(id);
const copy = async (path) => {
  by("status").textContent = await copyPath(path);
};
listen(grid, viewer, { like, copy });
drawAll();
readAddress();
by("words").focus();
watch((told) => {
  collection = told;
  drawCount(told);
  filters.offer(told);
  draw();
});
