// The board without a server: it answers a request as `respond` does in Python, with the model in a worker beside this page.
// `folder` holds board.json (the pairs, the tokenizer, the sizes), model.onnx and ONNX Runtime Web; nothing else is asked for.
import { patchify, resize, unpatchify } from './image.js';
import { PATCHES, WORDS, roundEven } from './masks.js';
import { Tokenizer } from './text.js';

const VIEWS = ['numbers', 'raw'], MOST = 2000;
class Refusal extends Error {}
const taken = (holds, rule) => { if (!holds) throw new Refusal(rule); };
const plain = (x) => (Number.isFinite(x) ? Math.round(x * 1e4) / 1e4 : null);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const join = (names) => [names.slice(0, -1).join(', '), ...names.slice(-1)].filter(Boolean).join(' and ');
const unique = (values) => [...new Set(values)];
const lower = (text) => text.toLowerCase();
function sheet(width, height) { const made = document.createElement('canvas'); [made.width, made.height] = [width, height]; return made; }

async function decode(url) {  // a picture's pixels, transparent parts on white
  const picture = new Image();
  picture.src = url;
  try { await picture.decode(); } catch { throw new Refusal('the picture cannot be read by this browser'); }
  const { naturalWidth: width, naturalHeight: height } = picture;
  taken(Math.min(width, height) >= 8, `the picture is ${width}x${height}; each side needs 8 pixels`);
  const pen = sheet(width, height).getContext('2d', { willReadFrequently: true });
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, width, height);
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, width, height);
}

