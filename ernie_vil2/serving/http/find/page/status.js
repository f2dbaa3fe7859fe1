// How many pictures there are, and how far an index in work is: asked again and again.

import { by } from "./dom.js";
import { t } from "./language.js";
import { askJson } from "./server.js";

const AT_WORK = 1500; // milliseconds
const AT_REST = 15000;

/** Keep the header up to date; `changed` gets each answer that differs from the one before. */
export async function watch(changed) {
  let before = "";
  for (;;) {
    let pause = AT_REST;
    try {
      const told = await askJson("v1/collection");
      if (told.indexing || !told.complete) pause = AT_WORK;
      const now = JSON.stringify(told);
      if (now !== before) changed(told);
      before = now;
    } catch {
      // the search itself says what is wrong
    }
    await new Promise((resolve) => {
      setTimeout(resolve, pause);
    });
    if (document.hidden) await shown();
  }
}

function shown() {
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

export function drawCount({ count, indexing }) {
  const bar = by("progress");
  bar.hidden = !indexing;
  if (indexing) bar.value = indexing.percent;
  by("count").textContent = indexing
    ? t("indexing", { n: count, percent: indexing.percent })
    : t("count", { n: count });
}
