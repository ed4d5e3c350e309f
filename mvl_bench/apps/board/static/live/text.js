// Captions as tokens, as the library's own tokenizers make them: whole words, or BERT's pieces of words. Positions in a caption
// count code points, as in Python. `table`: {kind, vocab, special, unk, cls, sep, mark, longest, kinds}, from the checkpoint.
const CHINESE = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/u;
const CONTROL = /[\0\ufffd]|[\p{Cc}\p{Cf}\p{Co}]/u, BLANK = /[\t\n\r]|\p{White_Space}/u, ACCENT = /\p{Mn}/u;
const PUNCTUATION = /[!-/:-@[-`{-~]|\p{P}/u;
const INNER = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u00b2\\u00b3\\u00b9\\u00bc-\\u00be', LETTER = `[${INNER}]`;
const WORD = new RegExp(`${LETTER}+(?:[-'’]${LETTER}+)*|[^${INNER}\\p{White_Space}]`, 'gu');

export function normalize(chars, first = 0) {  // code points -> [letter, its place], cleaned, without accents, in lower case
  const out = [];
  chars.forEach((char, k) => {
    if (CONTROL.test(char) && !/[\t\n\r]/.test(char)) return;
    if (BLANK.test(char)) return out.push([' ', first + k]);
    const bare = Array.from(char.normalize('NFD')).filter((c) => !ACCENT.test(c)).flatMap((c) => Array.from(c.toLowerCase()));
    const padded = CHINESE.test(char) ? [' ', ...bare, ' '] : bare;
    out.push(...padded.map((c) => [c, first + k]));
  });
  return out;
}

function wordsOf(kind, letters) {  // runs of letters that become tokens together
  const text = letters.map(([c]) => c), words = [];
  if (kind === 'words') {
    const at = [];  // index of a UTF-16 unit -> index of its letter
    text.forEach((c, i) => { for (let k = 0; k < c.length; k++) at.push(i); });
    for (const match of text.join('').matchAll(WORD)) words.push(letters.slice(at[match.index], at[match.index + match[0].length - 1] + 1));
    return words;
  }
  let run = [];
  const close = () => { if (run.length) words.push(run); run = []; };
  for (const letter of letters) {
    if (BLANK.test(letter[0])) close();
    else if (PUNCTUATION.test(letter[0])) { close(); words.push([letter]); } else run.push(letter);
  }
  close();
  return words;
}

export class Tokenizer {
  constructor(table) {
    Object.assign(this, table);
    this.ids = new Map(table.vocab.map((text, id) => [text, id]));
    this.marks = new Set(table.special.filter((text) => text !== table.vocab[table.unk]).map((text) => this.ids.get(text)));
    const escaped = table.special.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    this.typed = new RegExp(`(${escaped.join('|')})`, 'u');
  }
  #pieces(word) {  // of one word: token and span of each
    const span = (part, id) => ({ id, start: part[0][1], end: part.at(-1)[1] + 1 });
    const text = word.map(([c]) => c), whole = span(word, this.ids.get(text.join('')) ?? this.unk);
    if (this.kind === 'words') return [whole];
    const pieces = [], unknown = [{ ...whole, id: this.unk }];
    if (text.length > this.longest) return unknown;
    for (let start = 0, end; start < text.length; start = end) {
      for (end = text.length; end > start; end--) if (this.ids.has((start ? this.mark : '') + text.slice(start, end).join(''))) break;
      if (end === start) return unknown;
      pieces.push(span(word.slice(start, end), this.ids.get((start ? this.mark : '') + text.slice(start, end).join(''))));
    }
    return pieces;
  }
  #tokens(caption, limit) {  // every token with its position, span and word
    const tokens = [];
    let at = 0, words = 0;
    for (const part of caption.split(this.typed)) {
      const chars = Array.from(part);
      if (this.ids.has(part) && this.special.includes(part)) tokens.push({ id: this.ids.get(part), start: at, end: at + chars.length, word: words++, typed: true });
      else for (const word of wordsOf(this.kind, normalize(chars, at))) {
        tokens.push(...this.#pieces(word).map((piece) => ({ ...piece, word: words, typed: false })));
        words++;
      }
      at += chars.length;
    }
    return tokens.slice(0, limit - 2).map((token, i) => ({ ...token, position: i + 1 }));
  }
  encode(caption, limit) {  // token ids with the frame, and which may be hidden
    const tokens = this.#tokens(caption, limit);
    return { ids: [this.cls, ...tokens.map((token) => token.id), this.sep], maskable: [false, ...tokens.map((token) => !token.typed), false] };
  }
  marksIn(caption, limit) {  // special tokens that a person typed
    return this.#tokens(caption, limit).filter((token) => token.typed).map((token) => this.vocab[token.id]);
  }
  chips(caption, limit) {  // tokens to display; those that share a letter are one
    const letters = Array.from(caption), joined = [];
    for (const token of this.#tokens(caption, limit)) {
      if (token.typed) continue;
      let { start, end, position } = token, known = token.id !== this.unk, pieces = [position];
      if (joined.length && start < joined.at(-1).end) {
        const last = joined.pop();
        [start, end, known, pieces] = [last.start, Math.max(end, last.end), known && last.known, [...last.pieces, position]];
      }
      joined.push({ position: pieces[0], text: letters.slice(start, end).join(''), start, end, known, pieces });
    }
    return joined;
  }
  words(caption, limit) {  // whole words to display, each with the positions of its pieces
    const letters = Array.from(caption), of = new Map(), words = new Map();
    for (const chip of this.chips(caption, limit)) for (const place of chip.pieces) of.set(place, chip);
    for (const token of this.#tokens(caption, limit)) words.set(token.word, [...(words.get(token.word) ?? []), token.position]);
    return [...words.values()].flatMap((pieces) => {
      const parts = pieces.filter((place) => of.has(place)).map((place) => of.get(place));
      if (!parts.length) return [];
      const start = parts[0].start, end = parts.at(-1).end;
      return [{ position: pieces[0], text: letters.slice(start, end).join(''), start, end, known: parts.every((part) => part.known), pieces }];
    });
  }
  cutOff(caption, limit) {  // the end of a caption that is too long
    const seen = this.chips(caption, limit).length, whole = this.chips(caption, caption.length + 8);
    return seen < whole.length ? Array.from(caption).slice(whole[seen].start).join('') : '';
  }
}
