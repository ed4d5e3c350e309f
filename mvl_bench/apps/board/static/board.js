// The board, for every host: `mount(el, first, emit, options)` draws what a host knows and reports what a person does.
// It knows nothing of models: {state, shown} comes in (see `respond`), {state, kind, given, seq, source} goes out, and what
// a person typed is only ever text. At the end: the three hosts, an anywidget, a Gradio page and a page without a server.
const PATTERNS = { patches: { random: 'random', block: 'block-wise', grid: 'grid-wise' },
  words: { random: 'random', whole_word: 'whole-word', span: 'span', content: 'content words' } };
const NO_RESPONSE = 'No response: the server is busy or disconnected.', NO_MODEL = 'No response yet: the model is still loading.';
const NATS = 'nats: mean of −ln(probability of the true word); 0 = certain and right';
const PATIENCE = 15000;  // milliseconds until a question counts as lost

function make(tag, traits = {}, ...kids) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (name === 'style') for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'class') made.className = value;
    else if (name.startsWith('aria-') || (value !== false && value !== null)) made.setAttribute(name, value === true && !name.startsWith('aria-') ? '' : value);
  }
  made.append(...kids.flat().filter((kid) => kid !== null && kid !== undefined));
  return made;
}
export function readPlaces(text) {  // 3-5,9 in order, below 10,000; an error for anything else
  const places = [];
  for (const run of text ? text.split(',') : []) {
    const [, first, last = first] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(run) ?? [];
    if (!first || Number(last) < Number(first) || Number(first) <= (places.at(-1) ?? -1)) throw new RangeError(`${run} is no run of places`);
    for (let i = Number(first); i <= Number(last); i++) places.push(i);
  }
  return places;
}
export function writePlaces(places) {
  const runs = [];
  for (const place of [...places].sort((a, b) => a - b)) {
    if (runs.length && runs.at(-1)[1] === place - 1) runs.at(-1)[1] = place;
    else runs.push([place, place]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(',');
}
export function writeLink(state) {
  const letters = Array.from(new TextEncoder().encode(JSON.stringify(state)), (byte) => String.fromCharCode(byte)).join('');
  return `#b=${btoa(letters).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')}`;
}
export function readLink(link) {  // only a page without a server reads it here
  const letters = atob(link.split('#b=')[1].replaceAll('-', '+').replaceAll('_', '/'));
  const state = JSON.parse(new TextDecoder().decode(Uint8Array.from(letters, (c) => c.charCodeAt(0))));
  const texts = ['patches', 'words', 'edit', 'caption'].every((name) => typeof (state[name] ?? '') === 'string');
  if (!texts || !Array.isArray(state.view ?? [])) throw new TypeError('the link holds no board');
  [state.patches, state.words].forEach(readPlaces);
  return state;
}
const quoted = (text) => (/^[^\p{L}\p{N}]+$/u.test(text) ? `“${text}”` : text);  // a punctuation mark
const percent = (p) => (p > 0 && p < 0.005 ? '<1 %' : p < 1 && p >= 0.995 ? '>99 %' : `${Math.round(100 * p)} %`);
const times = (r) => (r > 99 ? 'over 99×' : `${r < 9.95 ? r.toFixed(1) : Math.round(r)}×`);
const picture = (src) => new Promise((done) => { const made = new Image(); made.onload = made.onerror = () => done(made); made.src = src; });

export function mount(el, first, emit, options = {}) {
  const can = new Set(options.can ?? ['hide', 'chance', 'edit', 'bring', 'examples', 'another', 'model', 'untrained', 'influence', 'card']);
  const source = Math.random().toString(36).slice(2), id = `mb${source}`, stop = new AbortController();
  let state = first.state, shown = first.shown, answer = first, hidden, words, seq = 0, flying = null, waiting = null, late = null, lost = 0;
  let at = 0, word = 0, columns = 0, cells = [], paint = null, drawn = 0, ring = -1;

  // ---- questions and answers: one in flight, the last one kept, none older than what is shown ----------------------------
  function ask(kind, given = {}) {
    waiting = [kind, given];
    if (!flying) send();
  }
  function send() {
    const [kind, given] = waiting;
    waiting = null;
    flying = ++seq;
    root.setAttribute('aria-busy', 'true');
    lost = setTimeout(giveUp, PATIENCE);
    emit({ state, kind, given, seq, source });
  }
  function land() {  // nothing is in flight any more
    late = flying = null;
    clearTimeout(lost);
    root.removeAttribute('aria-busy');
  }
  function giveUp() {  // no answer came; one that still comes is shown unless something else was asked meanwhile
    const missed = flying;
    land();
    late = missed;
    refuse(options.local ? NO_MODEL : NO_RESPONSE);
    if (waiting) send();
  }
  function update(next) {
    if (!next || (next.source === source ? next.seq !== (flying ?? late) : flying)) return;
    land();
    if (next.error) refuse(next.error);
    else {
      answer = next;
      if (waiting && next.state.caption === state.caption) shown = { ...next.shown, shares: shown.shares };  // the board is ahead
      else ({ state, shown } = next);
      draw();
      if (next.source === source && next.shown.card) keep(next.shown.card);
    }
    if (waiting) send();
  }
  const change = (kind, fields, given) => { state = { ...state, ...fields }; ask(kind, given); };  // at once
  const refuse = (text) => { tell(text); parts.model.value = state.model; };
  const tell = (text) => { parts.notes.replaceChildren(make('p', { class: 'mb-error' }, text)); };

  // ---- the picture as a grid, by the pattern of the W3C's APG: one tab stop, arrows within --------------------------------
  const place = (i) => `row ${Math.floor(i / columns) + 1} column ${(i % columns) + 1}`;
  function flip(i, to, say = true) {
    if (hidden.has(i) === to) return;
    to ? hidden.add(i) : hidden.delete(i);
    mark(i);
    if (say) parts.live.textContent = `patch ${place(i)} ${to ? 'hidden' : 'shown'}, ${hidden.size} of ${cells.length}`;
    report();
  }
  const report = (now = { patches: writePlaces(hidden), words: writePlaces(words) }) => change('hide', now, now);
  function mark(i) {
    cells[i].className = hidden.has(i) ? 'mb-cell mb-on' : 'mb-cell';
    cells[i].setAttribute('aria-selected', hidden.has(i));
  }
  function rove(to, focus = true) {
    if (!cells[to]) return;
    cells[at].tabIndex = -1;
    at = to;
    cells[at].tabIndex = 0;
    if (focus) cells[at].focus();
    look(at);
  }
  function buildGrid([rows, across]) {
    columns = across;
    cells = Array.from({ length: rows * across }, (_, i) => make('div', { role: 'gridcell', class: 'mb-cell', tabindex: -1, 'aria-label': place(i) }));
    parts.grid.replaceChildren(...Array.from({ length: rows }, (_, r) =>
      make('div', { role: 'row', class: 'mb-row' }, cells.slice(r * across, (r + 1) * across))));
    for (const part of [parts.grid, parts.columns]) { part.style.setProperty('--rows', rows); part.style.setProperty('--across', across); }
    at = Math.min(at, cells.length - 1);
    cells[at].tabIndex = 0;
  }
  function under({ clientX, clientY }) {  // the patch below a pointer, also between two of its reports
    const box = parts.grid.getBoundingClientRect(), inside = (x) => Math.max(0, Math.min(0.9999, x));
    return Math.floor(inside((clientY - box.top) / box.height) * (cells.length / columns)) * columns
      + Math.floor(inside((clientX - box.left) / box.width) * columns);
  }
  function stroke(to) {
    const [r, c, down, right] = [Math.floor(paint.at / columns), paint.at % columns, Math.floor(to / columns), to % columns];
    const steps = Math.max(Math.abs(down - r), Math.abs(right - c), 1);
    for (let k = 0; k <= steps; k++) flip(Math.round(r + ((down - r) * k) / steps) * columns + Math.round(c + ((right - c) * k) / steps), paint.to);
    paint.at = to;
  }
  const onGrid = {
    pointerdown(event) {
      if (event.button || !can.has('hide')) return;
      const i = under(event);
      paint = { at: i, to: !event.shiftKey && !hidden.has(i), touch: event.pointerType === 'touch', begun: false };
      if (paint.touch) return;  // a finger may mean to scroll: wait for a tap or a move sideways
      event.preventDefault();
      parts.grid.setPointerCapture(event.pointerId);
      rove(i);
      stroke(i);
    },
    pointermove(event) {
      const i = under(event);
      look(i);
      if (!paint || (i === paint.at && !paint.begun) || !(event.buttons || paint.touch)) return;
      paint.begun = true;
      stroke(i);
    },
    pointerup() {
      if (paint?.touch && !paint.begun) stroke(paint.at);
      if (paint) rove(paint.at);
      paint = null;
    },
    pointercancel() { paint = null; }, pointerleave() { look(-1); }, focusin() { look(at); }, focusout() { look(-1); },
    keydown(event) {
      const { key, ctrlKey, metaKey, shiftKey } = event, row = at - (at % columns), all = ctrlKey || metaKey, last = cells.length - 1;
      const page = columns * Math.max(1, Math.floor(cells.length / columns / 4)), column = at % columns;
      const to = { ArrowRight: at % columns < columns - 1 ? at + 1 : at, ArrowLeft: column ? at - 1 : at, ArrowDown: at + columns, ArrowUp: at - columns,
        Home: all ? 0 : row, End: all ? last : row + columns - 1,
        PageDown: Math.min(at + page, last - columns + 1 + column), PageUp: Math.max(at - page, column) }[key];
      if (key === ' ' || key === 'Enter') flip(at, !hidden.has(at));
      else if (all && key === 'a') { cells.forEach((_, i) => flip(i, true, false)); parts.live.textContent = 'all patches hidden'; }
      else if (to === undefined) return;
      else if (cells[to]) {
        const painted = hidden.has(at);
        rove(to);
        if (shiftKey && key.startsWith('Arrow')) flip(to, painted);
        else parts.live.textContent = '';
      }
      event.preventDefault();
    },
  };

  // ---- the caption as chips: one tab stop, arrows within ------------------------------------------------------------------
  function drawChips() {
    parts.chips.replaceChildren(...shown.chips.map(({ position, text, known }, i) => make('button', { type: 'button', 'data-word': position,
      class: known ? 'mb-chip' : 'mb-chip mb-unknown', tabindex: i === Math.min(word, shown.chips.length - 1) ? 0 : -1,
      'aria-pressed': words.has(position), 'aria-label': `${text}${known ? '' : ', which the model does not know'}, ${words.has(position) ? 'hidden' : 'shown'}`,
      title: words.has(position) ? `${text} (hidden)` : known ? null : 'the model does not know this word' }, words.has(position) ? '▢▢▢' : text)));
  }
  const stand = (i) => { word = i; drawChips(); parts.chips.children[i].focus(); };
  const ofWord = ({ target }) => {
    const i = [...parts.chips.children].indexOf(target);
    if (shown.influence && i >= 0) parts.read.textContent = trace('patches', i, shown.chips[i].text);
  };
  const onChips = { pointerover: ofWord, focusin: ofWord, pointerleave() { look(-1); }, focusout() { look(-1); },
    click(event) {
      const button = event.target.closest('[data-word]');
      if (!button || !can.has('hide')) return;
      const position = Number(button.dataset.word);
      words.has(position) ? words.delete(position) : words.add(position);
      stand([...parts.chips.children].indexOf(button));
      parts.live.textContent = `word ${shown.chips[word].text} ${words.has(position) ? 'hidden' : 'shown'}, ${shown.chips.filter((chip) => words.has(chip.position)).length} of ${shown.chips.length}`;
      report();
    },
    keydown(event) {
      const all = [...parts.chips.children], here = all.indexOf(event.target);
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined || here < 0) return;
      event.preventDefault();
      if (all[to]) stand(to);
    },
  };

  // ---- the columns --------------------------------------------------------------------------------------------------------
  const NAMES = ['with', 'without', 'wrong', 'edited'];
  const figures = Object.fromEntries(NAMES.map((name) => [name, { title: make('b'), beside: make('span'), canvas: make('canvas', { role: 'img' }),
    line: make('span', { class: 'mb-line' }), heat: make('canvas', { class: 'mb-heat' }), said: make('div', { class: 'mb-said' }) }]));
  function titles({ state: { patches, words: gone }, shown: { columns: found } }) {  // of each column, and what the model sees there
    const blank = new Set(readPlaces(gone)), [own, new_] = ['with', 'edited'].map((name) => (found[name]?.said ?? []).map(([, text]) => text));
    const grown = new_.length - own.length, same = (i) => own[i] === new_[i] || (grown && own[i - grown] === new_[i]);  // before or behind a word more or less
    const quote = (name) => (found[name]?.said ?? []).map(([place, text], i) =>
      (blank.has(place) && name !== 'wrong' ? '▢▢▢' : name === 'edited' && !same(i) ? make('mark', {}, text) : text));
    const side = !gone ? 'caption' : patches ? '' : 'picture', bare = side === 'picture', both = gone && patches;
    const rest = both ? 'picture from picture, words from words' : `only the rest of the ${bare ? 'caption' : 'picture'}`;
    return { with: [both ? 'together' : `with the ${side}`, bare ? ['the whole picture'] : quote('with')], without: [both ? 'each alone' : 'without it', [rest]],
      wrong: [`with a wrong ${side || 'partner'}`, bare ? ['the picture of another pair'] : both ? ['words from another picture, the picture from another caption:', ...quote('wrong')] : quote('wrong')],
      edited: ['with your edit', found.edited ? quote('edited') : ['change a word of your edit']] };
  }
  function verdict(name, found) {  // the numbers of a column in plain words
    const { without } = found, own = found[name];
    const far = (r, near, same, off = same) => (r > 1.1 ? `${times(r)} ${near}` : r < 0.9 ? `${off}` : same);
    if (name === 'edited' && own?.moved) return far(own.moved[0] / own.moved[1], 'nearer the redrawn scene than before the edit', 'no nearer the redrawn scene than before');
    if (name === 'edited') return own?.change === undefined ? '' : `hidden part changed by ${percent(own.change)} (there is no true picture to compare with)`;
    if (own?.error === null || own?.error === undefined) return '';
    if (name === 'without') return 'the others are compared with this';
    const rest = state.patches && state.words ? 'than each alone' : 'than without it';
    return far(without.error / own.error, `less error ${rest}`, `the same error ${rest.replace('than', 'as')}`, `${times(own.error / without.error)} more error ${rest}`);
  }
  function scored(name, value, base, digits) {  // a number, and its change against the column without
    const by = name === 'without' || name === 'edited' || base === null ? 0 : Number((value - base).toFixed(digits));
    return [make('b', {}, value.toFixed(digits)), by ? make('span', { class: by < 0 ? 'mb-good' : 'mb-bad' }, `${by < 0 ? '▼' : '▲'} ${Math.abs(by).toFixed(digits)}`) : null];
  }
  function guess({ truth, top, probability, known = true }, own) {  // own: the true word, where an edit of a hidden one asks for another
    const other = own && own !== truth, right = (other ? own : truth).toLowerCase(), best = known && top[0][0] === right;
    const rows = other || !known || top.some(([text]) => text === right) ? top : [...top, [right, probability]];
    const bars = rows.map(([text, p], i) => make('li', { class: known && text === right ? 'mb-good' : i ? '' : 'mb-bad', style: { '--p': p } },
      make('span', {}, `${known && text === right ? '✓ ' : ''}${quoted(text)}`), make('span', {}, percent(p))));
    return make('div', { class: 'mb-guess' }, make('span', { class: `mb-chip ${other ? '' : best ? 'mb-good' : 'mb-bad'}` }, `${other ? '' : best ? '✓ ' : '✗ '}${quoted(top[0][0])} ${percent(top[0][1])}`),
      other ? make('span', { class: 'mb-asked' }, ` you wrote “${truth}”`) : best && known ? null
        : make('span', { class: 'mb-asked mb-word' }, ' truth: ', make('span', { class: known ? 'mb-chip' : 'mb-chip mb-unknown' }, quoted(truth)), known ? null : ' is not in the vocabulary'), make('ol', { class: 'mb-bars mb-number' }, bars));
  }
  function outline(patches) {  // a line around what was hidden, in patches
    const has = new Set(patches), edge = (i, next, wall, path) => (wall || !has.has(next) ? path : '');
    return patches.map((i) => { const x = i % columns, y = Math.floor(i / columns);
      return edge(i, i - columns, false, `M${x} ${y}h1`) + edge(i, i + columns, false, `M${x} ${y + 1}h1`)
        + edge(i, i - 1, x === 0, `M${x} ${y}v1`) + edge(i, i + 1, x === columns - 1, `M${x + 1} ${y}v1`); }).join('');
  }
  async function paintColumns() {
    const mine = ++drawn, { state: asked, shown: { columns: found, picture: truth } } = answer, raw = asked.view.includes('raw');
    const gone = readPlaces(asked.patches), own = await picture(truth), side = own.naturalWidth / columns, path = outline(gone);
    const images = await Promise.all(NAMES.map((name) => {
      const src = found[name] && (gone.length ? found[name].raw : asked.words ? { with: truth, edited: truth, wrong: found.wrong.shown }[name] : truth);
      return src ? picture(src) : null;
    }));
    if (mine !== drawn) return;
    NAMES.forEach((name, n) => {
      const { canvas, heat, line } = figures[name], image = images[n], pen = canvas.getContext('2d');
      [canvas.width, canvas.height] = [own.naturalWidth, own.naturalHeight];
      canvas.classList.toggle('mb-none', !image);
      canvas.setAttribute('aria-label', image ? `the picture ${figures[name].title.textContent}` : 'no picture');
      canvas.classList.toggle('mb-fine', own.naturalWidth > 160);
      if (image) {
        pen.drawImage(raw || !gone.length ? image : own, 0, 0);
        if (!raw) for (const i of gone) { const x = (i % columns) * side, y = Math.floor(i / columns) * side; pen.drawImage(image, x, y, side, side, x, y, side, side); }
      }
      line.innerHTML = image && path ? `<svg viewBox="0 0 ${columns} ${cells.length / columns}" aria-hidden="true"><path d="${path}"/><path d="${path}"/></svg>` : '';
      const errors = found[name]?.errors;
      heat.hidden = !errors || !gone.length;
      if (!heat.hidden) {
        [heat.width, heat.height] = [columns, cells.length / columns];
        const ink = heat.getContext('2d');
        errors.forEach((error, i) => { if (error !== null) { ink.fillStyle = `rgb(200 50 120 / ${0.3 + 0.7 * Math.min(1, 2 * error)})`; ink.fillRect(i % columns, Math.floor(i / columns), 1, 1); } });
      }
    });
    root.dataset.answered = Number(root.dataset.answered ?? 0) + 1;
  }
  function drawColumns() {
    const { shown: { columns: found } } = answer, told = titles(answer), base = found.without;
    const worst = Math.max(...NAMES.map((name) => found[name]?.error ?? 0));
    for (const name of NAMES) {
      const { title, beside, said } = figures[name], own = found[name], [text, seen] = told[name], rows = [];
      title.textContent = text;
      beside.replaceChildren(...seen.flatMap((part, i) => (i && (part.textContent ?? part) !== ',' ? [' ', part] : [part])));
      const sentence = verdict(name, found), far = own?.error ?? null;
      if (far !== null) rows.push(make('div', { class: 'mb-off', title: 'mean error of the hidden pixels: shorter is better' }, 'error', make('span', { style: { '--x': worst ? far / worst : 0 } })));
      if (sentence) rows.push(make('p', { class: 'mb-verdict' }, sentence));
      if (own?.why) rows.push(make('p', { class: 'mb-why' }, own.why));
      if (far !== null) rows.push(make('div', { class: 'mb-number mb-score' }, name === 'edited' ? 'off the edited scene' : 'mean error', ...scored(name, far, base.error, 3)));
      if (own?.guesses.length) rows.push(make('p', { class: 'mb-asked' }, `predicted word${own.guesses.length > 1 ? 's' : ''}:`), ...own.guesses.map((one, i) => guess(one, name === 'edited' && found.with.guesses[i]?.truth)));
      if (own?.nats !== null && own?.nats !== undefined) rows.push(make('div', { class: 'mb-number mb-score' }, 'nats a word', ...scored(name, own.nats, base.nats, 2)));
      if (own?.truth) rows.push(make('div', { class: 'mb-truth' }, make('img', { src: own.truth, alt: '' }), name === 'edited' ? 'the scene, redrawn' : 'the truth'));
      said.replaceChildren(...rows);
    }
    paintColumns();
  }
  function look(i) {  // what each column says of one patch, and what the patch moves
    ring = i;
    const { columns: found } = answer.shown, told = shown.influence ? trace('words', i, i < 0 ? '' : place(i)) : '';
    const known = i >= 0 && found.with.errors?.[i] !== null && found.with.errors?.[i] !== undefined, named = NAMES.filter((n) => found[n]?.errors);
    const off = known ? `${place(i)}: ${named.map((n) => `${n} ${found[n].errors[i].toFixed(2)}`).join(', ')}` : 'Point at a hidden patch to read its error.';
    parts.read.textContent = told ? `${told}${known && state.view.includes('numbers') ? `; ${off}` : ''}` : off;
  }
  function trace(side, i, name) {  // tint what helps what is pointed at (-1 = nothing), or is helped by it, and say it
    const tables = Object.values(shown.influence).filter(Boolean), on = i >= 0 && tables.length, found = side === 'patches';
    const one = (table) => (found ? table[i] : table.map((row) => row[i]));  // of a word, or of a patch
    const own = !on ? [] : tables.map(one).reduce((a, b) => a.map((value, k) => Math.max(value, b[k]))), best = own.indexOf(Math.max(...own)), some = on && own[best] > 0;
    const tint = (all, mine) => all.forEach((one, k) => one.style.setProperty('--tint', mine && some ? own[k] / 99 : 0));  // one scale for all models
    tint(cells, found);
    tint([...parts.chips.children], !found);
    root.classList.toggle('mb-tinted', Boolean(some));
    if (!on) return 'Point at a word or a patch: what it helps to predict, or depends on, is tinted.';
    return !some ? `${name}: no effect above the noise floor` : `${name}: strongest on ${found ? place(best) : shown.chips[best].text}`;
  }

  // ---- everything else ----------------------------------------------------------------------------------------------------
  const button = (text, act, traits = {}) => make('button', { type: 'button', class: 'mb-button', onclick: act, ...traits }, text);
  const menu = (label, values, act) => make('select', { 'aria-label': label, onchange: (e) => act(e.target.value) },
    ...Object.entries(values).map(([value, text]) => make('option', { value }, text)));
  function slider(side, label, patterns, key) {
    const range = make('input', { type: 'range', min: 0, max: 100, step: 1, id: `${id}-${side}`, oninput: () => { told.textContent = `${range.value} %`; ask('share', { side, ratio: range.value / 100 }); } });
    const told = make('output', { for: `${id}-${side}` }), how = menu(`${label}: pattern`, patterns, (value) => ask('pattern', { patches: state.pattern[0], words: state.pattern[1], [key]: value }));
    parts[side] = { range, told, how };
    return make('div', { class: 'mb-slider' }, make('label', { for: `${id}-${side}` }, label), told, range, how, make('p', { class: 'mb-ends', 'aria-hidden': 'true' }, make('span', {}, '0 %'), make('span', {}, '100 %')));
  }
  function toggle(name, label, title) {
    const box = make('input', { type: 'checkbox', onchange: () => {
      const view = box.checked ? [...state.view, name] : state.view.filter((one) => one !== name);
      change('view', { view }, { on: view });
      root.classList.toggle(`mb-${name}`, box.checked);
    } });
    parts[name] = box;
    return make('label', { class: 'mb-toggle', title }, box, label);
  }
  const keep = (text) => { parts.said.textContent = 'saved as board.ipynb'; return make('a', { download: 'board.ipynb', href: URL.createObjectURL(new Blob([text])) }).click(); };
  async function copy(text, what) {
    parts.copied.replaceChildren();
    try { await navigator.clipboard.writeText(text); parts.said.textContent = `${what} copied`; } catch {
      parts.said.textContent = `${what}: copy it from here`;
      parts.copied.replaceChildren(make('textarea', { readonly: true, rows: 6, 'aria-label': what }));
      parts.copied.firstChild.value = text;
      parts.copied.firstChild.select();
    }
  }
  const own = {};  // a person's picture and caption wait here until both exist
  async function choose(file) {
    if (!file) return;
    let data = await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });
    const moves = /^image\/(gif|webp)$/.test(file.type), whole = moves && data.length <= 4e6;  // goes as it is: the answer says how many frames it has
    if (!whole) try {  // made small here; what this browser cannot read goes as it is, and the answer says what is wrong with it
      const image = await createImageBitmap(file), by = Math.min(1, 512 / Math.min(image.width, image.height)), sheet = make('canvas', { width: Math.round(image.width * by), height: Math.round(image.height * by) });
      sheet.getContext('2d').drawImage(image, 0, 0, sheet.width, sheet.height);
      data = sheet.toDataURL('image/png');
    } catch { data = data.replace(/^data:[^,]*,/, 'data:image/png;base64,'); }
    if (data.length > 4e6) return tell(`the picture ${file.name} is larger than 3 MB, the most that is sent`);
    Object.assign(own, { picture: data, name: file.name });
    parts.preview.src = data;
    parts.chosen.textContent = moves && !whole ? `${file.name} (first frame)` : file.name;
    parts.own.classList.add('mb-has');
    ready();
    parts.caption.focus();
  }
  function ready() {
    const caption = parts.caption.value.trim(), lacks = !own.picture ? (caption ? 'Its picture is missing.' : 'Give both: a picture and the sentence that describes it.') : caption ? '' : 'Now describe it in a sentence.';
    parts.open.disabled = Boolean(lacks);
    parts.lacks.textContent = lacks || (options.local ? 'Your picture stays in this browser: the model runs in the page.' : 'The model whose training data fits best will answer.');
  }
  const grow = (area) => { area.style.height = 'auto'; area.style.height = `${area.scrollHeight + 2}px`; };
  const parts = { live: make('span', { class: 'mb-live', 'aria-live': 'polite' }), story: make('p', { class: 'mb-story' }), notes: make('div', { class: 'mb-notes', role: 'status' }),
    grid: make('div', { class: 'mb-grid', role: 'grid', 'aria-label': 'the picture, in patches', 'aria-multiselectable': true }),
    chips: make('div', { class: 'mb-chips', role: 'toolbar', 'aria-label': 'the caption, in words' }), read: make('p', { class: 'mb-read', role: 'status' }),
    columns: make('div', { class: 'mb-columns' }), honest: make('p', { class: 'mb-honest' }), scale: make('p', { class: 'mb-number mb-scale' }, 'error of each hidden patch: 0 ', make('i'), ' 0.5 and more'), nats: make('p', { class: 'mb-number mb-scale' }, NATS), said: make('span', { class: 'mb-copied', role: 'status' }), copied: make('div'),
    edit: options.edits ? make('select', { id: `${id}-edit`, onchange: (e) => change('edit', { edit: e.target.value }, { text: e.target.value }) })
      : make('textarea', { id: `${id}-edit`, rows: 1, maxlength: 2000, spellcheck: false, oninput: (e) => { grow(e.target); change('edit', { edit: e.target.value }, { text: e.target.value }); } }),
    caption: make('textarea', { rows: 1, maxlength: 2000, placeholder: 'such as: a brown dog runs on the beach', oninput: (e) => { grow(e.target); ready(); } }),
    own: make('div', { class: 'mb-own' }), preview: make('img', { alt: '' }), chosen: make('span', {}, 'Choose a picture'), lacks: make('p', { class: 'mb-lacks', role: 'status' }),
    open: button('Open this pair', () => { ask('bring', { picture: own.picture, caption: parts.caption.value, name: own.name }); showTop(); }, { disabled: true }),
    next: button('Next pair', () => ask('another')),
    model: menu('the model that answers', {}, (name) => ask('model', { name })), file: make('input', { type: 'file', accept: 'image/*', class: 'mb-live', tabindex: -1, 'aria-hidden': true, onchange: (e) => { choose(e.target.files[0]); e.target.value = ''; } }) };
  parts.own.append(make('button', { type: 'button', class: 'mb-button mb-file', onclick: () => parts.file.click() }, parts.preview, parts.chosen), parts.file,
    make('label', {}, 'Its caption', parts.caption), parts.open, parts.lacks);
  ready();
  for (const [part, deeds] of [[parts.grid, onGrid], [parts.chips, onChips]]) for (const [name, deed] of Object.entries(deeds)) part.addEventListener(name, deed);
  parts.columns.append(...NAMES.map((name) => { const { title, beside, canvas, line, heat, said } = figures[name];
    return make('figure', { class: `mb-column mb-${name}` }, make('figcaption', {}, title, beside), make('div', { class: 'mb-pic' }, canvas, line),
      make('div', { class: 'mb-number mb-hot' }, heat), said); }));
  const showTop = () => { if (root.getBoundingClientRect().top < 0) root.scrollIntoView({ block: 'start' }); };  // a new pair is shown from its first sentence on
  const heading = (text) => make(options.heading ?? 'h3', { class: 'mb-heading' }, text);
  const root = make('div', { class: 'mb', id, 'data-lm-suppress-shortcuts': true },
    make('div', { class: 'mb-top' }, parts.story, can.has('bring') && options.examples ? button('Use your own picture', () => { parts.own.scrollIntoView({ block: 'center' }); parts.own.firstChild.focus({ preventScroll: true }); }) : null), make('div', { class: 'mb-main' },
    make('div', { class: 'mb-left', role: 'group', 'aria-label': 'what is hidden' }, heading('Hide something'),
      make('p', { class: 'mb-how' }, can.has('chance') ? (matchMedia('(pointer: coarse)').matches ? 'Tap a patch or a word to hide it; draw sideways to hide more.' : 'Click a patch or a word to hide it. Drag to hide more, Shift-drag to show again.')
        : 'Click any one word, or choose a part of the picture below. This page holds stored answers: the nearest to your click is shown.'),
      make('div', { class: 'mb-field' }, parts.grid, parts.chips, make('div', { class: 'mb-toggles', role: 'group', 'aria-label': 'what is displayed' },
        can.has('influence') ? toggle('influence', 'influence', 'point at a word or a patch: what it helps to predict, or depends on, is tinted') : null,
        toggle('numbers', 'numbers', 'errors, nats and the likeliest words'), toggle('raw', 'raw output', 'the output for every patch: visible patches are not pasted in'),
        can.has('untrained') ? toggle('untrained', 'untrained model', 'the same model with random weights') : null), parts.read),
      options.choices ? make('div', { class: 'mb-choices', role: 'group', 'aria-label': 'stored answers' }, options.choices.map((text, i) => text && button(text, () => ask('choice', { number: i }), { 'data-choice': i }))) : null,
      can.has('chance') ? make('div', { class: 'mb-tools' }, slider('picture', 'Picture hidden', PATTERNS.patches, 'patches'), slider('text', 'Words hidden', PATTERNS.words, 'words'),
        make('div', { class: 'mb-row2' }, button('Resample mask', () => ask('other')), button('Clear mask', () => ask('clear')))) : null),
    make('div', { class: 'mb-right', role: 'group', 'aria-label': 'what the model fills in' }, make('div', { class: 'mb-head' }, heading('See what the model fills in'), parts.model),
      make('div', { class: 'mb-edit' }, make('label', { for: `${id}-edit` }, 'Your edit of the caption ', make('span', {}, options.edits ? '– choose one and watch the last picture' : '– change a word and watch the last picture')), parts.edit),
      parts.notes, parts.columns, parts.scale, parts.nats, parts.honest,
      make('div', { class: 'mb-bar' }, make('div', { class: 'mb-row2' }, can.has('card') ? button('Experiment card', () => ask('card'), { title: 'a notebook that repeats this board, with its numbers' }) : null,
        button('Copy as Python', () => copy(answer.shown.code, 'Python')), button('Copy link', () => {
          const base = options.base ?? location.href.split('#')[0];
          if (!options.base) history.replaceState(null, '', writeLink(state));
          copy(base + writeLink(state), 'link');
        })), parts.said), parts.copied,
      options.examples ? [make('div', { class: 'mb-row2' }, heading('Examples'), can.has('another') ? parts.next : null),
        make('div', { class: 'mb-cards' }, options.examples.map(([src, text], i) => make('button', { type: 'button', 'data-card': i, onclick: () => { ask('example', { number: i }); showTop(); } }, make('img', { src, alt: '' }), make('span', {}, text))))] : null,
      can.has('bring') ? [heading('Bring your own picture and caption'), parts.own] : null)), parts.live);

  function draw() {
    hidden = new Set(readPlaces(state.patches));
    words = new Set(readPlaces(state.words));
    if (cells.length !== state.grid[0] * state.grid[1] || columns !== state.grid[1]) buildGrid(state.grid);
    parts.grid.style.backgroundImage = `url("${shown.picture}")`;
    cells.forEach((_, i) => mark(i));
    if (parts.chips.dataset.now !== JSON.stringify([shown.chips, state.words])) {
      const inside = parts.chips.contains(document.activeElement);
      drawChips();
      parts.chips.dataset.now = JSON.stringify([shown.chips, state.words]);
      if (inside) parts.chips.children[Math.min(word, shown.chips.length - 1)]?.focus();
    }
    parts.story.textContent = shown.story ?? '';
    parts.next.textContent = shown.next ?? 'Next pair';  // or “Next scene”, where scenes are what comes next
    if (options.edits) parts.edit.replaceChildren(...(shown.edits ?? []).map((text) => make('option', { value: text }, text)));
    if (parts.edit.value !== state.edit) parts.edit.value = state.edit;
    ['picture', 'text'].forEach((side, i) => { const part = parts[side]; if (!part || waiting) return; part.range.value = shown.shares[i]; part.told.textContent = `${shown.shares[i]} %`; part.how.value = state.pattern[i]; });
    for (const name of ['numbers', 'raw', 'influence', 'untrained']) { if (parts[name]) parts[name].checked = state.view.includes(name); root.classList.toggle(`mb-${name}`, state.view.includes(name)); }
    parts.notes.replaceChildren(...shown.notes.map((text) => make('p', {}, text)),
      ...(state.view.includes('untrained') ? [make('p', { class: 'mb-null' }, 'Untrained model: the same model with random weights answers.')] : []));
    parts.honest.textContent = `${state.view.includes('raw') ? shown.honest.raw : shown.honest.pasted} ${shown.honest.statistics}`;
    parts.nats.hidden = !answer.state.words;
    parts.honest.hidden = parts.scale.hidden = !answer.shown.columns.with.raw;
    if (parts.model.length !== shown.models.length) parts.model.replaceChildren(...shown.models.map((name) => make('option', { value: name }, name)));
    parts.model.value = state.model;
    parts.model.hidden = shown.models.length < 2 || !can.has('model');
    for (const one of root.querySelectorAll('[data-choice]')) one.setAttribute('aria-pressed', Number(one.dataset.choice) === shown.choice);
    drawColumns();
    look(ring);
    ofWord({ target: document.activeElement });
    for (const area of [parts.edit, parts.caption]) if (area.tagName === 'TEXTAREA' && area.isConnected) grow(area);
  }
  el.replaceChildren(root);
  draw();
  if (!options.base) {
    const open = () => { if (location.hash.startsWith('#b=')) ask('open', { link: location.hash }); };
    window.addEventListener('hashchange', open, { signal: stop.signal });
    open();
  }
  new ResizeObserver(() => { for (const area of [parts.edit, parts.caption]) if (area.tagName === 'TEXTAREA' && area.isConnected) grow(area); }).observe(root);
  return { update, destroy() { stop.abort(); clearTimeout(lost); el.replaceChildren(); } };
}

