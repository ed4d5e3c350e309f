// What all panels share: elements, the picture in patches, the caption in words, heat maps, charts and the two hosts.
// A panel is `build(page)`, which fills `page.left` and `page.right` once and returns `draw(shown)`; it reports a change of
// its controls with `page.ask(settings)`. What a person typed is only ever text.
const PATIENCE = 30000;  // milliseconds until a request counts as lost

function make(tag, traits = {}, ...kids) {
  const svg = ['svg', 'path', 'line', 'circle', 'text', 'rect', 'g', 'title', 'polyline'].includes(tag);
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (name === 'style') for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name.startsWith('aria-') || (value !== false && value !== null && value !== undefined)) made.setAttribute(name, value === true && !name.startsWith('aria-') ? '' : value);
  }
  made.append(...kids.flat(Infinity).filter((kid) => kid !== null && kid !== undefined));
  return made;
}
const NATS = 'nats: mean of −ln(probability of the true word); 0 = certain and right';
const percent = (value) => `${Math.round(100 * value)} %`;
const fixed = (value, digits = 2) => (value === null || value === undefined ? '–' : value.toFixed(digits));

// ---- controls -------------------------------------------------------------------------------------------------------------
function button(text, onclick, traits = {}) { return make('button', { type: 'button', class: 'mb-button', onclick, ...traits }, text); }
let numbered = 0;
function menu(label, choices, value, onpick) {  // choices: [value, text] pairs
  const id = `mb-menu-${++numbered}`;
  const select = make('select', { id, onchange: (event) => onpick(event.target.value) }, choices.map(([key, text]) => make('option', { value: key }, text)));
  select.value = value;
  const el = make('div', { class: 'mb-field' }, make('label', { for: id }, label), select);
  return { el, set(value) { select.value = value; }, fill(choices, value) { select.replaceChildren(...choices.map(([key, text]) => make('option', { value: key }, text))); select.value = value; } };
}
function slider(label, { min, max, step = 1, value, format = String, live = null }, onpick) {
  const id = `mb-range-${++numbered}`, told = make('output', { for: id }, format(value)), ends = make('p', { class: 'mb-ends', 'aria-hidden': 'true' });
  const range = make('input', { id, type: 'range', min, max, step, oninput: () => { told.textContent = format(Number(range.value)); live?.(Number(range.value)); }, onchange: () => onpick(Number(range.value)) });
  function limit(low, high) { range.min = low; range.max = high; ends.replaceChildren(...[low, high].map((end) => make('span', {}, format(end)))); }
  limit(min, max);
  range.value = value;
  return { el: make('div', { class: 'mb-slider' }, make('label', { for: id }, label), told, range, ends), range, limit,
    set(value) { range.value = value; told.textContent = format(Number(range.value)); } };
}
function switches(label, choices, value, onpick) {  // one of a few, as buttons side by side
  const all = choices.map(([key, text, title]) => button(text, () => { set(key); onpick(key); }, { title: title ?? null, 'data-key': key }));
  function set(value) { for (const one of all) one.setAttribute('aria-pressed', one.dataset.key === value); }
  set(value);
  return { el: make('div', { class: 'mb-field', role: 'group', 'aria-label': label }, make('span', { class: 'mb-label' }, label), make('div', { class: 'mb-switches' }, all)), set };
}

