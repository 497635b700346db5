"use strict";
// Writing: from logits to the next token, again and again. It follows slm/generation/sampling.py
// and text_generation.py.

const GREEDY_BELOW = 1e-6; // a lower temperature means: always the likeliest token
const N_LIKELIEST = 6; // tokens that are remembered for each place: what might have come there
const SLICE_MS = 12; // milliseconds to compute before yielding to the browser

/** Random numbers from 0 to 1 that are the same for the same seed: xorshift (Marsaglia 2003) mixes
 * the 32 bits of its state by shifts, and all 2^32 - 1 nonzero states come in turn. */
function newGenerator(seed) {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 0 || 1; // neighbouring seeds far apart, never zero
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 16; i++) next(); // the first ones still resemble the seed
  return next;
}

/** The index of the largest value. */
function argmax(values) {
  let largest = 0;
  for (let i = 1; i < values.length; i++) {
    if (values[i] > values[largest]) largest = i;
  }
  return largest;
}

/** Sharpens the distribution (a temperature below 1) or flattens it (above 1). */
function applyTemperature(logits, temperature) {
  return logits.map((logit) => logit / temperature);
}

/** Keeps the tokens that are at least `minP` times as likely as the likeliest one. */
function applyMinP(logits, minP) {
  const lowestKept = logits[argmax(logits)] + Math.log(minP);
  return logits.map((logit) => (logit < lowestKept ? -Infinity : logit));
}

/** Draws an id: the probabilities divide the range from 0 to 1, and a random number falls into the
 * part of one token. */
function draw(probabilities, random) {
  const total = probabilities.reduce((sum, probability) => sum + probability, 0); // about 1
  const uniform = random() * total;
  let upperEnd = 0;
  for (let id = 0; id < probabilities.length; id++) {
    upperEnd += probabilities[id];
    if (upperEnd > uniform) return id;
  }
  return argmax(probabilities); // only where rounding leaves a gap at the end
}

/** The probabilities that the next token is drawn from. */
function nextTokenProbabilities(logits, sampling) {
  if (sampling.temperature < GREEDY_BELOW) {
    return new Float32Array(logits.length).fill(1, argmax(logits), argmax(logits) + 1);
  }
  let scores = applyTemperature(logits, sampling.temperature);
  if (sampling.min_p) scores = applyMinP(scores, sampling.min_p);
  return softmax(scores);
}

/** The likeliest tokens in order, each with its probability. */
function likeliest(probabilities, count) {
  const rest = probabilities.slice();
  const found = [];
  for (let i = 0; i < Math.min(count, rest.length); i++) {
    const id = argmax(rest);
    found.push({ id, probability: probabilities[id] });
    rest[id] = -1;
  }
  return found;
}

const channel = new MessageChannel(); // a timer would wait for 4 milliseconds each time
channel.port1.start();
let lastYield = performance.now();

/** Lets the browser draw, and answer to a click, if it has waited for long. This is why the model
 * needs no thread of its own, which browsers may refuse to a page that was opened from a disk. */
async function yieldToBrowser() {
  if (performance.now() - lastYield < SLICE_MS) return;
  await new Promise((resolve) => {
    channel.port1.addEventListener("message", resolve, { once: true });
    channel.port2.postMessage(null);
  });
  lastYield = performance.now();
}

/** Reads several tokens; returns the logits of the one after the last. */
async function prefill(model, ids, cache, signal) {
  for (const id of ids.slice(0, -1)) {
    model.read(id, cache);
    await yieldToBrowser();
    if (signal.aborted) break;
  }
  return model.forward(ids.at(-1), cache);
}

/** Continues a prompt: one new id at a time, with the probability that the model gave it and what
 * else might have come. The id that ends the story is the last one. Aborting `signal` stops it.
 *
 * What does not fit the context is forgotten: of a longer prompt the last `context_length` tokens
 * are read, and when the context is full, the newer half of it is read again. */
async function* generateIds(model, prompt, sampling, endIds, signal) {
  const contextLength = model.config.context_length;
  const random = newGenerator(sampling.seed);
  const ids = prompt.slice(-contextLength);
  let cache = new KVCache(model.config);
  let logits = await prefill(model, ids, cache, signal); // (V,)
  for (let newTokens = 1; !signal.aborted; newTokens++) {
    const id = draw(nextTokenProbabilities(logits, sampling), random);
    const probabilities = softmax(logits.slice()); // the model's own, whatever the settings say
    yield { id, probability: probabilities[id], likeliest: likeliest(probabilities, N_LIKELIEST) };
    if (endIds.includes(id) || newTokens >= sampling.max_new_tokens) return;
    ids.push(id);
    if (cache.length === contextLength) {
      cache = new KVCache(model.config);
      const half = Math.max(Math.floor(contextLength / 2), 1);
      logits = await prefill(model, ids.slice(-half), cache, signal);
    } else {
      logits = model.forward(id, cache);
    }
    await yieldToBrowser();
  }
}