export class Host {
  constructor(data, run, { readPlaces, writePlaces, readLink }) {
    Object.assign(this, { data, run, readPlaces, writePlaces, readLink, cache: new Map() });
    const { grid, patch } = data;
    Object.assign(this, { grid, patch, n: grid[0] * grid[1], high: grid[0] * patch, wide: grid[1] * patch });
    this.tokenizer = new Tokenizer(data.tokenizer);
    this.scenes = new Map(data.examples.filter((one) => one.scene).map((one) => [JSON.stringify(one.state.scene), one]));
  }
  words(text) { return this.tokenizer.words(text, this.data.longest); }
  encode(text) { return this.tokenizer.encode(text, this.data.longest); }
  url(rgba) {
    const canvas = sheet(this.wide, this.high);
    canvas.getContext('2d').putImageData(new ImageData(rgba, this.wide, this.high), 0, 0);
    return canvas.toDataURL('image/png');
  }
  async picture(url) {  // {url, patches} of the model's size; the last 32 stay
    if (!this.cache.has(url)) {
      const image = await decode(url), rgba = resize(image, [this.high, this.wide]);
      const fits = image.width === this.wide && image.height === this.high;
      this.cache.set(url, { url: fits ? url : this.url(rgba), patches: patchify(rgba, this.grid, this.patch) });
      if (this.cache.size > 32) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(url);
  }
  sceneOf(state) { return state.scene ? this.scenes.get(JSON.stringify(state.scene)) : null; }
  other(state, own) {  // another pair, for the column `wrong`
    const { others, examples } = this.data;
    const known = examples.find(({ state: s }) => s.seed === state.seed && s.caption === state.caption && s.picture === state.picture && JSON.stringify(s.scene) === JSON.stringify(state.scene));
    if (known) return others[known.other];
    const order = others.map((_, i) => others[(state.seed + i) % others.length]);
    return order.find(({ caption, picture, avoid }) => caption !== state.caption && picture !== own && !(avoid && lower(state.caption).includes(avoid))) ?? order[0];
  }

  // ---- what the model predicts --------------------------------------------------------------------------------------------
  async predict({ pictures, captions, patches, pixelRows, wordRows, places = patches.length ? patches : [0] }) {  // a picture or caption of null is absent
    const rows = captions.map((one) => (one ? this.encode(one.text) : { ids: [this.tokenizer.cls, this.tokenizer.sep], maskable: [false, false] }));
    const t = Math.max(...rows.map(({ ids }) => ids.length)), { n } = this, size = 3 * this.patch ** 2;
    const flat = (make) => rows.flatMap((row, i) => Array.from({ length: t }, (_, k) => make(row, k, captions[i])));
    const pixels = new Float32Array(pictures.length * n * size), gone = new Uint8Array(n);
    for (const place of patches) gone[place] = 1;
    pictures.forEach((one, i) => { if (one) pixels.set(one.patches, i * n * size); });
    const text = flat((row, k, one) => (one?.words.has(k) && row.maskable[k] ? 1 : 0));
    const found = await this.run({
      patches: ['f', pixels, [pictures.length, n, size]], image_mask: ['b', pictures.flatMap((one) => (one ? [...gone] : Array(n).fill(0))), [pictures.length, n]],
      has_image: ['b', pictures.map((one) => (one ? 1 : 0)), [pictures.length]], input_ids: ['i', flat((row, k) => row.ids[k] ?? this.data.pad), [rows.length, t]],
      attention_mask: ['b', flat((row, k) => (k < row.ids.length ? 1 : 0)), [rows.length, t]], text_mask: ['b', text, [rows.length, t]],
      has_text: ['b', captions.map((one) => (one ? 1 : 0)), [rows.length]],
      pixel_rows: ['i', [0, 1].flatMap((k) => pixelRows.map((row) => row[k])), [2, pixelRows.length]], word_rows: ['i', [0, 1].flatMap((k) => wordRows.map((row) => row[k])), [2, wordRows.length]], places: ['i', places, [places.length]],
    });
    const v = this.tokenizer.vocab.length;
    return { milliseconds: found.milliseconds, pixels: pixelRows.map((_, r) => { const whole = pictures[0].patches.slice(); places.forEach((place, k) => whole.set(found.pixels.subarray((r * places.length + k) * size, (r * places.length + k + 1) * size), place * size)); return whole; }), ids: rows.map((row) => row.ids),
      masked: rows.map((_, c) => Array.from({ length: t }, (_, k) => k).filter((k) => text[c * t + k])),
      logits: (r, place) => found.logits.subarray((r * t + place) * v, (r * t + place + 1) * v) };
  }
  static softmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity), powers = Float64Array.from(logits, (x) => Math.exp(x - top)), sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((x) => x / sum);
  }
  guesses(text, places, ids, logits) {  // of each word that is hidden, its pieces together
    const letters = new Map(this.tokenizer.chips(text, this.data.longest).map((chip) => [chip.position, chip.text])), tokens = places.map((place) => {
      const chance = Host.softmax(logits(place)), best = [...chance.keys()].sort((a, b) => chance[b] - chance[a]).slice(0, 5);
      return { position: place, truth: letters.get(place) ?? '', probability: chance[ids[place]], top: best.map((id) => [this.tokenizer.vocab[id], chance[id]]) };
    });
    const nats = tokens.length ? plain(mean(tokens.map((one) => -Math.log(Math.max(one.probability, 1e-12))))) : null;
    const bare = (token) => (token.startsWith('##') && token.length > 2 ? token.slice(2) : token);
    const shown = (token) => (bare(token) === token ? token : `…${bare(token)}`);  // …d: the end of a word
    const merged = this.words(text).flatMap(({ pieces, known }) => {
      const parts = tokens.filter((one) => pieces.includes(one.position));
      if (parts.length < 2) return parts.map(({ truth, probability, top }) => ({ truth, probability, top: top.map(([token, p]) => [shown(token), p]), known }));
      const product = (of) => parts.reduce((total, part) => total * of(part), 1);
      return [{ truth: parts.map((part) => bare(part.truth)).join(''), probability: product((part) => part.probability), top: [[parts.map((part) => bare(part.top[0][0])).join(''), product((part) => part.top[0][1])]], known }];
    });
    return { guesses: merged, nats };
  }
  off(a, b, places) {  // mean absolute error of each of some patches
    const size = 3 * this.patch ** 2, limit = (x) => Math.max(0, Math.min(1, x));
    return places.map((place) => { let sum = 0; for (let k = place * size; k < (place + 1) * size; k++) sum += Math.abs(limit(a[k]) - limit(b[k])); return sum / size; });
  }
  async columns(state, words, own, wrong) {
    const edit = state.edit.trim() && state.edit.trim() !== state.caption.trim() ? state.edit.trim() : null, { patches, gone } = state;
    const hide = new Set(gone), names = ['with', 'without', 'wrong', ...(edit ? ['edited'] : [])], none = new Set();
    const texts = { with: state.caption, without: state.caption, wrong: state.caption, edited: edit };
    const blank = () => ({ raw: null, errors: null, error: null, nats: null, guesses: [] });
    const found = Object.fromEntries(['with', 'without', 'wrong', 'edited'].map((name) => [name, names.includes(name) ? blank() : null])), raw = {};
    if (patches.length || gone.length) {
      const captions = [{ text: state.caption, words: hide }, null, { text: wrong.caption, words: none }, ...(edit ? [{ text: edit, words: hide }] : [])];
      const pixelRows = [[0, 0], [0, 1], [0, 2], ...(edit ? [[0, 3]] : [])], wordRows = [[0, 0], [1, 0], [2, 0], ...(edit ? [[0, 3]] : [])];
      const pictures = [own, ...(gone.length ? [null, wrong.image] : [])];
      const raws = state.view.includes('raw') && patches.length ? { places: Array.from({ length: this.n }, (_, i) => i) } : {};
      const out = await this.predict({ ...raws, pictures, captions, patches, pixelRows: patches.length ? pixelRows : [[0, 0]], wordRows: gone.length ? wordRows : [[0, 0]] });
      this.milliseconds = out.milliseconds;
      names.forEach((name, r) => {
        if (patches.length) {
          raw[name] = out.pixels[r];
          const errors = this.off(raw[name], own.patches, patches), all = Array(this.n).fill(null);
          patches.forEach((place, k) => { all[place] = plain(errors[k]); });
          Object.assign(found[name], { raw: this.url(unpatchify(raw[name], this.grid, this.patch)), errors: all, error: plain(mean(errors)), each: errors });
        }
        const caption = wordRows[r]?.[1] ?? 0;
        if (gone.length) Object.assign(found[name], this.guesses(texts[name], out.masked[caption], out.ids[caption], (place) => out.logits(r, place)));
      });
      await this.#redrawn(state, found, raw, patches);
    }
    if (patches.length) found.with.truth = own.url;
    Object.assign(found.wrong, { shown: wrong.image.url, why: this.#why(found, raw, own, wrong, patches) });
    for (const [name, text] of [['with', state.caption], ['wrong', wrong.caption], ['edited', edit]]) if (found[name]) found[name].said = this.words(text).map((word) => [word.position, word.text]);
    for (const one of Object.values(found)) delete one?.each;
    return found;
  }
  async #redrawn(state, found, raw, patches) {  // an edited scene is compared with the scene redrawn, where this page has it
    if (!found.edited?.raw) return;
    const drawn = this.sceneOf(state)?.scene.redrawn[state.edit.trim()], own = found.edited;
    Object.assign(own, { errors: null, error: null });
    if (!drawn) return void (own.change = plain(mean(this.off(raw.edited, raw.with, patches))));
    const after = await this.picture(drawn.picture), [before, now] = [raw.with, raw.edited].map((one) => this.off(one, after.patches, patches)), all = Array(this.n).fill(null);
    patches.forEach((place, k) => { all[place] = plain(now[k]); });
    Object.assign(own, { errors: all, error: plain(mean(now)), truth: after.url, moved: [plain(mean(before)), plain(mean(now))] });
  }
  #why(found, raw, own, wrong, patches) {  // why the wrong partner scores better, where it does
    const { with: right, wrong: other } = found, reasons = [];
    if (right.error !== null && other.error < right.error) reasons.push(this.#whyPixels(right, other, raw, own, patches));
    if (right.nats !== null && other.nats < right.nats) reasons.push(this.#whyWords(found, wrong));
    return reasons.join(' ');
  }
  #whyPixels(right, other, raw, own, patches) {
    const gain = right.each.map((e, k) => e - other.each[k]), average = mean(gain), digits = (x) => String(Number(x.toPrecision(2)));
    const noise = gain.length > 1 ? (2 * Math.sqrt(gain.reduce((a, g) => a + (g - average) ** 2, 0) / (gain.length - 1))) / Math.sqrt(gain.length) : 0;
    const head = `Error lower by ${digits(average)} than with the right caption`;
    if (average < noise) return `${head}: within noise (±${digits(noise)}, 2 standard errors over ${gain.length} patches).`;
    const size = 3 * this.patch ** 2, contrast = (image) => mean([0, 1, 2].map((c) => {
      const values = patches.flatMap((place) => Array.from({ length: size / 3 }, (_, k) => Math.max(0, Math.min(1, image[place * size + 3 * k + c])))), centre = mean(values);
      return Math.sqrt(mean(values.map((x) => (x - centre) ** 2)));
    }));
    const [here, there, truth] = [raw.wrong, raw.with, own.patches].map(contrast), compared = `standard deviation ${here.toFixed(2)}, ${there.toFixed(2)} with the right caption, ${truth.toFixed(2)} in the picture`;
    return here < 0.8 * there ? `${head}: it painted flatter (${compared}).` : `${head}, and not because it painted flatter (${compared}).`;
  }
  #whyWords(found, wrong) {
    const percent = (p) => (p > 0 && p < 0.005 ? '<1 %' : p >= 0.995 && p < 1 ? '>99 %' : `${Math.round(100 * p)} %`);
    const rows = found.with.guesses.map((guess, i) => [guess, found.wrong.guesses[i], found.without.guesses[i]]), gained = ([a, b]) => b.probability / Math.max(a.probability, 1e-12);
    const row = rows.reduce((a, b) => (gained(b) > gained(a) ? b : a)), word = `“${row[0].truth}”`, [right, other, alone] = row.map((guess) => guess.probability);
    const both = `${percent(other)} here, ${percent(right)} with the right picture`;
    if ((lower(wrong.caption).match(/[\p{L}\p{M}\p{N}_-]+/gu) ?? []).includes(lower(row[0].truth))) return `The wrong picture's own caption contains ${word} too: ${both}.`;
    if (Math.min(right, other) >= 0.95) return `${word} is predicted in both columns: ${both}.`;
    if (Math.max(right, other) < 0.05) return `${word} is predicted in neither column: ${both}.`;
    return `${word} gets ${both}, ${percent(alone)} without a picture.`;
  }

  // ---- what the board says ------------------------------------------------------------------------------------------------
  #ofPicture(state) {
    const scene = this.sceneOf(state)?.scene, hidden = new Set(state.patches), count = hidden.size;
    const whole = (scene?.things ?? []).filter((thing) => thing.patches.every((place) => hidden.has(place))), covered = new Set(whole.flatMap((thing) => thing.patches));
    if (count === this.n) return { what: 'the whole picture', tells: 'Only the caption is left.' };
    if (!whole.length || covered.size !== count) return { what: `${count} patch${count > 1 ? 'es' : ''} of ${this.n}`, many: count > 1, tells: 'How much do the caption and the rest of the picture still tell?' };
    const said = whole.filter((thing) => thing.colour && lower(state.caption).split(/\s+/).includes(thing.colour)).map((thing) => `the ${thing.name} is ${thing.colour}`);
    return { what: join(whole.map((thing) => `the ${thing.name}`)), many: whole.length > 1, tells: said.length ? `The caption says that ${join(said)}.` : 'Only the caption still tells.' };
  }
  #ofCaption(state, words) {
    const gone = words.filter((word) => state.gone.includes(word.position)).map((word) => `“${word.text}”`), many = gone.length > 1;
    if (gone.length === words.length) return { what: 'the whole caption', tells: 'Only the picture is left.' };
    return { what: gone.length < 4 ? `the word${many ? 's' : ''} ${join(gone)}` : `${gone.length} words`, many, tells: 'The picture may still show what is said.' };
  }
  story(state, words) {
    const parts = [...(state.patches.length ? [this.#ofPicture(state)] : []), ...(state.gone.length ? [this.#ofCaption(state, words)] : [])];
    if (!parts.length) return 'Nothing is hidden: click a patch of the picture or a word of the caption.';
    const what = join(parts.map((part) => part.what)), both = parts.length === 2;
    return `${what[0].toUpperCase()}${what.slice(1)} ${both || parts[0].many ? 'are' : 'is'} hidden. ${both ? 'Can what is left of each side help the other?' : parts[0].tells}`;
  }
  notes(state, words) {
    const texts = [state.caption, state.edit], { data } = this, scene = this.sceneOf(state)?.scene, notes = [], edit = this.words(state.edit.trim());
    const drawn = scene?.redrawn[state.edit.trim()];
    if (drawn && state.patches.length && !drawn.changed.some((i) => scene.things[i].patches.some((place) => state.patches.includes(place))))
      notes.push(`Your edit is about ${join(drawn.changed.map((i) => `the ${scene.things[i].name}`))}, which nothing hides: hide it to see the edit painted.`);
    if (edit.length === words.length) {
      const names = words.filter((word, i) => lower(word.text) !== lower(edit[i].text) && state.gone.includes(word.position)).map((word) => `“${word.text}”`), [are, them] = names.length > 1 ? ['are', 'them'] : ['is', 'it'];
      if (names.length) notes.push(`You changed ${join(names)}, which ${are} hidden: the model sees no change there. Click ${them} to show ${them}.`);
    }
    return [...notes, () => {
      const more = [];
      if (!state.scene && data.drawn) more.push('This picture is outside the drawn world that the model was trained on: expect no sense.');
      const unknown = unique(texts.flatMap((text) => this.words(text).filter((word) => !word.known).map((word) => word.text)));
      if (unknown.length) more.push(`The model does not know ${unknown.map((word) => `“${word}”`).join(', ')}.`);
      const marks = unique(texts.flatMap((text) => this.tokenizer.marksIn(text, data.longest)));
      if (marks.length) more.push(`${marks.join(', ')} is no word to the model but a mark, and stays visible.`);
      texts.forEach((text, i) => { const lost = this.tokenizer.cutOff(text, data.longest);
        if (lost) more.push(`The ${['caption', 'edit'][i]} is longer than the model's ${data.longest} tokens; left out: “${lost.length > 100 ? `${lost.slice(0, 100)}…` : lost}”.`); });
      return more;
    }];
  }
  shares(state, words) {
    const hidden = words.filter((word) => state.gone.includes(word.position)).length;
    return [[state.patches.length, this.n], [hidden, words.length]].map(([part, whole]) => roundEven((100 * part) / Math.max(1, whole)));
  }
  code(state) {  // a Python program that repeats the board
    const text = JSON.stringify, edit = state.edit.trim(), scene = this.sceneOf(state)?.scene, own = scene
      ? [`scene = ${scene.code}`, 'image = draw(scene, model.cfg.image.img_size)'] : [`image = from_url(${text(state.picture)}, model.cfg.image.img_size)`];
    return [...(scene ? [] : ['from mvl_bench.apps.board.codec import from_url']), 'from mvl_bench.core import Pair', ...(scene ? ['from mvl_bench.data.scenes import Scene, Thing, draw'] : []),
      'from mvl_bench.inference.reconstruction import nearby, reconstruct_pair', 'from mvl_bench.models.registry import load', 'from mvl_bench.viz.reconstruction import four_columns', '',
      `model = load(${text(this.data.name)})`, ...own, `pair = Pair(image, ${text(state.caption)}, ${state.seed}, 0)`, `patches, words = [${state.patches.join(', ')}], [${state.gone.join(', ')}]`,
      `edit = ${edit && edit !== state.caption.trim() ? text(edit) : 'None'}`, 'result = reconstruct_pair(model, pair, patches, words, nearby(model, pair), edit)',
      'for name, column in result.columns.items():', '    print(f"{name:8} error {column.error:.3f}, nats {column.nats:.2f}")', 'four_columns(result)', ''].join('\n');
  }
  async describe(state, story, notes) {  // as `respond.describe`
    const words = this.words(state.caption), own = await this.picture(this.sceneOf(state)?.scene.picture ?? state.picture), pair = this.other(state, own.url);
    const wrong = { caption: pair.caption, image: await this.picture(pair.picture) }, said = this.notes(state, words), rest = said.pop();
    const columns = await this.columns(state, words, own, wrong), { patches, gone, ...kept } = state, { honest, name, next } = this.data;
    return { state: { ...kept, ...(state.scene ? {} : { picture: own.url }), patches: this.writePlaces(patches), words: this.writePlaces(gone) },
      shown: { influence: null, story: story || this.story(state, words), picture: own.url, chips: words, honest, notes: [...said, ...notes, ...rest()], next, shares: this.shares(state, words), columns, code: this.code(state), models: [name] } };
  }

  // ---- what a person does -------------------------------------------------------------------------------------------------
  whole(text, positions, any = false) {  // all pieces of the words at some positions
    const at = new Set(positions);
    return this.words(text).filter((word) => (any ? word.pieces : [word.position]).some((place) => at.has(place))).flatMap((word) => word.pieces).sort((a, b) => a - b);
  }
  random(state, { picture = null, text = null }) {
    const [patterned, worded] = state.pattern, changed = {}, places = (mask) => mask.flatMap((hidden, i) => (hidden ? [i] : []));
    if (picture !== null) changed.patches = places(PATCHES[patterned](state.seed, this.grid, picture, this.data.square));
    if (text !== null) changed.gone = this.whole(state.caption, places(WORDS[worded](state.seed, this.encode(state.caption), text, this.data.tokenizer.kinds)), true);
    return { ...state, ...changed };
  }
  swap(text) {  // propose an edit: another colour
    const { colours } = this.data, colour = (text.match(/[\p{L}\p{M}\p{N}_]+/gu) ?? []).find((word) => colours.includes(lower(word)));
    if (!colour) return text;
    const at = colours.indexOf(lower(colour)), one = (word) => { const found = this.words(word); return found.length === 1 && found[0].pieces.length === 1 && found[0].known; };
    const name = [...colours, ...colours].slice(at + 5).find((word) => word !== lower(colour) && one(word)) ?? colour;
    return text.replace(new RegExp(`(?<![\\p{L}\\p{N}_])${colour}(?![\\p{L}\\p{N}_])`, 'u'), name);
  }
  async wordToGuess(state, own) {  // the word that the visible picture tells most about, among those that the edit keeps
    const words = this.words(state.caption), unedited = new Set(this.words(state.edit).map((word) => word.text)), gains = [];
    for (let first = 0; first < words.length; first += 8) {
      const some = words.slice(first, first + 8), captions = some.map((word) => ({ text: state.caption, words: new Set(word.pieces) }));
      const out = await this.predict({ pictures: [own, null], captions, patches: state.patches, pixelRows: [[0, 0]], wordRows: [0, 1].flatMap((i) => captions.map((_, c) => [i, c])) });
      some.forEach((word, c) => { const sum = (row) => word.pieces.reduce((total, place) => total + Math.log(Host.softmax(out.logits(row, place))[out.ids[c][place]]), 0); gains.push(sum(c) - sum(c + some.length)); });
    }
    const able = words.map((word, i) => ({ word, gain: gains[i] })).filter(({ word }) => word.known && /^\p{L}+$/u.test(word.text) && unedited.has(word.text));
    const single = able.filter(({ word }) => word.pieces.length === 1), from = single.length ? single : able;
    return from.length ? from.reduce((a, b) => (b.gain > a.gain ? b : a)).word : null;
  }
  async bring(state, { picture, caption }) {
    taken(caption?.trim(), 'the caption is empty: write at least one word');
    const own = await this.picture(picture), text = caption.trim();
    let next = { v: 1, picture: own.url, brought: true, caption: text, seed: state.seed, edit: this.swap(text), model: this.data.name, grid: this.grid, pattern: state.pattern, view: state.view, patches: [], gone: [] };
    next = this.random(next, { picture: 0.5 });
    const word = await this.wordToGuess(next, own);
    return { state: { ...next, gone: word?.pieces ?? [] }, story: `Half of your picture${word ? ` and “${word.text}”, the word that the rest tells most about, are` : ' is'} hidden. Click patches and words, and change your edit.` };
  }
  async open({ link }) {
    let state;
    try { state = this.readLink(link); } catch { throw new Refusal('this is no board: the link is cut short or was changed'); }
    taken(state?.v === 1 && typeof state.caption === 'string' && state.caption.length <= MOST && (state.edit ?? '').length <= MOST, 'this is no board: it is not version 1 of a board');
    taken(state.scene ? this.sceneOf(state) : typeof state.picture === 'string' && state.picture.startsWith('data:image/'), 'the link holds a drawn scene that this page does not have');
    const notes = state.model && state.model !== this.data.name ? [`The board was made with '${String(state.model).slice(0, 80)}', which is not open here: ${this.data.name} answers.`] : [];
    const kept = ({ pattern }) => (Array.isArray(pattern) && Object.hasOwn(PATCHES, pattern[0]) && Object.hasOwn(WORDS, pattern[1]) ? pattern : ['random', 'random']);
    const own = state.scene ? { scene: state.scene } : { picture: (await this.picture(state.picture)).url, ...(state.brought ? { brought: true } : {}) };
    const next = { v: 1, ...own, caption: state.caption, seed: Number.isSafeInteger(state.seed) && state.seed >= 0 ? state.seed : 0, edit: state.edit ?? '', model: this.data.name, grid: this.grid,
      pattern: kept(state), view: (state.view ?? []).filter((name) => VIEWS.includes(name)), patches: this.#fit(this.readPlaces(state.patches ?? ''), state.grid ?? [8, 8]), gone: this.whole(state.caption, this.readPlaces(state.words ?? '')) };
    return { state: next, notes, story: 'This board came as a link. Hide other patches and words, and change the edit.' };
  }
  #fit(places, grid) {  // the same areas on this model's grid
    const [rows, across] = this.grid, hidden = new Set(places), over = (a, b, c, d) => Math.max(0, Math.min(b, d) - Math.max(a, c));
    taken(Array.isArray(grid) && grid.every((side) => Number.isInteger(side) && side > 0 && side <= 64) && places.every((place) => place < grid[0] * grid[1]), 'this is no board: its places are not on its grid');
    return Array.from({ length: this.n }, (_, i) => i).filter((i) => {
      const y = Math.floor(i / across), x = i % across;
      let area = 0;
      for (const place of hidden) { const r = Math.floor(place / grid[1]), c = place % grid[1];
        area += over(y / rows, (y + 1) / rows, r / grid[0], (r + 1) / grid[0]) * over(x / across, (x + 1) / across, c / grid[1], (c + 1) / grid[1]); }
      return area * this.n >= 0.5 - 1e-9;
    });
  }
  example(number) {
    const { examples } = this.data, { state, story } = examples[((number % examples.length) + examples.length) % examples.length];
    return { state: this.unpack(state), story };
  }
  unpack(state) { return { ...state, patches: this.readPlaces(state.patches), gone: this.readPlaces(state.words) }; }
  async event(kind, given, state) {  // -> {state, story, notes}
    const part = (fields) => ({ state: { ...state, ...fields } }), shares = () => this.shares(state, this.words(state.caption)).map((percent) => percent / 100);
    switch (kind) {
      case 'hide': return part({ patches: this.readPlaces(given.patches), gone: this.whole(state.caption, this.readPlaces(given.words)) });
      case 'edit': taken(given.text.length <= MOST, `the edit has more than ${MOST} characters`); return part({ edit: given.text });
      case 'view': return part({ view: given.on.filter((name) => VIEWS.includes(name)) });
      case 'clear': return part({ patches: [], gone: [] });
      case 'share': return { state: this.random(state, { [given.side]: given.ratio }) };
      case 'other': { const [picture, text] = shares(); return { state: this.random({ ...state, seed: (state.seed + 1) % 2 ** 31 }, { picture, text }) }; }
      case 'pattern': { const [picture, text] = shares(), ways = [given.patches, given.words];
        return { state: this.random({ ...state, pattern: ways }, { picture: ways[0] === state.pattern[0] ? null : picture, text: ways[1] === state.pattern[1] ? null : text }) }; }
      case 'example': this.at = given.number; return this.example(given.number);
      case 'another': this.at = (this.at ?? 0) + 1; return this.example(this.at);
      case 'bring': return this.bring(state, given);
      case 'open': return this.open(given);
      default: throw new Refusal(`this page does not answer ${kind}`);
    }
  }
  async react({ state, kind, given, seq, source }) {  // as `respond.react`
    try {
      const before = this.unpack(state), { state: after, story = '', notes = [] } = await this.event(kind, given, before);
      const kept = ['open', 'view', 'pattern'].includes(kind) ? {} : { view: before.view, pattern: before.pattern };
      return { ...(await this.describe({ ...after, ...kept }, story, notes)), seq, source };
    } catch (error) {
      if (!(error instanceof Refusal)) console.warn(error);
      return { error: error instanceof Refusal ? error.message : `the model in this page failed: ${error.message ?? error}`, seq, source };
    }
  }
}

// ---- the model in workers -----------------------------------------------------------------------------------------------
const SLOW = 100;  // milliseconds; a model that takes longer gets more workers, which share the columns
class ModelWorker {
  constructor(folder) {
    Object.assign(this, { worker: new Worker(new URL('worker.js', folder), { type: 'module' }), waiting: new Map(), last: 0 });
    this.worker.onmessage = ({ data: { id, error, ...found } }) => { const [done, fail] = this.waiting.get(id); this.waiting.delete(id); error ? fail(new Error(error)) : done(found); };
    this.worker.onerror = (event) => { event.preventDefault(); for (const [, fail] of this.waiting.values()) fail(new Error(event.message || 'the worker did not start')); this.waiting.clear(); };
  }
  ask(question) { return new Promise((done, fail) => { this.waiting.set(++this.last, [done, fail]); this.worker.postMessage({ id: this.last, ...question }); }); }
  async open(model) { try { await this.ask({ open: model }); } catch (error) { this.worker.terminate(); throw error; } return this; }
}
function shareOf(feeds, first, last) {  // some of the rows of pixels, all of the first picture, and one row of words
  const cut = ([type, values, [rows, ...shape]]) => [type, values.slice(0, shape.reduce((a, b) => a * b, 1)), [1, ...shape]], [kind, rows, [, r]] = feeds.pixel_rows;
  const pictures = Object.fromEntries(['patches', 'image_mask', 'has_image'].map((name) => [name, cut(feeds[name])]));
  return { ...feeds, ...pictures, pixel_rows: [kind, [...rows.slice(first, last), ...rows.slice(r + first, r + last)], [2, last - first]], word_rows: [kind, [0, 0], [2, 1]] };
}
export async function startModel(folder) {  // -> run(feeds), once the model is ready
  if (typeof WebAssembly !== 'object') throw new Error('this browser has no WebAssembly');
  const model = await (await fetch(new URL('model.onnx', folder))).arrayBuffer(), workers = [await new ModelWorker(folder).open(model)];
  const most = Math.min(4, navigator.hardwareConcurrency ?? 1, navigator.deviceMemory ?? 2);
  let growing = false;
  async function grow() {
    growing = true;
    try { while (workers.length < most) workers.push(await new ModelWorker(folder).open(model)); } catch { /* one worker does it all */ }
  }
  return async (feeds) => {
    const begun = performance.now(), [kind, rows, [, r]] = feeds.pixel_rows, each = Math.ceil(r / workers.length);
    const rest = { ...feeds, pixel_rows: [kind, [...rows.slice(0, each), ...rows.slice(r, r + each)], [2, each]] };
    const parts = r > 1 ? workers.slice(1).map((worker, k) => [worker, (k + 1) * each, Math.min(r, (k + 2) * each)]).filter(([, from, to]) => from < to) : [];
    const found = await Promise.all([workers[0].ask({ feeds: rest }), ...parts.map(([worker, from, to]) => worker.ask({ feeds: shareOf(feeds, from, to) }))]);
    const milliseconds = performance.now() - begun, pixels = new Float32Array(found.reduce((a, one) => a + one.pixels.length, 0));
    found.reduce((at, one) => { pixels.set(one.pixels, at); return at + one.pixels.length; }, 0);
    if (milliseconds > SLOW && !growing) grow();
    return { pixels, logits: found[0].logits, milliseconds };
  };
}

export async function live(el, board, folder = './') {  // board: the module board.js; draws at once, answers when the model is ready
  const base = new URL(folder, document.baseURI), data = await (await fetch(new URL('board.json', base))).json();
  const ready = startModel(base).then((run) => new Host(data, run, board)), begun = performance.now();
  const mounted = board.mount(el, data.first, async (ask) => {
    try { const host = await ready, reply = await host.react(ask); el.dataset.milliseconds = host.milliseconds ?? 0; mounted.update(reply); } catch { /* below */ }
  }, data.options);
  try { await ready; } catch (error) { mounted.destroy(); throw error; }
  el.dataset.ready = Math.round(performance.now() - begun);
  return { name: data.name, mounted, host: await ready };
}