// ---- the picture, in patches -----------------------------------------------------------------------------------------------
// `draw({ url, grid, hidden, tint, marked })`: hidden patches are hatched unless `tint` (0..1 for each patch) colours them.
function patchGrid(label, { point = null, pick = null } = {}) {
  const el = make('div', { class: 'mb-grid', role: 'grid', 'aria-label': label });
  let cells = [], across = 0, at = 0, say = (i) => `row ${Math.floor(i / across) + 1}, column ${i % across + 1}`;
  const place = (event) => cells.indexOf(event.target.closest?.('.mb-cell'));
  if (point) {
    el.addEventListener('pointerover', (event) => { const i = place(event); if (i >= 0) point(i); });
    el.addEventListener('pointerleave', () => point(null));
    el.addEventListener('focusin', (event) => { const i = place(event); if (i >= 0) point(i); });
    el.addEventListener('focusout', () => point(null));
  }
  if (pick) el.addEventListener('click', (event) => { const i = place(event); if (i >= 0) pick(i); });
  el.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (step && cells[at + step]) { focus(at + step); event.preventDefault(); }
    if (pick && (event.key === ' ' || event.key === 'Enter')) { pick(at); event.preventDefault(); }
  });
  function focus(i) { cells[at].tabIndex = -1; at = i; cells[at].tabIndex = 0; cells[at].focus(); }
  function draw({ url, grid, hidden = new Set(), tint = null, marked = new Set(), note = null }) {
    if (cells.length !== grid[0] * grid[1] || across !== grid[1]) {
      across = grid[1]; at = 0;
      el.style.setProperty('--rows', grid[0]); el.style.setProperty('--across', grid[1]);
      cells = Array.from({ length: grid[0] * grid[1] }, (_, i) => make('div', { class: 'mb-cell', role: 'gridcell', tabindex: i ? -1 : 0 }));
      el.replaceChildren(...Array.from({ length: grid[0] }, (_, row) => make('div', { class: 'mb-row', role: 'row' }, cells.slice(row * across, (row + 1) * across))));
    }
    if (url) el.style.backgroundImage = `url("${url}")`;
    cells.forEach((cell, i) => {
      cell.classList.toggle('mb-on', hidden.has(i));
      cell.classList.toggle('mb-marked', marked.has(i));
      cell.style.setProperty('--tint', tint?.[i] ?? 0);
      cell.setAttribute('aria-label', `${say(i)}${hidden.has(i) ? ', hidden' : ''}${note?.(i) ? `, ${note(i)}` : ''}`);
      cell.setAttribute('aria-selected', marked.has(i));
    });
    el.classList.toggle('mb-tinted', Boolean(tint));
  }
  return { el, draw };
}

// ---- the caption, in words -------------------------------------------------------------------------------------------------
// `draw([{ text, hidden, tint, marked, note, mood }])`; a word that can be picked or pointed at is a button.
function wordChips(label, { point = null, pick = null } = {}) {
  const el = make('div', { class: 'mb-chips', role: 'group', 'aria-label': label });
  const chips = () => [...el.children];
  if (point) {
    for (const name of ['pointerover', 'focusin']) el.addEventListener(name, (event) => { const i = chips().indexOf(event.target.closest?.('.mb-chip')); if (i >= 0) point(i); });
    for (const name of ['pointerleave', 'focusout']) el.addEventListener(name, () => point(null));
  }
  if (pick) el.addEventListener('click', (event) => { const i = chips().indexOf(event.target.closest?.('.mb-chip')); if (i >= 0) pick(i); });
  function draw(words) {
    const kind = point || pick ? 'button' : 'span';
    if (el.children.length !== words.length) el.replaceChildren(...words.map(() => make(kind, kind === 'button' ? { type: 'button', class: 'mb-chip' } : { class: 'mb-chip' })));
    chips().forEach((chip, i) => {
      const { text, hidden = false, tint = 0, marked = false, note = '', mood = '' } = words[i];
      if (chip.textContent !== text) chip.textContent = text;
      chip.className = `mb-chip${hidden ? ' mb-hidden' : ''}${marked ? ' mb-marked' : ''}${mood ? ` mb-${mood}` : ''}`;
      chip.style.setProperty('--tint', tint);
      if (kind === 'button') chip.setAttribute('aria-pressed', marked);
      chip.title = note;
    });
    el.classList.toggle('mb-tinted', words.some((word) => word.tint));
  }
  return { el, draw };
}

// ---- pictures, heat maps, bars ----------------------------------------------------------------------------------------------
function picture(url, alt, fine = false) { return make('img', { class: `mb-picture${fine ? ' mb-fine' : ''}`, src: url, alt }); }
function heatMap(label) {  // `draw(values, grid, most)`: null = not hidden; the scale is 0..most for all models
  const canvas = make('canvas', { class: 'mb-heat', role: 'img', 'aria-label': label });
  function draw(values, grid, most) {
    [canvas.height, canvas.width] = grid;
    canvas.style.setProperty('--rows', grid[0]); canvas.style.setProperty('--across', grid[1]);
    const pen = canvas.getContext('2d');
    values.forEach((value, i) => {
      if (value === null) return;
      pen.fillStyle = value > 0 ? `rgb(200 50 120 / ${0.3 + 0.7 * Math.min(1, value / most)})` : 'rgb(128 134 145 / 0.24)';  // the pale end is seen on light and dark
      pen.fillRect(i % grid[1], Math.floor(i / grid[1]), 1, 1);
    });
  }
  return { el: canvas, draw };
}
function scaleKey(low, high, what = '') { return make('p', { class: 'mb-scale' }, what ? `${what}: ` : '', low, ' ', make('i'), ' ', high); }
function bars(rows) {  // [{ text, value 0..1, mood }]
  return make('ol', { class: 'mb-bars' }, rows.map(({ text, value, mood = '' }) => make('li', { class: mood ? `mb-${mood}` : '', style: { '--p': value } }, make('span', {}, text), make('span', {}, percent(value)))));
}
function figure(title, about, ...content) { return make('figure', { class: 'mb-figure' }, make('figcaption', {}, make('b', {}, title), about), content); }

