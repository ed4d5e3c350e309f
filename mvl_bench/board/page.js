// The first page's own parts: the board, the columns and the row of examples. Gradio runs this once for each, with
// `element`, `props`, `trigger` and `watch` at hand. Python sends JSON as `props.value`; what a person typed is only ever
// text. A click changes fields of `props.value`, which Python reads.
const host = element.querySelector('.mb-host');
const list = (value) => value ?? [];

function make(tag, traits = {}, ...kids) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (name === 'style') for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else if (name === 'class') made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...kids.filter((kid) => kid !== null));
  return made;
}
const sides = ([rows, columns]) => ({ '--rows': rows, '--columns': columns });

// ---- the board -------------------------------------------------------------------------------------------------------
let timer = null, paint = null, at = 0, drawn = '';
const all = (kind) => [...element.querySelectorAll(`[data-${kind}]`)];
const pressed = (kind) => all(kind).filter((b) => b.getAttribute('aria-pressed') === 'true').map((b) => Number(b.dataset[kind]));

function board({ grid, picture, chips }) {
  const cells = Array.from({ length: grid[0] * grid[1] }, (_, i) => make('button', { type: 'button', 'data-patch': i,
    'aria-label': `patch in row ${Math.floor(i / grid[1]) + 1}, column ${i % grid[1] + 1}` }));
  const words = chips.map(({ position, text, known }) => make('button', { type: 'button', 'data-word': position,
    'aria-label': `word ${text}`, class: known ? 'mb-chip' : 'mb-chip mb-unknown' }, text));
  const style = { ...sides(grid), 'background-image': `url(${picture})` };
  host.replaceChildren(make('div', { class: 'mb-photo', role: 'group', 'aria-label': 'the picture', style }, ...cells),
    make('div', { class: 'mb-words', role: 'group', 'aria-label': 'the caption' }, ...words),
    make('span', { class: 'mb-live', 'aria-live': 'polite' }));
}
function press() {  // the buttons follow the value
  for (const [kind, field] of [['patch', 'patches'], ['word', 'words']]) {
    const hidden = new Set(list(props.value[field]));
    all(kind).forEach((b) => b.setAttribute('aria-pressed', hidden.has(Number(b.dataset[kind]))));
  }
  rove(Math.min(at, all('patch').length - 1));
}
function rove(to, focus = false) {  // one tab stop for the picture, arrows within it
  at = to;
  all('patch').forEach((b, i) => { b.tabIndex = i === at ? 0 : -1; });
  if (focus) all('patch')[at].focus();
}
function flip(button, to) {
  if (String(to) === button.getAttribute('aria-pressed')) return;
  button.setAttribute('aria-pressed', to);
  element.querySelector('.mb-live').textContent = `${button.getAttribute('aria-label')}, ${to ? 'hidden' : 'shown'}`;
  clearTimeout(timer);  // several quick clicks are one question
  timer = setTimeout(() => {
    props.value = { ...props.value, patches: pressed('patch'), words: pressed('word') };
    trigger('input');
  }, 60);
}

// ---- the columns -----------------------------------------------------------------------------------------------------
const percent = (p) => (p > 0 && p < 0.005 ? '<1 %' : p < 1 && p >= 0.995 ? '>99 %' : `${Math.round(100 * p)} %`);
const place = (i, columns) => `${Math.floor(i / columns) + 1} / ${i % columns + 1}`;

