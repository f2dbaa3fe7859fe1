// Small pictures, by id. They are fetched and not named in src, for two reasons: a key travels in a
// header and never in an address, and what was scrolled past before it came is stopped.

import { ask } from "./server.js";

const MOST = 600; // addresses kept; each stands for some 10 KB
const kept = new Map(); // id -> blob address, the last used at the end

/** Show the picture `id` in an <img>; `missing` is called with the reason if there is none. */
export async function showThumb(image, id, missing) {
  const stop = new AbortController();
  image.stop = () => stop.abort();
  try {
    const address = kept.get(id) ?? (await load(`thumb/${id}`, stop.signal));
    kept.delete(id);
    kept.set(id, address);
    while (kept.size > MOST) {
      const [oldest] = kept.keys();
      URL.revokeObjectURL(kept.get(oldest));
      kept.delete(oldest);
    }
    if (!stop.signal.aborted) image.src = address;
  } catch (error) {
    if (error.name !== "AbortError") missing(error.message);
  }
}

/** The address of a blob that the server gives; whoever gets it revokes it. */
export async function load(path, signal) {
  const answer = await ask(path, { signal });
  return URL.createObjectURL(await answer.blob());
}