function upTo(most) {  // an axis from 0 with round ticks, for `chart`
  const power = 10 ** Math.floor(Math.log10(most / 4 || 1)), step = power * [1, 2, 5, 10].find((times) => times * power >= most / 4 - 1e-12), count = Math.max(1, Math.ceil(most / step - 1e-9));
  return { min: 0, max: step * count, count };
}
// ---- a chart ------------------------------------------------------------------------------------------------------------------
// x, y: { label, min, max, format }; lines: [{ points, tone, dashed, title }]; bands: [{ points of [x, low, high], tone }];
// dots: [{ x, y, tone, title, size, pick, low, high }]; rules: [{ x or y, text }]
function chart({ label, x, y, lines = [], bands = [], dots = [], rules = [], width = 420, height = 260, pick = null }) {
  const pad = { left: 46, right: 14, top: 12, bottom: 40 }, wide = width - pad.left - pad.right, high = height - pad.top - pad.bottom;
  const right = (value) => pad.left + wide * (value - x.min) / ((x.max - x.min) || 1), up = (value) => pad.top + high * (1 - (value - y.min) / ((y.max - y.min) || 1));
  const text = (at, content, traits) => make('text', { x: at[0], y: at[1], ...traits }, content);
  const ticks = ({ min, max, count = 4 }) => Array.from({ length: count + 1 }, (_, i) => min + (max - min) * i / count);
  const format = (axis, value) => (axis.format ?? ((v) => `${Math.round(v * 100) / 100}`))(value);
  const path = (points) => points.map(([a, b], i) => `${i ? 'L' : 'M'}${right(a).toFixed(1)} ${up(b).toFixed(1)}`).join('');
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, class: 'mb-chart', role: 'img', 'aria-label': label },
    ticks(y).map((value) => [make('line', { class: 'mb-gridline', x1: pad.left, x2: width - pad.right, y1: up(value), y2: up(value) }), text([pad.left - 6, up(value) + 4], format(y, value), { 'text-anchor': 'end' })]),
    ticks(x).map((value, i, all) => text([right(value), height - pad.bottom + 16], format(x, value), { 'text-anchor': i === all.length - 1 ? 'end' : i ? 'middle' : 'start' })),
    text([pad.left + wide / 2, height - 6], x.label, { 'text-anchor': 'middle', class: 'mb-axis' }),
    text([12, pad.top + high / 2], y.label, { 'text-anchor': 'middle', class: 'mb-axis', transform: `rotate(-90 12 ${pad.top + high / 2})` }),
    bands.map(({ points, tone = 'accent' }) => make('path', { class: `mb-band mb-tone-${tone}`, d: `${path(points.map(([a, low]) => [a, low]))}${path([...points].reverse().map(([a, , high]) => [a, high])).replace('M', 'L')}Z` })),
    rules.map((rule) => 'x' in rule ? [make('line', { class: 'mb-rule', x1: right(rule.x), x2: right(rule.x), y1: pad.top, y2: pad.top + high }), text([right(rule.x) + 4, pad.top + 11], rule.text ?? '', { class: 'mb-axis' })]
      : [make('line', { class: 'mb-rule', x1: pad.left, x2: pad.left + wide, y1: up(rule.y), y2: up(rule.y) }), text([pad.left + wide, up(rule.y) - 4], rule.text ?? '', { class: 'mb-axis', 'text-anchor': 'end' })]),
    lines.map(({ points, tone = 'accent', dashed = false, title = '' }) => make('path', { class: `mb-curve mb-tone-${tone}${dashed ? ' mb-dashed' : ''}`, d: points.length ? path(points) : '' }, title ? make('title', {}, title) : null)),
    dots.map(({ x: a, y: b, tone = 'accent', title = '', size = 4, low = null, high: most = null, pick: chosen = null }) => [
      low === null ? null : make('line', { class: `mb-whisker mb-tone-${tone}`, x1: right(a), x2: right(a), y1: up(low), y2: up(most) }),
      make('circle', { class: `mb-dot mb-tone-${tone}${chosen ? ' mb-pickable' : ''}`, cx: right(a), cy: up(b), r: size, onclick: chosen ? (event) => { event.stopPropagation(); chosen(); } : () => {} }, title ? make('title', {}, title) : null)]));
  if (pick) svg.addEventListener('click', (event) => {  // where in the chart, in its units
    const box = svg.getBoundingClientRect(), a = (event.clientX - box.left) / box.width * width, b = (event.clientY - box.top) / box.height * height;
    pick(x.min + (x.max - x.min) * (a - pad.left) / wide, y.min + (y.max - y.min) * (1 - (b - pad.top) / high));
  });
  return svg;
}

