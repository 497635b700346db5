"use strict";
// Text to token ids and back, by byte pair encoding: slm/tokenizer/byte_pair.py in JavaScript.

const WHITE = "\\p{White_Space}"; // not \s: JavaScript's differs from it in two characters
const GPT2_PATTERN = [
  "'(?:[sdmt]|ll|ve|re)", // 's, 'd, 'm, 't, 'll, 've, 're
  " ?\\p{L}+", // letters, with the space before them
  " ?\\p{N}+", // digits
  ` ?[^${WHITE}\\p{L}\\p{N}]+`, // punctuation and all other signs
  `${WHITE}+(?!\\P{White_Space})`, // spaces, without the last one before a word
  `${WHITE}+`,
].join("|");

// How a text is cut before pieces are merged: no token spans two of these parts.
const SPLITS = {
  "gpt-2": [new RegExp(GPT2_PATTERN, "gu")],
  smollm: [/\p{N}|\P{N}+/gu, new RegExp(GPT2_PATTERN, "gu")], // each digit by itself
};

// A tokenizer.json writes each byte of a token as one visible character, as GPT-2 does: as the
// character of that number, where it is visible, else as the next one from U+0100 on.
function byteCharacters() {
  const characters = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const isVisible = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    characters.push(String.fromCharCode(isVisible ? byte : next));
    if (!isVisible) next += 1;
  }
  return characters;
}

class Tokenizer {
  constructor(settings) {
    this.bosId = settings.bos_id; // before each story
    this.endIds = settings.end_ids; // each of these ends a story
    this.splits = SPLITS[settings.splits];
    this.ids = new Map(Object.entries(settings.vocab)); // visible characters to id
    this.ranks = new Map(settings.merges.map((pair, rank) => [pair, rank])); // "left right" to rank
    this.byteToCharacter = byteCharacters();
    this.characterToByte = new Map(this.byteToCharacter.map((character, byte) => [character, byte]));
    this.tokens = []; // id to visible characters
    for (const [token, id] of this.ids) this.tokens[id] = token;
  }

  /** Token ids of a text. Names of special tokens in it are text like any other. */
  encode(text) {
    let parts = [text];
    for (const pattern of this.splits) {
      parts = parts.flatMap((part) => part.match(pattern) ?? []);
    }
    return parts.flatMap((part) => this.merge(part).map((token) => this.ids.get(token)));
  }

  /** Byte pair encoding of one part: of all neighbours, those that were learnt first are merged
   * first, until no two neighbours are a pair that was learnt. */
  merge(part) {
    const bytes = new TextEncoder().encode(part);
    const tokens = Array.from(bytes, (byte) => this.byteToCharacter[byte]);
    for (;;) {
      let lowest = Infinity;
      let place = -1; // where the pair of the lowest rank begins
      for (let i = 0; i + 1 < tokens.length; i++) {
        const rank = this.ranks.get(`${tokens[i]} ${tokens[i + 1]}`) ?? Infinity;
        if (rank < lowest) {
          lowest = rank;
          place = i;
        }
      }
      if (place < 0) return tokens;
      tokens.splice(place, 2, tokens[place] + tokens[place + 1]);
    }
  }

  /** The bytes that a token stands for; none for an id that belongs to no token. */
  bytes(id) {
    const token = this.tokens[id] ?? "";
    const bytes = [];
    for (const character of token) {
      const byte = this.characterToByte.get(character);
      if (byte === undefined) bytes.push(...new TextEncoder().encode(character));
      else bytes.push(byte);
    }
    return Uint8Array.from(bytes);
  }

  /** The text of all ids. A cut-off character gives U+FFFD. */
  decode(ids) {
    const stream = this.decodeStream();
    return ids.map((id) => stream.next(id)).join("") + stream.end();
  }

  /** Decodes ids as they arrive, one `next(id)` at a time, but never half a character. */
  decodeStream() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      next: (id) => decoder.decode(this.bytes(id), { stream: true }),
      end: () => decoder.decode(),
    };
  }

  /** One token, to be shown: bytes of half a character appear as \xe2. */
  piece(id) {
    const bytes = this.bytes(id);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }
}
