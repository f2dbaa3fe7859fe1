// Elements from code. Text goes in as text, never as markup: file names are anybody's to choose.

export const by = (id) => document.getElementById(id);

/** An element with attributes, listeners (onclick: f) and children, strings among them as text. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A name as it can be read: marks that turn or hide what stands beside them are shown as signs. */
export function readable(name) {
  // eslint-disable-next-line no-control-regex
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "\u2423");
}

/** The last part of a path. */
export const fileName = (path) => path.slice(path.lastIndexOf("/") + 1);