function outline(hidden, [, columns]) {  // a line around what was hidden
  const has = new Set(hidden);
  const open = (i) => [['t', i - columns], ['b', i + columns], ['l', i % columns ? i - 1 : -1],
    ['r', (i + 1) % columns ? i + 1 : -1]].filter(([, next]) => !has.has(next)).map(([side]) => side).join(' ');
  return hidden.map((i) => make('i', { class: open(i), style: { 'grid-area': place(i, columns) } }));
}
function guess({ truth, top, probability }) {  // a chip, and behind the switch the likeliest words
  const tone = (word, first) => (word === truth.toLowerCase() ? 'mb-good' : first ? 'mb-bad' : '');
  const rows = top.some(([word]) => word === truth.toLowerCase()) ? top : [...top, [truth.toLowerCase(), probability]];
  const bars = rows.map(([word, p], i) => make('li', { class: tone(word, i === 0), style: { '--p': p } },
    make('span', {}, word), make('span', {}, percent(p))));
  const best = tone(top[0][0], true);
  return make('div', { class: 'mb-guess' }, make('span', { class: `mb-chip ${best}` }, `${best === 'mb-good' ? '✓' : '✗'} ${top[0][0]}`),
    make('ol', { class: 'mb-bars mb-number' }, ...bars));
}
function score(name, value, base, digits) {
  if (value === null || value === undefined) return null;
  const change = base === null ? 0 : Number((value - base).toFixed(digits));
  return make('div', {}, name, make('b', {}, value.toFixed(digits)), make('span', { class: change < 0 ? 'mb-good' : 'mb-bad' },
    change ? `${change < 0 ? '▼' : '▲'} ${Math.abs(change).toFixed(digits)}` : ''));
}
function heat(errors, grid) {
  if (!errors) return null;
  const cells = errors.map((error, i) => error === null ? null : make('i', { title: `error ${error.toFixed(3)}`,
    style: { 'grid-area': place(i, grid[1]), '--error': error } }));
  return make('div', { class: 'mb-pic mb-heat', style: sides(grid) }, ...cells);
}
function titles({ columns, hidden_words: words, said }) {  // for each column its title, and what the model sees there
  const patches = list(columns.with.patches).length, hidden = new Set(words);
  const own = new Map(said.with), text = (part) => [[part, false]];
  const quote = (name) => said[name].map(([i, word]) => (hidden.has(i) && name !== 'wrong' ? ['▢▢▢', false]
    : [word, name === 'edited' && own.get(i) !== word]));
  const edited = ['with your edit', columns.edited.picture ? quote('edited') : text('Change a word under “Your edit”.')];
  if (words.length && !patches) return { with: ['with the picture', text('the whole picture')], edited,
    without: ['without it', text('only the rest of the caption')], wrong: ['with a wrong picture', text('the picture of another pair')] };
  if (words.length) return { with: ['with the other side', quote('with')], edited,
    without: ['without it', text('only the rest of the same side')], wrong: ['with a wrong one', quote('wrong')] };
  return { with: ['with the caption', quote('with')], edited,
    without: ['without it', text('only the rest of the picture')], wrong: ['with a wrong caption', quote('wrong')] };
}
function column(name, { picture, patches, errors, error, nats, guesses, truth }, [title, beside], { grid, columns: { without } }) {
  const told = beside.map(([text, changed]) => make(changed ? 'mark' : 'span', {}, text));
  const base = name === 'with' || name === 'wrong' ? without : { error: null, nats: null };  // an edit has another truth
  return make('figure', { class: `mb-column mb-${name}` },
    make('figcaption', {}, make('b', {}, title), ...told.flatMap((part, i) => (i && part.textContent !== ',' ? [' ', part] : [part]))),
    make('div', { class: picture ? 'mb-pic' : 'mb-pic mb-none', style: sides(grid) },
      picture ? make('img', { src: picture, alt: `the picture ${title}` }) : null, ...(picture ? outline(list(patches), grid) : [])),
    make('div', { class: 'mb-guesses' }, ...list(guesses).map(guess)),
    make('div', { class: 'mb-scores mb-number' }, ...[heat(errors, grid), score('mean error', error, base.error, 3),
      score('nats a word', nats, base.nats, 2)].filter(Boolean)),
    make('div', { class: 'mb-truth' }, ...(truth ? [make('img', { src: truth[1], alt: '' }), truth[0]] : [])));
}
function columns(value) {
  const about = titles(value);
  return make('div', { class: 'mb-columns' }, ...Object.entries(value.columns).map(([name, found]) => column(name, found, about[name], value)));
}

// ---- what is shown, and what a person does -----------------------------------------------------------------------------
function show() {
  const value = props.value;
  if (value?.columns) host.replaceChildren(columns(value));
  else if (value?.cards) host.replaceChildren(make('div', { class: 'mb-cards' }, ...value.cards.map(([src, text], i) =>
    make('button', { type: 'button', 'data-card': i }, make('img', { src, alt: '' }), make('span', {}, text)))));
  else if (value?.view) {
    const now = JSON.stringify(value.view);
    if (now !== drawn) board(value.view);
    drawn = now;
    press();
  }
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button?.dataset.card !== undefined) {
    props.value = { ...props.value, chosen: Number(button.dataset.card) };
    trigger('input');
  } else if (button && (button.dataset.word !== undefined || event.detail === 0 || event.pointerType === 'touch')) {
    flip(button, button.getAttribute('aria-pressed') !== 'true');
    if (button.dataset.patch !== undefined) rove(Number(button.dataset.patch));
  }
});
element.addEventListener('pointerdown', (event) => {  // a mouse or a pen also paints
  const button = event.target.closest('[data-patch]');
  if (!button || event.pointerType === 'touch' || event.button) return;
  event.preventDefault();
  rove(Number(button.dataset.patch), true);
  paint = button.getAttribute('aria-pressed') !== 'true';
  flip(button, paint);
});
element.addEventListener('pointerover', (event) => {
  const button = event.target.closest('[data-patch]');
  if (!event.buttons) paint = null;
  if (button && paint !== null) flip(button, paint);
});
window.addEventListener('pointerup', () => { paint = null; });
element.addEventListener('keydown', (event) => {
  if (event.target.dataset.patch === undefined) return;
  const wide = props.value.view.grid[1], row = at - at % wide;
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: row, End: row + wide - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (all('patch')[to]) rove(to, true);
});
show();
watch('value', show);
