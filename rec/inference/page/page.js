// Runs the exported model beside this file: a picture and a phrase in, boxes and a mask out. Pixels and words are made as
// rec makes them in Python (rec/data/images.py, rec/data/text.py, rec/boxes.py), and tests hold the two together.

import * as ort from "./ort.wasm.bundle.min.mjs";

const PAD = 127, MAX_PIXELS = 100e6;
const COEFFICIENT = 2048; // OpenCV resizes bytes with 11 bits after the point
// What Python's str.split() takes for white space: \s of JavaScript is another set.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

/** The words of a phrase, as rec.data.text.tokenize makes them. */
export function tokenize(phrase) {
  const words = phrase.toLowerCase().replace(/[.,'!?"()*#:;]/g, "").replace(/[-/]/g, " ").split(SPACE);
  return words.filter((word) => word !== "");
}

// Quotation marks and dashes that telephones and word processors write by themselves; signs that nobody sees.
const QUOTES = /[\u2018-\u201f\u2039\u203a\xab\xbb\xb4]/g, DASHES = /[\u2010-\u2015\u2212]/g;
const UNSEEN = /[\xad\u200b-\u200f\u202a-\u202e\u2060\ufeff]/g;

/** The words that a word is as keys have it. */
const typed = (word) => tokenize(word.replace(QUOTES, "'").replace(DASHES, "-").replace(UNSEEN, "").normalize("NFKC"));

/** The id of every word, and of those with typographic signs as keys have them. */
function numbered(words) {
  const ids = new Map(words.map((word, id) => [word, id]));
  words.slice(3).forEach((word, place) => {
    const [plain, more] = typed(word);
    if (plain !== undefined && more === undefined && !ids.has(plain)) ids.set(plain, place + 3);
  });
  return ids;
}

/** Ids of a phrase: position in `about.words`, 1 for an unknown word, cut and padded with 0 to `about.max_token_length`. */
export function encode(about, phrase) {
  about.ids ??= numbered(about.words);
  const ids = new Array(about.max_token_length).fill(0);
  const words = tokenize(phrase).flatMap((word) => (about.ids.has(word) ? [word] : typed(word)));
  words.slice(0, ids.length).forEach((word, place) => { ids[place] = about.ids.get(word) ?? 1; });
  return ids;
}

/** Where an image of this size lies in a square: rec.boxes.letterbox_geometry. */
export function geometry(height, width, size) {
  const aspect = width / height;
  const [nh, nw] = aspect < 1 ? [size, Math.trunc(size * aspect)] : [Math.trunc(size / aspect), size];
  const [h, w] = [Math.max(1, nh), Math.max(1, nw)];
  return { height, width, nh: h, nw: w, dx: (size - w) >> 1, dy: (size - h) >> 1 };
}

/** Left and right neighbour of every target pixel along one side, and how much each counts (of COEFFICIENT). */
function taps(from, to) {
  const scale = from / to, taken = [];
  for (let place = 0; place < to; place++) {
    const at = Math.fround((place + 0.5) * scale - 0.5);
    const first = Math.floor(at), right = Math.round((at - first) * COEFFICIENT);
    taken.push([Math.max(0, Math.min(first, from - 1)), Math.max(0, Math.min(first + 1, from - 1)), COEFFICIENT - right, right]);
  }
  return taken;
}

/** RGBA pixels of `ImageData` to uint8 (3, size, size): bilinear as OpenCV's, centred, padded with 127. */
export function letterbox(image, size) {
  const { nh, nw, dx, dy } = geometry(image.height, image.width, size);
  const square = new Uint8Array(3 * size * size).fill(PAD);
  const columns = taps(image.width, nw), rows = taps(image.height, nh);
  const line = (y, channel) => { // one row of the image, as wide as in the square
    const start = y * image.width * 4 + channel;
    return Int32Array.from(columns, ([a, b, left, right]) => image.data[start + 4 * a] * left + image.data[start + 4 * b] * right);
  };
  for (let channel = 0; channel < 3; channel++) {
    const known = new Map(); // the two rows in use: an enlarged image needs each several times
    rows.forEach(([a, b, above, below], y) => {
      for (const row of known.keys()) if (row < a) known.delete(row);
      for (const row of [a, b]) if (!known.has(row)) known.set(row, line(row, channel));
      const first = known.get(a), second = known.get(b), start = (channel * size + dy + y) * size + dx;
      for (let x = 0; x < nw; x++) {
        square[start + x] = (((above * (first[x] >> 4)) >> 16) + ((below * (second[x] >> 4)) >> 16) + 2) >> 2;
      }
    });
  }
  return square;
}

/** A file's picture as `ImageData`, turned as its EXIF orientation says, colours as stored. */
export async function decode(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  if (bitmap.width * bitmap.height > MAX_PIXELS) throw new Error(`The picture has more than ${MAX_PIXELS / 1e6} million pixels.`);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function iou(a, b) {
  const side = (low, high) => Math.max(0, Math.min(a[high], b[high]) - Math.max(a[low], b[low]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const overlap = side(0, 2) * side(1, 3), union = area(a) + area(b) - overlap;
  return overlap / (union || 1);
}

/** The boxes that are the answer, best first (rec.contracts.Answer): of at least the threshold, none over a better one. */
function choose(boxes, scores, { threshold, suppress_iou }) {
  const kept = [];
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  for (const i of order) {
    if (!(scores[i] >= threshold)) break;
    if (kept.every(({ box }) => iou(box, boxes[i]) <= suppress_iou)) kept.push({ box: boxes[i], score: scores[i] });
  }
  return kept;
}

/** Whether a mask alone is an answer (rec.contracts.Answer.sees): enough of the picture's `pixels` are on, counted in the square. */
function sees({ data, size, nh, nw, dx, dy }, { mask_threshold, answer }, pixels) {
  let on = 0;
  for (let y = dy; y < dy + nh; y++) for (let x = dx; x < dx + nw; x++) on += data[y * size + x] > mask_threshold;
  return on * pixels / (nh * nw) >= Math.max(1, answer.min_pixels);
}

/** The model: `about`, what the file says of itself, and `find(image, phrase)`. */
export async function open(folder = new URL(".", import.meta.url)) {
  const about = await (await fetch(new URL("about.json", folder))).json();
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", folder).href };
  if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads share memory, which browsers give isolated pages only
  const session = await ort.InferenceSession.create(new URL("model.onnx", folder).href);
  const size = about.input_size;

  async function find(image, phrase) {
    const ids = encode(about, phrase);
    if (!ids[0]) throw new Error("Type what to look for, such as: the man on the left.");
    const tokens = about.tokens === "int32" ? Int32Array.from(ids) : BigInt64Array.from(ids, BigInt);
    const output = await session.run({
      image: new ort.Tensor("uint8", letterbox(image, size), [1, 3, size, size]),
      tokens: new ort.Tensor(about.tokens ?? "int64", tokens, [1, ids.length]),
    });
    const { nh, nw, dx, dy } = geometry(image.height, image.width, size);
    const inImage = ({ box: [left, top, right, bottom], score }) => ({
      box: [(left - dx) * image.width / nw, (top - dy) * image.height / nh, (right - dx) * image.width / nw, (bottom - dy) * image.height / nh]
        .map((value, i) => Math.max(0, Math.min(value, i % 2 ? image.height : image.width))), score });
    let found = output.box ? [{ box: Array.from(output.box.data), score: output.score.data[0] }] : [];
    if (about.answer && output.candidate_boxes) {
      const scores = output.candidate_scores.data, all = output.candidate_boxes.data;
      found = choose(Array.from(scores, (_, i) => Array.from(all.subarray(4 * i, 4 * i + 4))), scores, about.answer);
    } else if (about.answer) {
      found = found.filter(({ score }) => score >= about.answer.threshold);
    }
    let mask = output.mask && (found.length || !output.box) ? { data: output.mask.data, size, nh, nw, dx, dy } : null;
    if (mask && about.answer && !output.box && !sees(mask, about, image.width * image.height)) mask = null;
    return { found: found.map(inImage), mask };
  }
  return { about, find };
}

const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4"];

/** Draws the picture, the mask over it and the boxes. */
function draw(canvas, image, { found, mask }, threshold) {
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.putImageData(image, 0, 0);
  if (mask) {
    const layer = new OffscreenCanvas(mask.size, mask.size), pixels = new ImageData(mask.size, mask.size);
    mask.data.forEach((probability, i) => { if (probability > threshold) pixels.data.set([230, 25, 75, 110], 4 * i); });
    layer.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(layer, mask.dx, mask.dy, mask.nw, mask.nh, 0, 0, image.width, image.height);
  }
  context.lineWidth = Math.max(2, image.width / 200);
  found.forEach(({ box: [left, top, right, bottom] }, i) => {
    context.strokeStyle = COLOURS[i % COLOURS.length];
    context.strokeRect(left, top, right - left, bottom - top);
  });
}

async function main() {
  const place = (id) => document.getElementById(id), seconds = () => performance.now() / 1000;
  const problem = (text) => {
    place("problem").textContent = text;
    if (!text) return;
    place("picture").width = place("picture").height = 0; // an earlier answer would pass for this one's
    place("answers").replaceChildren();
    place("status").textContent = "";
  };
  let model;
  try {
    model = await open();
  } catch (error) {
    return problem(`The model cannot be loaded: ${error.message}. Is this folder served by a web server, with every file in it?`);
  }
  const loaded = seconds();
  place("status").textContent = `Ready after ${loaded.toFixed(2)} s.`;
  place("origin").textContent = model.about.origin;
  place("find").disabled = false;
  let first = null;
  place("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    problem("");
    const [file] = place("file").files;
    if (!file) return problem("Pick a picture first.");
    place("find").disabled = true;
    try {
      const started = seconds(), image = await decode(file);
      const answer = await model.find(image, place("phrase").value), took = seconds() - started;
      first ??= loaded + took;
      draw(place("picture"), image, answer, model.about.mask_threshold);
      const told = answer.found.map(({ box, score }) => `score ${score.toFixed(3)}, box ${box.map((value) => value.toFixed(1)).join(", ")}`);
      const none = answer.mask ? "see the mask" : "nothing in this picture fits the phrase";
      place("answers").replaceChildren(...(told.length ? told : [none]).map((text) => {
        const item = document.createElement("li");
        item.textContent = text;
        return item;
      }));
      place("status").textContent = `${took.toFixed(2)} s; ready after ${loaded.toFixed(2)} s, first answer ${first.toFixed(2)} s of work after the page was opened.`;
    } catch (error) {
      problem(error.message);
    }
    place("find").disabled = false;
  });
}

await main();