// ---- the page of a panel ---------------------------------------------------------------------------------------------------
// `mount(el, build, first, emit)`: what comes in is { settings, shown, seq } or { error, seq }; what goes out is { settings, seq }.
function mount(el, build, first, emit) {
  const root = make('div', { class: 'mb mb-panel', 'data-lm-suppress-shortcuts': true }), notes = make('div', { class: 'mb-notes', role: 'status' });
  const title = make('h2', { class: 'mb-heading' }), about = make('p', { class: 'mb-how' }), answers = make('p', { class: 'mb-answers' });
  const page = { left: make('div', { class: 'mb-left' }), right: make('div', { class: 'mb-right' }), settings: {}, ask };
  let seq = 0, waiting = 0, next = null, lost = null, draw = null;
  root.append(title, about, answers, notes, make('div', { class: 'mb-main' }, page.left, page.right));
  el.replaceChildren(root);
  function ask(settings) {  // one request is in flight; of those that wait, the newest goes next
    page.settings = { ...page.settings, ...settings };
    if (waiting && !settings.stop) { next = page.settings; return; }  // a stop does not wait
    send();
  }
  function send() {
    waiting = ++seq;
    next = null;
    root.classList.add('mb-busy');
    wait();
    emit({ settings: page.settings, seq });
  }
  function wait() {
    clearTimeout(lost);
    lost = setTimeout(() => { waiting = 0; root.classList.remove('mb-busy'); tell('No response: the server is busy or disconnected.'); }, PATIENCE);
  }
  function tell(text) { notes.replaceChildren(make('p', { class: 'mb-error' }, text)); }
  function update(value) {
    if (!value || (value.seq !== undefined && value.seq < waiting)) return;  // an old answer
    const more = value.more === true;  // of an answer that comes in parts
    if (more && waiting) wait();
    else { waiting = 0; clearTimeout(lost); root.classList.remove('mb-busy'); }
    if (next) { send(); return; }
    const shown = value.shown ?? {};
    if (value.settings) page.settings = value.settings;
    if (value.title) { title.textContent = value.title; about.textContent = value.about; }
    page.right.hidden = page.left.hidden = Boolean(value.error) && !draw;
    if (value.error || value.waiting) { tell(value.error ?? value.waiting); return; }
    if (!value.shown) { answers.textContent = 'Computing …'; return; }
    answers.textContent = shown.answers ?? '';
    notes.replaceChildren(...(shown.notes ?? []).map((text) => make('p', {}, text)));
    draw ??= build(page);
    draw(shown, page.settings);
  }
  page.tell = tell;
  update(first);
  return { update, destroy() { clearTimeout(lost); el.replaceChildren(); } };
}
function gradioHost({ element, props, trigger, watch }, build) {  // gr.HTML: one value goes both ways
  const panel = mount(element.querySelector('.mb-host'), build, props.value, (request) => { props.value = request; trigger('input'); });
  watch('value', () => { if (props.value?.shown || props.value?.error || props.value?.waiting) panel.update(props.value); });
}
const widgetHost = (build) => ({  // an anywidget: traits `answer` and `ask`
  render({ model, el }) {
    const panel = mount(el, build, model.get('answer'), (request) => { model.set('ask', request); model.save_changes(); });
    const follow = () => panel.update(model.get('answer'));
    model.on('change:answer', follow);
    return () => { model.off('change:answer', follow); panel.destroy(); };
  },
});
