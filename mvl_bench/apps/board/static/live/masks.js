// Random masks, the same as the library samples from the same seed: patterns of patches and of words.
const BITS = (1n << 64n) - 1n;
function mix(x) {  // SplitMix64
  x = (x + 0x9e3779b97f4a7c15n) & BITS;
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & BITS;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & BITS;
  return x ^ (x >> 31n);
}
function crc32(text) {
  let crc = ~0;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return BigInt(~crc >>> 0);
}
export function uniform(key, size) {  // numbers in 0..1 that depend on the key and on the place alone
  let state = 0n;
  for (const part of key) state = mix(state ^ (typeof part === 'string' ? crc32(part) : BigInt(part)));
  const row = mix(state);
  return Array.from({ length: size }, (_, i) => Number(mix(row ^ mix(BigInt(i))) >> 11n) * 2 ** -53);
}
export const roundEven = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
const count = (units, ratio) => Math.min(units, Math.max(roundEven(ratio * units), ratio > 0 ? 1 : 0));
const argsort = (values) => values.map((_, i) => i).sort((a, b) => values[a] - values[b] || a - b);
function hideFraction(chance, ratio, allowed = chance.map(() => true)) {  // the units with the lowest numbers
  const order = argsort(chance.map((value, i) => (allowed[i] ? value : Infinity))), hidden = chance.map(() => false);
  for (const i of order.slice(0, count(allowed.filter(Boolean).length, ratio))) hidden[i] = allowed[i];
  return hidden;
}
function overSquares(choose, [rows, across], square) {
  const down = Math.floor((rows - 1) / square) + 1, right = Math.floor((across - 1) / square) + 1, hidden = choose(down, right);
  return Array.from({ length: rows * across }, (_, i) => hidden[Math.floor(Math.floor(i / across) / square) * right + Math.floor((i % across) / square)]);
}
function block(key, down, right, ratio) {
  const n = down * right, hidden = Array(n).fill(false), wanted = count(n, ratio), least = Math.max(1, roundEven((n * 16) / 196));
  const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
  for (let turn = 0, left; (left = wanted - hidden.filter(Boolean).length) > 0; turn++) {
    const [areaDraw, aspectDraw, ...places] = uniform([...key, 'block', turn], 2 + n);
    const area = least + areaDraw * Math.max(0, left - least), aspect = 0.3 ** (1 - 2 * aspectDraw);
    const high = Math.min(clamp(roundEven(Math.sqrt(area * aspect)), 1, down), Math.max(1, left));
    const wide = Math.min(clamp(roundEven(Math.sqrt(area / aspect)), 1, right), Math.floor(Math.max(1, left) / high));
    const inside = (place) => { const top = Math.floor(place / right), start = place % right;
      return top + high > down || start + wide > right ? [] : Array.from({ length: high * wide }, (_, k) => (top + Math.floor(k / wide)) * right + start + (k % wide)); };
    const values = places.map((draw, place) => (inside(place).some((i) => !hidden[i]) ? draw : -1));
    for (const i of inside(values.indexOf(Math.max(...values)))) hidden[i] = true;
  }
  return hidden;
}
function grid(key, down, right, ratio) {  // Bayer's ordering at a random offset
  let order = [[0]];
  while (order.length < Math.max(down, right)) {
    const four = order.map((row) => row.map((x) => 4 * x));
    order = [...four.map((row) => [...row, ...row.map((x) => x + 2)]), ...four.map((row) => [...row.map((x) => x + 3), ...row.map((x) => x + 1)])];
  }
  const [a, b] = uniform([...key, 'grid'], 2).map((x) => Math.floor(x * order.length)), side = order.length;
  return hideFraction(Array.from({ length: down * right }, (_, i) => order[(Math.floor(i / right) + a) % side][((i % right) + b) % side]), ratio);
}
export const PATCHES = {  // (seed, [rows, across], ratio, square) -> hidden places
  random(seed, [rows, across], ratio, square) {
    const unit = Array.from({ length: rows * across }, (_, i) => Math.floor(Math.floor(i / across) / square) * across + Math.floor((i % across) / square));
    const there = unit.map(() => false);
    for (const u of unit) there[u] = true;
    const hidden = hideFraction(uniform([seed, 'image'], unit.length), ratio, there);
    return unit.map((u) => hidden[u]);
  },
  block: (seed, shape, ratio, square) => overSquares((down, right) => block([seed], down, right, ratio), shape, square),
  grid: (seed, shape, ratio, square) => overSquares((down, right) => grid([seed], down, right, ratio), shape, square),
};
const placed = (maskable, chance) => { let at = -1; return maskable.map((may) => chance[Math.max(0, (at += may ? 1 : 0))]); };
function spans(seed, maskable, ratio) {
  const t = maskable.length, words = maskable.filter(Boolean).length, wanted = count(words, ratio), lengths = [];
  let ends = 0, total = 0;
  uniform([seed, 'length'], t).forEach((draw, span) => {
    total += Math.floor(Math.log1p(-Math.min(draw, 1 - 1e-9)) / Math.log(0.6)) + 1;
    const end = span < words - wanted ? Math.min(total, wanted) : wanted;
    lengths.push(end - ends);
    ends = end;
  });
  const order = argsort(uniform([seed, 'order'], t).map((draw, i) => (lengths[i] ? draw : 2))), length = order.map((i) => lengths[i]);
  const slots = [], used = length.filter((l) => l > 0).length;
  argsort(uniform([seed, 'slot'], t + 1).map((draw, i) => (i <= words - wanted ? draw : 2))).forEach((slot, rank) => { slots[slot] = rank; });
  const slot = [...slots.keys()].filter((i) => slots[i] < used), hidden = Array(words).fill(false);
  let before = 0;
  slot.forEach((free, k) => { for (let i = 0; i < length[k]; i++) hidden[free + before + i] = true; before += length[k]; });
  let at = 0;
  return maskable.map((may) => may && hidden[at++]);
}
export const WORDS = {  // (seed, {ids, maskable}, ratio, kinds) -> hidden tokens; kinds: a letter for each token of the vocabulary
  random: (seed, { maskable }, ratio) => hideFraction(placed(maskable, uniform([seed, 'text'], maskable.length)), ratio, maskable),
  whole_word(seed, { ids, maskable }, ratio, kinds) {
    const begins = maskable.map((may, i) => may && !(kinds[ids[i]] === 'p' && maskable[i - 1])), number = begins.filter(Boolean).length;
    const hidden = hideFraction(uniform([seed, 'text'], ids.length), ratio, ids.map((_, i) => i < number));
    let at = -1;
    return maskable.map((may, i) => { at += begins[i] ? 1 : 0; return may && hidden[Math.max(0, at)]; });
  },
  span: (seed, { maskable }, ratio) => spans(seed, maskable, ratio),
  content: (seed, { ids, maskable }, ratio, kinds) =>
    hideFraction(placed(maskable, uniform([seed, 'text'], ids.length)).map((x, i) => x + (kinds[ids[i]] === 'f' ? 1 : 0)), ratio, maskable),
};
