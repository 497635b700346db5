"use strict";
// The weights in this page are a model.safetensors file as `slm.save_model` writes it for a
// quantized model, compressed (zlib) and written in letters (base64).

/** This page is not as it was exported: it was cut off or changed on its way. */
class DamagedFile extends Error {}

function isOutOfMemory(error) {
  return /memory|allocation|array length/i.test(error.message); // browsers word it differently
}

/** The bytes of a file that was compressed and written in base64. A checksum at the end of zlib's
 * format makes sure that they are the same. */
async function unpack(base64) {
  try {
    const letters = atob(base64);
    const compressed = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return await new Response(stream).arrayBuffer();
  } catch (error) {
    if (isOutOfMemory(error)) throw error;
    throw new DamagedFile("its weights cannot be unpacked");
  }
}

/** The tensors of a safetensors file by name. It begins with the length of its header; the header
 * says of each tensor its type, its shape and where its bytes lie after the header. */
function readTensors(file) {
  const headerLength = Number(new DataView(file).getBigUint64(0, true));
  const data = 8 + headerLength;
  const header = JSON.parse(new TextDecoder().decode(file.slice(8, data)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    tensors[name] = { shape, values: readNumbers(dtype, file.slice(data + start, data + end)) };
  }
  return tensors;
}

function readNumbers(dtype, bytes) {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I8") return new Int8Array(bytes); // codes in 8 bits
  if (dtype === "U8") return new Uint8Array(bytes); // two codes of 4 bits in each
  if (dtype === "F16") return Float32Array.from(new Uint16Array(bytes), float16);
  throw new Error(`the weights have numbers of an unknown type, ${dtype}`);
}

/** A number of 16 bits: a sign, 5 bits of exponent and 10 of fraction. */
function float16(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24; // near zero
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** A matrix of 32-bit numbers, as a list of rows, from its codes and scales, as in
 * slm/quantization/rounding.py: each weight is its code times the scale of its group. */
function dequantize(codes, scales) {
  const isPacked = codes.values instanceof Uint8Array;
  const allCodes = isPacked ? unpackNibbles(codes.values) : codes.values;
  const rows = codes.shape[0];
  const columns = allCodes.length / rows;
  const groupSize = columns / scales.shape[1];
  const values = new Float32Array(allCodes); // all rows one after another: they are read quickly
  for (let i = 0; i < values.length; i++) values[i] *= scales.values[Math.floor(i / groupSize)];
  const matrix = [];
  for (let row = 0; row < rows; row++) {
    matrix.push(values.subarray(row * columns, (row + 1) * columns));
  }
  return matrix;
}

/** The codes of 4 bits, from -7 to 7, that stand two in each byte. */
function unpackNibbles(packed) {
  const codes = new Int8Array(2 * packed.length);
  packed.forEach((byte, i) => {
    codes[2 * i] = (byte & 15) - 8;
    codes[2 * i + 1] = (byte >> 4) - 8;
  });
  return codes;
}
