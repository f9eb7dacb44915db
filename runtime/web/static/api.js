import { t } from "./strings.js";

// Talking to the station. Every call ends within a known time; an error is one sentence.

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function get(path, milliseconds = 8000) {
  return call(path, {}, milliseconds);
}

export async function post(path, body, milliseconds = 130000) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return call(path, options, milliseconds);
}

async function call(path, options, milliseconds) {
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(), milliseconds);
  try {
    const answer = await fetch(path, { ...options, signal: giveUp.signal, cache: "no-store", credentials: "same-origin" });
    if (answer.status === 204) return null;
    const fields = await answer.json();
    if (!answer.ok) throw new Problem(answer.status, fields.error ?? `answer ${answer.status}`);
    return fields;
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, t("no connection to the station"));
  } finally {
    clearTimeout(timer);
  }
}