// ---- hosts ----------------------------------------------------------------------------------------------------------------
export default {  // an anywidget: traits `answer`, `ask` and `options`
  render({ model, el }) {
    const board = mount(el, model.get('answer'), (ask) => { model.set('ask', ask); model.save_changes(); }, model.get('options'));
    const follow = () => board.update(model.get('answer'));
    model.on('change:answer', follow);
    return () => { model.off('change:answer', follow); board.destroy(); };
  },
};
export function gradio({ element, props, trigger, watch }, options) {  // gr.HTML: one value goes both ways
  const board = mount(element.querySelector('.mb-host'), props.value, (ask) => { props.value = ask; trigger('input'); }, options);
  watch('value', () => { if (props.value?.shown || props.value?.error) board.update(props.value); });
}
export function page(el, { first, stored, options }) {  // answers that were stored: the nearest one is shown
  let now = 0;
  const places = ({ patches, words }) => new Set([...readPlaces(patches).map((i) => `p${i}`), ...readPlaces(words).map((i) => `w${i}`)]);
  const sets = stored.map((one) => places(one.state)), without = (a, b) => [...a].filter((i) => !b.has(i));
  const apart = (a, b) => without(a, b).length + without(b, a).length;
  function nearest(wanted, before = wanted) {  // of those that do what was just asked, the most alike
    const more = without(wanted, before), less = without(before, wanted), all = sets.map((_, i) => i);
    const fits = all.filter((i) => more.every((p) => sets[i].has(p)) && less.every((p) => !sets[i].has(p)));
    return (fits.length ? fits : all).reduce((a, b) => (apart(sets[b], wanted) < apart(sets[a], wanted) ? b : a));
  }
  function reply({ state, kind, given, seq, source }) {
    let { edit, view } = state, notes = [];
    if (kind === 'choice') now = given.number;
    if (kind === 'hide') now = nearest(places(given), sets[now]);
    if (kind === 'open') {
      let other = null;
      try { other = readLink(given.link); } catch { /* said below */ }
      const same = other && JSON.stringify([other.scene, other.picture, other.caption]) === JSON.stringify([first.state.scene, first.state.picture, first.state.caption]);
      if (same) { now = nearest(places(other)); ({ edit, view } = other); }
      notes = [same ? 'The link was opened: the nearest stored answer is shown.' : 'The link holds no board, or another pair than this page has answers for.'];
    }
    const { edits, ...one } = stored[now], chosen = Object.hasOwn(edits, edit) ? edit : Object.keys(edits)[0] ?? '';
    view = (view ?? []).filter((name) => ['numbers', 'raw', 'influence'].includes(name));
    const shown = { ...first.shown, ...one.shown, influence: view.includes('influence') ? options.influence : null, notes: [...first.shown.notes, ...notes], edits: Object.keys(edits), choice: now, code: one.shown.code.replace(/^edit = .*$/m, () => `edit = ${chosen ? JSON.stringify(chosen) : 'None'}`), columns: { ...one.shown.columns, edited: edits[chosen] ?? null } };
    return { state: { ...one.state, edit: chosen, view }, shown, seq, source };
  }
  const start = reply({ state: first.state, kind: 'choice', given: { number: 0 } });
  const board = mount(el, start, (ask) => queueMicrotask(() => board.update(reply(ask))), options);
}
