// Influence: point at a word or a patch and see, in the other modality, what it helps to predict; both directions at once.
function build(page) {
  let shown = null, over = null, kept = null;  // [kind, index]
  const grid = patchGrid('the picture, in patches', { point: (i) => look(i === null ? null : ['patch', i]), pick: (i) => keep(['patch', i]) });
  const chips = wordChips('the caption, in words', { point: (i) => look(i === null ? null : ['word', i]), pick: (i) => keep(['word', i]) });
  const say = make('p', { class: 'mb-say', role: 'status' });
  const free = button('Release', () => keep(kept), { hidden: true });
  const tables = make('div', { class: 'mb-ways' });
  page.left.append(grid.el, chips.el, say, free);
  page.right.append(tables);
  const same = (a, b) => a && b && a[0] === b[0] && a[1] === b[1];
  const scaled = (value, way) => Math.min(1, Math.max(0, value) / way.scale);
  const counts = (value, way) => value !== null && !shown.outside && value > way.floor;
  const words = ([kind, i]) => (kind === 'word' ? `“${shown.words[i].text}”` : `the patch in row ${Math.floor(i / shown.grid[1]) + 1}, column ${i % shown.grid[1] + 1}`);
  const short = { to_patches: fixed, to_words: (value) => `${Math.round(100 * value)} points` }, amount = { to_patches: (value) => `${fixed(value)} of the pixel range`, to_words: (value) => `${Math.round(100 * value)} percentage points` };
  function column(way, chosen) { return chosen[0] === 'word' ? way.helped[chosen[1]] : way.helped.map((row) => row[chosen[1]]); }
  function look(target) { over = target; draw(); }
  function keep(target) { kept = same(kept, target) ? null : target; draw(); }
  function sentence(target) {
    if (!target) return 'Point at a word or at a patch; click it to keep it.';
    const parts = [];
    const hidden = target[0] === 'word' ? shown.words[target[1]].hidden : shown.hidden.includes(target[1]);
    for (const [name, what] of [['to_patches', 'patches'], ['to_words', 'words']]) {
      const way = shown[name];
      if (!way) continue;
      const gives = (name === 'to_patches') === (target[0] === 'word'), values = column(way, target).filter((value) => value !== null), most = Math.max(0, ...values), strong = values.filter((value) => counts(value, way)).length;
      if (!values.length || (hidden === gives && !way.all)) continue;
      if (gives) parts.push(strong ? `${words(target)} helps to predict ${strong} hidden ${what}, by up to ${amount[name](most)}` : `${words(target)} has no effect on hidden ${what} above the noise floor`);
      else parts.push(strong ? `${words(target)} depends on ${strong} ${name === 'to_patches' ? 'words' : 'patches'}, by up to ${amount[name](most)}` : `${words(target)} depends on no ${name === 'to_patches' ? 'word' : 'patch'} above the noise floor`);
    }
    return parts.length ? `${parts.join('; ')}.` : `${words(target)} is ${hidden ? 'hidden' : 'visible'}: nothing is measured for it here.`;
  }
  function draw() {
    const target = over ?? kept, tint = Array(shown.grid[0] * shown.grid[1]).fill(0), wordTint = shown.words.map(() => 0);
    if (target) for (const name of ['to_patches', 'to_words']) {
      const way = shown[name];
      if (!way) continue;
      column(way, target).forEach((value, i) => {
        if (!counts(value, way)) return;
        if (target[0] === 'word') tint[i] = Math.max(tint[i], scaled(value, way)); else wordTint[i] = Math.max(wordTint[i], scaled(value, way));
      });
    }
    const marked = new Set(target?.[0] === 'patch' ? [target[1]] : kept?.[0] === 'patch' ? [kept[1]] : []);
    grid.draw({ url: shown.picture, grid: shown.grid, hidden: new Set(shown.hidden), tint, marked });
    chips.draw(shown.words.map((word, i) => ({ ...word, tint: wordTint[i], marked: (target?.[0] === 'word' && target[1] === i) || (kept?.[0] === 'word' && kept[1] === i) })));
    say.textContent = sentence(target);
    free.hidden = !kept;
  }
  function overview(name, title, about) {
    const way = shown[name];
    if (!way) return make('section', {}, make('h3', { class: 'mb-heading' }, title), make('p', { class: 'mb-how' }, shown.lacks));
    const rows = shown.words.map((word, i) => {
      const values = way.helped[i].filter((value) => value !== null), most = values.length ? Math.max(...values) : null;
      return { word, i, most, map: way.helped[i], strong: most !== null && counts(most, way) };
    }).filter(({ most, word }) => most !== null && (way.all || word.hidden === (name === 'to_words')));
    return make('section', {}, make('h3', { class: 'mb-heading' }, title), make('p', { class: 'mb-how' }, about),
      rows.length ? make('div', { class: 'mb-figures mb-small' }, rows.map(({ word, i, most, map, strong }) => {
        const heat = heatMap(`${word.text}: ${strong ? `up to ${amount[name](most)}` : 'no effect'}`);
        heat.draw(map.map((value) => (value === null ? null : counts(value, way) ? value : 0)), shown.grid, way.scale);
        const el = figure(`“${word.text}”`, strong ? `up to ${short[name](most)}` : 'no effect', heat.el);
        el.classList.toggle('mb-flat', !strong);
        el.addEventListener('pointerenter', () => look(['word', i])); el.addEventListener('pointerleave', () => look(null));
        return el;
      })) : make('p', { class: 'mb-say mb-none' }, name === 'to_patches' ? 'No word is visible.' : 'No word is hidden.'),
      make('p', { class: 'mb-scale' }, `helps by 0 `, make('i'), ` ${amount[name](way.scale)}${name === 'to_words' ? ' of probability' : ''} and more. `, way.measured ? `Noise floor of this model: ${amount[name](way.floor)}.` : 'The noise floor of this model is not known: its training data is not here.'));
  }
  return (value) => {
    if (shown && (shown.picture !== value.picture || shown.words.length !== value.words.length)) kept = over = null;
    shown = value;
    tables.replaceChildren(
      overview('to_patches', 'Words that help to predict hidden patches', shown.to_patches?.all ? 'No patch is hidden on the board: quarters of the picture are hidden in turn.' : 'Each visible word is hidden in turn, too: how much larger does the error of a hidden patch become?'),
      overview('to_words', 'Patches that help to predict hidden words', shown.to_words?.all ? 'No word is hidden on the board: every fourth word is hidden in turn.' : 'Each visible patch is hidden in turn, too: how many percentage points of probability does a hidden word lose?'));
    draw();
  };
}
