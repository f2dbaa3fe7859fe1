// The page's language: the browser's first of the two that we speak, or what was chosen before.

import { STRINGS } from "./strings.js";

const REMEMBERED = "ernie_vil2.language";
let language = remembered() ?? (preferred() || "en");

function remembered() {
  try {
    const chosen = localStorage.getItem(REMEMBERED);
    return chosen in STRINGS ? chosen : null;
  } catch {
    return null; // a browser that lets no page keep anything
  }
}

function preferred() {
  return navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in STRINGS);
}

/** The text of a key with its values; numbers with the language's separators. */
export function t(key, values = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? value.toLocaleString(language) : String(value);
  });
}

/** A list of the language, such as its examples. */
export const listOf = (key) => STRINGS[language][key];

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  try {
    localStorage.setItem(REMEMBERED, language);
  } catch {
    // it is chosen for this visit alone
  }
}

/** Put all texts that stand in the document into the language. */
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = t("title");
  for (const [attribute, set] of [
    ["data-t", (element, text) => { element.textContent = text; }],
    ["data-t-label", (element, text) => element.setAttribute("aria-label", text)],
    ["data-t-placeholder", (element, text) => { element.placeholder = text; }],
  ]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      set(element, t(element.getAttribute(attribute)));
    }
  }
  const button = document.getElementById("language");
  button.textContent = t("other");
  button.lang = language === "zh" ? "en" : "zh";
}
