"use strict";
// The transformer of slm/model/transformer.py in JavaScript, to be read beside it: the same parts
// with the same names. It reads one token at a time, so that most tensors are plain vectors:
//
//   T  tokens read so far          H  query heads
//   C  numbers per token           G  heads of keys and values, shared by H / G query heads each
//   M  hidden width of the MLP     D  numbers per head, C / H
//   V  tokens in the vocabulary

/** The products of two vectors' numbers, added up. Nearly all the time is spent here. With four sums
 * side by side, no addition has to wait for the one before it. */
function dot(x, y) {
  const inFours = x.length - (x.length % 4);
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < inFours; i += 4) {
    a += x[i] * y[i];
    b += x[i + 1] * y[i + 1];
    c += x[i + 2] * y[i + 2];
    d += x[i + 3] * y[i + 3];
  }
  for (let i = inFours; i < x.length; i++) a += x[i] * y[i];
  return a + b + (c + d);
}

/** A matrix, which is a list of rows, times a vector: one number for each row. */
function linear(matrix, x) {
  const y = new Float32Array(matrix.length);
  for (let row = 0; row < matrix.length; row++) y[row] = dot(matrix[row], x);
  return y;
}

/** Adds a vector to the residual stream. */
function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

/** Turns scores into shares of 1, in place. */
function softmax(scores) {
  let largest = -Infinity;
  for (const score of scores) largest = Math.max(largest, score);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    scores[i] = Math.exp(scores[i] - largest);
    sum += scores[i];
  }
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

/** Divides a vector by its root mean square, then multiplies each number by a weight of its own. */
class RMSNorm {
  constructor(weight, eps) {
    this.weight = weight; // (C,)
    this.eps = eps;
  }

  forward(x) {
    let squares = 0;
    for (const value of x) squares += value * value;
    const factor = 1 / Math.sqrt(squares / x.length + this.eps);
    return x.map((value, i) => value * factor * this.weight[i]);
  }
}

/** The cosines and sines of rotary positions, (context_length, D / 2) each. Pair i of a head's
 * numbers turns by theta^(-2i/D) radians per token. */
function rotaryTables(config) {
  const half = config.head_dim / 2;
  const cos = new Float32Array(config.context_length * half);
  const sin = new Float32Array(config.context_length * half);
  for (let position = 0; position < config.context_length; position++) {
    for (let i = 0; i < half; i++) {
      const frequency = config.rope_theta ** ((-2 * i) / config.head_dim);
      cos[position * half + i] = Math.cos(position * frequency);
      sin[position * half + i] = Math.sin(position * frequency);
    }
  }
  return { cos, sin, half };
}

/** Turns each pair (i, i + D/2) of the numbers in a head, (D,), by the position's angle. */
function rotate(x, { cos, sin, half }, position) {
  const y = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    const c = cos[position * half + i];
    const s = sin[position * half + i];
    y[i] = x[i] * c - x[half + i] * s;
    y[half + i] = x[half + i] * c + x[i] * s;
  }
  return y;
}

/** The key-value cache: keys and values of earlier tokens are stored, not computed again. For each
 * layer and each of its G heads there is a list of T vectors (D,). */
class KVCache {
  constructor(config) {
    const emptyHeads = () => Array.from({ length: config.n_kv_heads }, () => []);
    const emptyLayers = () => Array.from({ length: config.n_layers }, emptyHeads);
    this.keys = emptyLayers();
    this.values = emptyLayers();
    this.length = 0; // T
  }

  /** Stores the newest token's keys and values of a layer; returns those of all tokens. */
  extend(layer, keys, values) {
    keys.forEach((key, head) => this.keys[layer][head].push(key));
    values.forEach((value, head) => this.values[layer][head].push(value));
    return { keys: this.keys[layer], values: this.values[layer] };
  }

  /** Counts the newest token, after all layers have stored it. */
  advance() {
    this.length += 1;
  }
}

/** Attention of one head: how well each token's key (D,) fits the query (D,) decides how much of
 * its value (D,) is taken. */
function attend(query, keys, values) {
  const scale = 1 / Math.sqrt(query.length);
  const scores = linear(keys, query).map((score) => score * scale); // (T,)
  const weights = softmax(scores); // (T,)
  const y = new Float32Array(query.length); // (D,)
  for (let t = 0; t < values.length; t++) {
    const value = values[t];
    for (let i = 0; i < y.length; i++) y[i] += weights[t] * value[i];
  }
  return y;
}

