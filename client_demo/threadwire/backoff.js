/**
 * Whether to connect again after a loss, and how long to wait before. Pure.
 *
 * Full jitter (AWS, "Exponential Backoff And Jitter"): all clients of a server that restarts lose it in the same second,
 * and only chance over the whole interval keeps them from coming back in one.
 */

const FIRST_SECONDS = 0.25;
const MAX_SECONDS = 10;
/** A server that is full, or a user over a limit, is helped by nobody who asks again at once. */
const FIRST_SECONDS_WHEN_REFUSED = 4;
const MAX_SECONDS_WHEN_REFUSED = 60;

/** What a browser says of a connection that broke, or never came to be. */
export const ABNORMAL = 1006;
/** How this client leaves a connection that it gives up: by a code that lets its runs wait for the next one. */
export const GIVEN_UP = 3001;

const LATER = new Set([1013, 4429]);
/** 1000: we asked for it. 1002, 1003, 1007–1010: one of us is not understood, and the next time will be no better. */
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/**
 * Whether coming back can help. Of codes that the protocol does not have, those from 4000 are taken for a no.
 *
 * @param {number} code
 */
export function mayReconnect(code) {
  return LATER.has(code) || (code < 4000 && !FINAL.has(code));
}

/** Whether the server said that it cannot take us now. @param {number} code */
export const isRefusal = (code) => LATER.has(code);

/**
 * Seconds to wait before the next attempt.
 *
 * @param {number} failures attempts since the last progress
 * @param {number} chance from 0 to 1
 * @param {number} code the close code
 * @param {number | null} announced what `goaway` said; it is jittered already, and taken as it is
 */
export function delay(failures, chance, code, announced) {
  if (announced !== null) return announced;
  const doubled = 2 ** Math.min(failures, 16);
  if (isRefusal(code)) {
    const interval = Math.min(MAX_SECONDS_WHEN_REFUSED, FIRST_SECONDS_WHEN_REFUSED * doubled);
    return interval / 2 + (chance * interval) / 2;
  }
  return chance * Math.min(MAX_SECONDS, FIRST_SECONDS * doubled);
}
