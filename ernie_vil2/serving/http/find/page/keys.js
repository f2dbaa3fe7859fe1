// The keyboard: the help (?) lists what is here.

import { by, make } from "./dom.js";
import { listOf } from "./language.js";

const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

/** `like` and `copy` get the hit that has the focus. */
export function listen(grid, viewer, { like, copy }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const writing = event.target.closest("input:not([type=checkbox], [type=range]), textarea");
    if (document.querySelector("dialog[open]")) {
      if (viewer.isOpen && inViewer(event.key, viewer)) event.preventDefault();
    } else if (writing) {
      if (event.key === "Escape") writing.blur();
      else if (event.key === "ArrowDown" && event.target === by("words") && grid.count) {
        event.preventDefault();
        grid.focus(grid.focused);
      }
    } else if (onPage(event, grid, { like, copy })) event.preventDefault();
  });
  by("help-open").addEventListener("click", () => by("help").showModal());
  by("help-close").addEventListener("click", () => by("help").close());
}

function inViewer(key, viewer) {
  const does = {
    ArrowLeft: () => by("viewer-back").click(),
    ArrowRight: () => by("viewer-next").click(),
    m: () => viewer.like(),
    c: () => viewer.copy(),
  }[key];
  does?.();
  return does !== undefined;
}

function onPage({ key, target }, grid, does) {
  if (key === "/") {
    by("words").focus();
    by("words").select();
  } else if (key === "?") by("help").showModal();
  else if (ARROWS.includes(key) && target.type !== "range" && grid.count) {
    // the first arrow comes to the grid, the next ones go on from there
    if (grid.root.contains(target)) grid.move(key);
    else grid.focus(grid.focused);
  } else if (key === "m" && grid.root.contains(target) && grid.chosen) does.like(grid.chosen.id);
  else if (key === "c" && grid.root.contains(target) && grid.chosen) does.copy(grid.chosen.path);
  else return false;
  return true;
}

export function drawKeys() {
  const row = ([key, what]) => make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, key)), make("td", {}, what));
  by("keys").replaceChildren(...listOf("keys").map(row));
}
