// Pictures from outside: dropped anywhere on the page, pasted, or picked from a list of files.

import { by } from "./dom.js";

/** `take` gets a list of files. */
export function receive(take) {
  const veil = by("drop");
  let depth = 0; // an element inside the page is entered before the last one is left
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth += 1;
    veil.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (carries(event)) event.preventDefault();
  });
  addEventListener("dragleave", (event) => {
    if (!carries(event)) return;
    depth = Math.max(0, depth - 1);
    veil.hidden = depth === 0;
  });
  addEventListener("drop", (event) => {
    depth = 0;
    veil.hidden = true;
    if (!carries(event)) return;
    event.preventDefault(); // else the browser would leave this page for the picture
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return; // text goes into the box as ever
    event.preventDefault();
    take(files);
  });
  by("pick").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    take([...by("file").files]);
    by("file").value = "";
  });
}
