// Pictures as the library reads them: cropped to the middle, resized as Pillow does, cut into patches.
const cubic = (x) => { x = Math.abs(x); return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0; };
function weights(size, from, to, out) {  // of each output pixel: first input pixel, and weights in units of 2^-22
  const scale = (to - from) / out, wide = Math.max(scale, 1), reach = 2 * wide;
  return Array.from({ length: out }, (_, i) => {
    const centre = from + (i + 0.5) * scale, first = Math.max(0, Math.trunc(centre - reach + 0.5)), last = Math.min(size, Math.trunc(centre + reach + 0.5));
    const own = Array.from({ length: last - first }, (_, k) => cubic((k + first - centre + 0.5) / wide)), sum = own.reduce((a, b) => a + b, 0);
    return [first, own.map((w) => Math.trunc((w / sum) * 2 ** 22 + (w < 0 ? -0.5 : 0.5)))];
  });
}
function pass(data, width, height, table, across) {  // along one axis; 8 bits in, 8 bits out
  const [w, h] = across ? [table.length, height] : [width, table.length], out = new Uint8ClampedArray(4 * w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    const [first, own] = table[across ? x : y];
    for (let c = 0; c < 4; c++) {
      let sum = 2 ** 21;
      for (let k = 0; k < own.length; k++) sum += own[k] * data[4 * (across ? y * width + first + k : (first + k) * width + x) + c];
      out[4 * (y * w + x) + c] = Math.max(0, Math.min(255, Math.floor(sum / 2 ** 22)));
    }
  }
  return out;
}
export function resize({ data, width, height }, [high, wide]) {  // RGBA bytes -> RGBA bytes of the model's size
  if (width === wide && height === high) return data;
  const unit = Math.min(width / wide, height / high), [w, h] = [Math.min(width, wide * unit), Math.min(height, high * unit)];
  const [left, top] = [(width - w) * 0.5, (height - h) * 0.5];
  const narrow = pass(data, width, height, weights(width, left, Math.min(width, left + w), wide), true);
  return pass(narrow, wide, height, weights(height, top, Math.min(height, top + h), high), false);
}
function each([rows, across], p, visit) {  // (index in patches, index in an RGBA image)
  let at = 0;
  for (let n = 0; n < rows * across; n++) for (let y = 0; y < p; y++) for (let x = 0; x < p; x++) for (let c = 0; c < 3; c++)
    visit(at++, 4 * ((Math.floor(n / across) * p + y) * across * p + (n % across) * p + x) + c);
}
export function patchify(rgba, grid, p) {  // -> n patches of p p 3 numbers in 0..1
  const out = new Float32Array(grid[0] * grid[1] * p * p * 3);
  each(grid, p, (i, k) => { out[i] = rgba[k] / 255; });
  return out;
}
export function unpatchify(patches, grid, p) {  // -> RGBA bytes
  const out = new Uint8ClampedArray(grid[0] * grid[1] * p * p * 4).fill(255);
  each(grid, p, (i, k) => { out[k] = Math.floor(Math.max(0, Math.min(1, patches[i])) * 255 + 0.5); });
  return out;
}