/** The newest token gathers what it needs from itself and from the tokens before it. */
class Attention {
  constructor(config, layer, matrix) {
    this.layer = layer; // the number of its block: its place in the cache
    this.headDim = config.head_dim;
    this.queriesPerKey = config.n_heads / config.n_kv_heads;
    this.qProj = matrix("self_attn.q_proj");
    this.kProj = matrix("self_attn.k_proj");
    this.vProj = matrix("self_attn.v_proj");
    this.oProj = matrix("self_attn.o_proj");
  }

  /** (heads D,) to a list of heads (D,). */
  splitHeads(x) {
    const heads = [];
    for (let i = 0; i < x.length; i += this.headDim) heads.push(x.subarray(i, i + this.headDim));
    return heads;
  }

  forward(x, tables, cache) {
    const turn = (head) => rotate(head, tables, cache.length);
    const q = this.splitHeads(linear(this.qProj, x)).map(turn); // H times (D,)
    const k = this.splitHeads(linear(this.kProj, x)).map(turn); // G times (D,)
    const v = this.splitHeads(linear(this.vProj, x)); // G times (D,)
    const { keys, values } = cache.extend(this.layer, k, v);
    const y = new Float32Array(x.length); // the heads side by side, (C,)
    q.forEach((query, head) => {
      const shared = Math.floor(head / this.queriesPerKey); // the head of keys and values it has
      y.set(attend(query, keys[shared], values[shared]), head * this.headDim);
    });
    return linear(this.oProj, y);
  }
}

/** Works on the token alone: widen, gate, narrow (SwiGLU). */
class MLP {
  constructor(matrix) {
    this.gateProj = matrix("mlp.gate_proj");
    this.upProj = matrix("mlp.up_proj");
    this.downProj = matrix("mlp.down_proj");
  }

  forward(x) {
    const gate = linear(this.gateProj, x).map((value) => value / (1 + Math.exp(-value))); // SiLU
    const up = linear(this.upProj, x); // (M,)
    return linear(this.downProj, gate.map((value, i) => value * up[i]));
  }
}

/** One layer: attention, then the MLP, each added to the residual stream. */
class Block {
  constructor(config, layer, tensors) {
    const name = `model.layers.${layer}.`;
    const matrix = (part) => readMatrix(tensors, name + part);
    const norm = (part) => new RMSNorm(tensors[`${name}${part}.weight`].values, config.norm_eps);
    this.inputLayernorm = norm("input_layernorm");
    this.selfAttn = new Attention(config, layer, matrix);
    this.postAttentionLayernorm = norm("post_attention_layernorm");
    this.mlp = new MLP(matrix);
  }

  forward(x, tables, cache) {
    x = add(x, this.selfAttn.forward(this.inputLayernorm.forward(x), tables, cache));
    return add(x, this.mlp.forward(this.postAttentionLayernorm.forward(x)));
  }
}

function readMatrix(tensors, name) {
  return dequantize(tensors[`${name}.codes`], tensors[`${name}.scales`]);
}

/** The whole model: `forward(id, cache)` reads a token and scores which one comes next. */
class Transformer {
  constructor(config, tensors) {
    this.config = config;
    this.tables = rotaryTables(config);
    this.embedTokens = readMatrix(tensors, "model.embed_tokens"); // (V, C)
    this.layers = [];
    for (let layer = 0; layer < config.n_layers; layer++) {
      this.layers.push(new Block(config, layer, tensors));
    }
    this.norm = new RMSNorm(tensors["model.norm.weight"].values, config.norm_eps);
    const isTied = config.tie_embeddings; // then one table both reads tokens in and scores them
    this.outputEmbeddings = isTied ? this.embedTokens : readMatrix(tensors, "lm_head"); // (V, C)
  }

  /** A token after those that the cache holds, to the normalised output of the last block, (C,). */
  read(id, cache) {
    let x = this.embedTokens[id]; // (C,)
    for (const layer of this.layers) x = layer.forward(x, this.tables, cache);
    cache.advance();
    return this.norm.forward(x);
  }

  /** The same, and then to logits (V,): scores of each possible next token. */
  forward(id, cache) {
    return linear(this.outputEmbeddings, this.read(id, cache));
  }
}
