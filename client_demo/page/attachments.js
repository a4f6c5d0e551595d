/**
 * Files as content blocks: pictures scaled down to what a message may hold, text as text, anything else as it is.
 *
 * @typedef {import("../threadwire.d.ts").Block} Block
 */

/** Models look at pictures in about this many pixels; more only costs. */
const MAX_SIDE = 1568;
/** What a message has beside its attachments. */
const ROOM = 16_384;
const TEXT = /^text\/|[/+](json|xml|yaml|x-yaml|toml|javascript|typescript|x-sh|x-python|sql)$/;
const TEXT_NAME =
  /\.(md|txt|csv|json|ya?ml|toml|xml|html?|css|jsx?|tsx?|py|rs|go|c|h|cpp|java|rb|sh|sql|log|ini|cfg)$/i;

/** A file that does not fit, in words. */
export class TooLarge extends Error {}

/**
 * @param {File} file
 * @param {number} maxBytes what the whole message may have; 0: no limit
 * @returns {Promise<Block>}
 */
export async function toBlock(file, maxBytes) {
  const room = maxBytes > 0 ? maxBytes - ROOM : Infinity;
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") return picture(file, room);
  if (TEXT.test(file.type) || TEXT_NAME.test(file.name)) {
    const text = await file.text();
    if (JSON.stringify(text).length > room) throw tooLarge(file, room);
    return { type: "text-plain", text, mime_type: "text/plain", title: file.name };
  }
  if ((file.size * 4) / 3 > room) throw tooLarge(file, room);
  return {
    type: "file",
    base64: await base64(file),
    mime_type: file.type || "application/octet-stream",
    title: file.name,
  };
}

/** @param {File} file @param {number} room */
const tooLarge = (file, room) =>
  new TooLarge(`${file.name} is too large: a message holds ${Math.floor(room / 1024)} KiB.`);

/** @param {File} file @param {number} room @returns {Promise<Block>} */
async function picture(file, room) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new TooLarge(`${file.name} is no picture this browser can read.`);
  }
  const fits = (/** @type {Blob} */ blob) => (blob.size * 4) / 3 < room;
  if (
    fits(file) &&
    Math.max(bitmap.width, bitmap.height) <= MAX_SIDE &&
    /^image\/(png|jpeg|webp|gif)$/.test(file.type)
  ) {
    return { type: "image", base64: await base64(file), mime_type: file.type };
  }
  for (let side = MAX_SIDE; side >= 128; side = Math.floor(side * 0.7)) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const type = file.type === "image/png" && side === MAX_SIDE ? "image/png" : "image/jpeg";
    /** @type {Blob | null} */
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.85));
    if (blob !== null && fits(blob)) return { type: "image", base64: await base64(blob), mime_type: type };
  }
  throw tooLarge(file, room);
}

/** @param {Blob} blob @returns {Promise<string>} */
function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
