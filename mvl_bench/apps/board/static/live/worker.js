// The model, in a thread of its own: tensors come in by name, predictions go out.
import * as ort from './ort.wasm.min.mjs';
const TYPES = { f: ['float32', Float32Array], i: ['int64', BigInt64Array], b: ['bool', Uint8Array] };
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL('./', import.meta.url).href;
let session = null;
async function answer({ open, feeds }) {
  if (open) {
    session = await ort.InferenceSession.create(open, { graphOptimizationLevel: 'all' });
    return {};
  }
  const tensors = Object.fromEntries(Object.entries(feeds).map(([name, [type, values, shape]]) => {
    const [kind, array] = TYPES[type];
    return [name, new ort.Tensor(kind, type === 'i' ? array.from(values, BigInt) : array.from(values), shape)];
  }));
  const begun = performance.now(), found = await session.run(tensors);
  return { pixels: found.pixels.data, logits: found.word_logits.data, milliseconds: performance.now() - begun };
}
onmessage = async ({ data: { id, ...question } }) => {
  try { postMessage({ id, ...(await answer(question)) }); } catch (error) { postMessage({ id, error: String(error?.message ?? error) }); }
};
