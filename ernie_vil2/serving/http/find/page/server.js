// Requests to the server: the key, its errors in one form, and what may be stopped on the way.

import { t } from "./language.js";

const KEPT = "ernie_vil2.key";
let asking = null; // one question for the key at a time

/** An answer that is none: code and message are the server's. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function keyKept() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

/** A good answer of the server. Raises Refused, or AbortError after `signal`. */
export async function ask(path, { signal, ...options } = {}) {
  for (;;) {
    const key = keyKept();
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, signal, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "offline", t("offline"));
    }
    if (answer.ok) return answer;
    const { code, message } = await refusal(answer);
    if (answer.status !== 401) throw new Refused(answer.status, code, message);
    if (keyKept() !== key) continue; // given meanwhile, to another request
    asking ??= askForKey(key).finally(() => { asking = null; });
    await asking;
  }
}

/** The same, as JSON has it. */
export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export function post(path, body, signal) {
  const form = body instanceof FormData;
  return askJson(path, {
    method: "POST",
    body: form ? body : JSON.stringify(body),
    headers: form ? {} : { "Content-Type": "application/json" },
    signal,
  });
}

async function refusal(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return { code: "http_error", message: `${answer.status} ${answer.statusText}` };
  }
}

/** Show the question for the key, and keep what was given for as long as this tab is open. */
function askForKey(wrong) {
  const dialog = document.getElementById("login");
  const field = document.getElementById("key");
  document.getElementById("key-wrong").hidden = !wrong;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    // without a key nothing can be done here: Esc does not close it
    dialog.oncancel = (event) => event.preventDefault();
    document.getElementById("login-form").onsubmit = (event) => {
      event.preventDefault();
      try {
        sessionStorage.setItem(KEPT, field.value.trim());
      } catch {
        // it is asked for again with the next request
      }
      field.value = "";
      dialog.close();
      resolve();
    };
  });
}
