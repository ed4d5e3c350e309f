// Compare models: rows are models, columns are what each sees beside what is hidden; what a model lacks is said in its cell.
const EDITED = 'Error with your edit: against the scene redrawn from the edit.';
const CHANGE = 'Change: how far the filled-in patches move from the first column; the edit has no picture to compare with.';
function build(page) {
  const source = patchGrid('the picture, with what is hidden'), caption = wordChips('the caption'), choice = make('fieldset', { class: 'mb-choice' });
  const compared = make('div', { class: 'mb-compared' }), heads = make('div', { class: 'mb-heads', 'aria-hidden': 'true' }), rows = make('div', { class: 'mb-models' }), verdict = make('div', { class: 'mb-says', role: 'status' }), open = new Map();
  page.left.append(make('p', { class: 'mb-label' }, 'Input'), source.el, caption.el, choice);
  page.right.append(verdict, heads, rows, compared);
  let shown = null;

  // ---- what the columns are -----------------------------------------------------------------------------------------------
  function columns() {  // [name, title, what the model sees there]
    const image = shown.modality.includes('image'), text = shown.modality.includes('text'), both = image && text, wrong = `“${shown.wrong.caption}”`;
    const side = image ? 'caption' : 'picture';
    const all = [['with', both ? 'Together' : `With the ${side}`, both ? 'both modalities, as they stand' : image ? 'the caption as it stands' : 'the whole picture'],
      ['without', both ? 'Each alone' : `Without the ${side}`, both ? 'patches from the picture, words from the caption' : image ? 'only the rest of the picture' : 'only the rest of the caption'],
      ['wrong', both ? 'With a wrong partner' : `With a wrong ${side}`, image ? (both ? `of the pair ${wrong}` : wrong) : `the picture of ${wrong}`]];
    return shown.edit ? [...all, ['edited', 'With your edit', `“${shown.edit}”`]] : all;
  }

  // ---- a cell -------------------------------------------------------------------------------------------------------------
  function load(url) { return new Promise((done) => { const one = new Image(); one.onload = () => done(one); one.src = url; }); }
  function filled(row, cell, label) {  // the picture, with what the model predicts where it is hidden
    const canvas = make('canvas', { role: 'img', 'aria-label': label }), [high, wide] = row.size, pen = canvas.getContext('2d'), hidden = new Set(row.hidden);
    [canvas.height, canvas.width] = [high, wide];
    const side = [wide / row.grid[1], high / row.grid[0]], at = (i) => [i % row.grid[1], Math.floor(i / row.grid[1])];
    Promise.all([load(row.picture), load(cell.raw)]).then(([base, raw]) => {
      pen.drawImage(base, 0, 0, wide, high);
      for (const i of row.hidden) { const [x, y] = at(i), box = [x * side[0], y * side[1], ...side]; pen.drawImage(raw, ...box, ...box); }
    });
    const edges = row.hidden.flatMap((i) => { const [x, y] = at(i), free = (dx, dy) => x + dx < 0 || x + dx >= row.grid[1] || y + dy < 0 || y + dy >= row.grid[0] || !hidden.has(i + dx + dy * row.grid[1]);
      return [free(0, -1) && `M${x} ${y}h1`, free(0, 1) && `M${x} ${y + 1}h1`, free(-1, 0) && `M${x} ${y}v1`, free(1, 0) && `M${x + 1} ${y}v1`].filter(Boolean); }).join('');
    const line = make('svg', { viewBox: `0 0 ${row.grid[1]} ${row.grid[0]}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, make('path', { d: edges }), make('path', { d: edges }));
    return make('div', { class: 'mb-pic', style: { '--across': row.grid[1], '--rows': row.grid[0] } }, canvas, make('span', { class: 'mb-line' }, line));
  }
  function guesses(cell) {  // of each hidden word, the likeliest and the true one
    const few = cell.guesses.length < 4;
    return cell.guesses.map(({ truth, probability, top, known }) => {
      const best = top.slice(0, few ? 3 : 1), is = (text) => text.replace(/^##/, '').replace(/^[Ġ▁]/, '').toLowerCase() === truth.toLowerCase();
      const plain = (text) => text.replace(/^##/, '').replace(/^[Ġ▁]/, '');
      const list = best.map(([text, value]) => ({ text: few ? plain(text) : `${truth} → ${plain(text)}`, value, mood: is(text) ? 'good' : '' }));
      if (few && !best.some(([text]) => is(text))) list.push({ text: truth, value: probability, mood: 'good' });
      return make('div', { class: 'mb-answer-of' }, few ? make('p', { class: 'mb-asked' }, 'hidden: ', make('b', {}, truth), known ? '' : ' (not in its vocabulary)') : null, bars(list));
    });
  }
  function score(cell) {
    const parts = [];
    if (cell.error !== null) parts.push([cell.moved ? make('abbr', { title: EDITED }, 'error') : 'error', fixed(cell.error, 3)]);
    if (cell.change !== undefined && cell.change !== null) parts.push([make('abbr', { title: CHANGE }, 'change'), fixed(cell.change, 3)]);
    if (cell.nats !== null) parts.push([make('abbr', { title: NATS }, 'nats'), fixed(cell.nats, 2)]);
    return parts.map(([name, value]) => make('p', { class: 'mb-score' }, name, ' ', make('b', {}, value)));
  }
  function cell(row, [name, title, beside]) {
    const one = row.columns[name], image = shown.modality.includes('image'), text = shown.modality.includes('text');
    const head = make('figcaption', { class: 'mb-cell-head' }, make('b', {}, title), beside);
    const none = (words) => make('p', { class: 'mb-absent' }, words);
    const pixels = !image ? null : row.missing.pixels ? none(row.missing.pixels) : one?.raw && row.hidden.length ? filled(row, one, `${row.name}, ${title}: the hidden area filled in`) : none('no patch is hidden at its size');
    const said = !text ? null : row.missing.words ? none(row.missing.words) : one?.guesses.length ? make('div', {}, guesses(one)) : none('no word is hidden in its tokens');
    return make('figure', { class: 'mb-result' }, head, pixels, said, one ? make('div', {}, score(one)) : null);
  }

  // ---- a row --------------------------------------------------------------------------------------------------------------
  function model(row, all) {
    const facts = row.of ? [`random weights, built as ${row.of}`] : [`trained on ${row.data}`];
    facts.push(`predicts ${row.predicts}`, `${row.size[0]} × ${row.size[1]} pixels, ${row.grid[0]} × ${row.grid[1]} patches`);
    const title = row.of ? 'untrained model' : row.name, narrow = page.left.parentElement.clientWidth < 640;  // there, what says nothing about a model is folded
    const head = make('summary', { class: 'mb-model-head' }, make('h3', { class: 'mb-heading' }, title), row.outside ? make('span', { class: 'mb-badge' }, 'outside its training data') : null, make('p', { class: 'mb-how' }, facts.join(' · ')), row.lacks ? make('p', { class: 'mb-how' }, row.lacks) : null, row.note ? make('p', { class: 'mb-how' }, row.note) : null);
    const answered = Object.keys(row.columns).length > 0;
    const fold = make('details', { open: open.get(row.name) ?? !(narrow && row.outside) }, head,
      answered ? make('div', { class: 'mb-results' }, all.map((column) => cell(row, column))) : make('p', { class: 'mb-absent' }, row.note || `Not answered here: it ${Object.values(row.missing).join(' and ')}.`));
    head.addEventListener('click', () => open.set(row.name, !fold.open));  // kept while other rows arrive
    return make('article', { class: `mb-model${row.outside ? ' mb-outside' : ''}`, 'aria-label': `${title}${row.outside ? ', outside its training data' : ''}` }, fold);
  }
  function choose() {
    const boxes = shown.names.map((name) => {
      const box = make('input', { type: 'checkbox', value: name });
      box.checked = shown.chosen.includes(name);
      box.addEventListener('change', () => page.ask({ models: [...choice.querySelectorAll('input:checked')].map((one) => one.value) }));
      return make('label', { class: 'mb-toggle' }, box, name === 'untrained' ? 'untrained model' : name);
    });
    const known = [...choice.querySelectorAll('input')];
    if (known.length === shown.names.length && known.every((box, i) => box.value === shown.names[i])) known.forEach((box) => { box.checked = shown.chosen.includes(box.value); });
    else choice.replaceChildren(make('legend', { class: 'mb-label' }, 'Models'), ...boxes);
  }
  return (value) => {
    shown = value;
    const all = columns();
    source.draw({ url: value.picture, grid: value.grid, hidden: new Set(value.hidden) });
    caption.draw(value.words);
    choose();
    page.right.style.setProperty('--columns', all.length);
    heads.replaceChildren(...all.map(([, title, beside]) => make('div', {}, make('b', {}, title), make('span', {}, beside))));
    rows.replaceChildren(...value.rows.map((row) => model(row, all)));
    const outside = value.rows.filter((row) => row.outside).length;
    verdict.replaceChildren(...value.verdict.map((text) => make('p', { class: 'mb-say' }, make('b', {}, text.split(':')[0], ':'), text.slice(text.indexOf(':') + 1))));
    const edited = value.rows.map((row) => row.columns.edited ?? {}), said = [edited.some((one) => one.moved) && EDITED, edited.some((one) => (one.change ?? null) !== null) && CHANGE].filter(Boolean);
    compared.replaceChildren(...[...value.compared, ...said].map((text) => make('p', { class: 'mb-how' }, text)),
      outside ? make('p', { class: 'mb-how' }, 'Grey rows: the pair lies outside the training data of the model, so its answers say nothing about how good it is.') : '',
      make('p', { class: 'mb-how' }, 'Within the dashed line is the output of the model; the rest is the picture itself.', value.edit ? '' : ' Edit the caption on the board to add a column.'));
  };
}
