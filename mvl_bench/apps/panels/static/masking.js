// Masking: samples of every strategy on the pair of the board, and what many samples have in common.
function build(page) {
  const { ask, settings } = page, source = masked('the picture'), caption = make('div', { class: 'mb-tokens' }), cut = make('p', { class: 'mb-how' });
  const modality = switches('Masked modality', [['image', 'Image'], ['text', 'Text'], ['both', 'Both jointly']], settings.modality ?? 'image', (value) => ask({ modality: value }));
  const ratio = slider('Mask ratio', { min: 0, max: 100, step: 5, value: settings.ratio ?? 50, format: (value) => `${value} %` }, (value) => ask({ ratio: value }));
  let seed = 0;
  const rounded = make('p', { class: 'mb-how' });
  const again = button('Resample', () => ask({ seed: seed + 1 }), { title: 'draw other samples' });
  const cards = make('div', { class: 'mb-strategies' }), missing = make('p', { class: 'mb-say mb-none' }), read = make('p', { class: 'mb-how' });
  page.left.append(make('p', { class: 'mb-label' }, 'Input'), source.el, caption, cut, modality.el, ratio.el, rounded, again);
  page.right.append(read, cards, missing);

  // ---- a picture with hidden patches, a caption with hidden pieces --------------------------------------------------------
  function masked(label) {
    const canvas = make('canvas'), el = make('div', { class: 'mb-masked', role: 'img', 'aria-label': label }, canvas);
    function draw(url, grid, hidden) {
      const cell = 16, pen = canvas.getContext('2d');
      [canvas.height, canvas.width] = grid.map((side) => side * cell);
      el.style.backgroundImage = `url("${url}")`;
      el.style.aspectRatio = `${grid[1]} / ${grid[0]}`;
      if (!hidden.length) return;
      const [fill, hatch] = ['--hidden', '--hatch'].map((name) => getComputedStyle(page.right).getPropertyValue(name).trim() || '#bcc0c6');
      const at = (i) => [i % grid[1] * cell, Math.floor(i / grid[1]) * cell];
      pen.beginPath();
      for (const i of hidden) pen.rect(...at(i), cell, cell);
      pen.clip();
      pen.fillStyle = fill; pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.strokeStyle = hatch; pen.lineWidth = 2; pen.beginPath();
      for (let x = -canvas.height; x < canvas.width; x += 8) { pen.moveTo(x, canvas.height); pen.lineTo(x + canvas.height, 0); }
      pen.stroke();
      pen.strokeStyle = '#646b77'; pen.lineWidth = 1; pen.beginPath();
      for (const i of hidden) pen.rect(...at(i), cell, cell);
      pen.stroke();
    }
    return { el, draw };
  }
  function tokens(words, look) {  // a word is a chip of its pieces; `look(token)`: { hidden, share }
    return words.map((pieces) => make('span', { class: `mb-chip mb-pieces${pieces.length > 1 ? ' mb-cut' : ''}` }, pieces.map(({ text, tokens: places }) => {
      const { hidden = false, share = null } = look(places);
      return make('span', { class: `mb-piece${hidden ? ' mb-gone' : ''}`, style: share === null ? {} : { '--p': share } }, text, share === null ? null : make('small', {}, percent(share)), hidden ? make('span', { class: 'mb-live' }, ' (hidden)') : null);
    })));
  }
  const sentence = (hidden) => make('div', { class: 'mb-tokens' }, tokens(shown.caption, (places) => ({ hidden: places.some((place) => hidden.includes(place)) })));
  function image(hidden, name) {
    const one = masked(hidden.length ? `${name}: ${hidden.length} of ${shown.grid[0] * shown.grid[1]} patches hidden` : `${name}: no patch hidden`);
    one.draw(shown.picture, shown.grid, hidden);
    return one.el;
  }

  // ---- the examples of a strategy -----------------------------------------------------------------------------------------
  function views(strategy) {  // [heading, hidden patches, hidden words]
    if (strategy.views === 1) return strategy.examples.map((one, i) => [`Example ${i + 1}`, one.patches, one.words]);
    return strategy.examples.slice(0, 2).flatMap((one, i) => [[`Example ${i + 1}, view 1: image`, one.patches, []], [`Example ${i + 1}, view 2: text`, [], one.words]]);
  }
  function examples(strategy) {
    if (shown.modality === 'image') return make('div', { class: 'mb-three' }, strategy.examples.map(({ patches }, i) => image(patches, `${strategy.name}, example ${i + 1}`)));
    if (shown.modality === 'text') return make('ol', { class: 'mb-sentences', role: 'list' }, strategy.examples.map(({ words }) => make('li', {}, sentence(words))));
    return make('div', { class: 'mb-two' }, views(strategy).map(([heading, patches, words]) => make('div', { class: 'mb-view-of' }, make('span', { class: 'mb-count' }, heading), image(patches, `${strategy.name}, ${heading}`), sentence(words))));
  }

  // ---- distributions over all samples -------------------------------------------------------------------------------------
  function histogram(title, table, { min, max, bins, ends, rule = null, unit, of = 'samples', tone = 'accent' }) {  // heights: shares of `of`
    const heights = Array(bins).fill(0), values = Object.entries(table).map(([value, share]) => [Number(value), share]);
    for (const [value, share] of values) heights[Math.min(bins - 1, Math.floor((value - min) / (max - min || 1) * bins))] += share;
    const total = values.reduce((sum, [, share]) => sum + share, 0), mean = values.reduce((sum, [value, share]) => sum + value * share, 0) / (total || 1), most = Math.max(...heights, 1e-9);
    const told = !values.length ? 'nothing hidden' : values.length === 1 ? `always ${unit(values[0][0], true)}` : `mean ${unit(mean)}`, axis = upTo(100 * most);
    const bars = make('div', { class: `mb-columns-of mb-tone-${tone}`, role: 'img', 'aria-label': `${title}: ${told}` }, heights.map((height) => make('i', { style: { '--h': 100 * height / axis.max } })), rule === null ? null : make('b', { style: { '--x': rule } }));
    return make('div', { class: 'mb-histogram' }, make('p', { class: 'mb-count' }, make('b', {}, title), `% of ${of}`), make('div', { class: 'mb-plot' }, make('p', { class: 'mb-yaxis', 'aria-hidden': 'true' }, [axis.max, 0].map((tick) => make('span', {}, `${Math.round(10 * tick) / 10}`))), bars), make('p', { class: 'mb-ends' }, ends.map((end) => make('span', {}, end))), make('p', { class: 'mb-sum' }, told));
  }
  const counted = (value, part) => { const all = part === 'word' ? tokensOf() : shown.grid[0] * shown.grid[1], count = value * all; return part === 'word' ? `${Math.round(count)} of ${all} (${percent(value)})` : percent(value); };
  const tokensOf = () => shown.caption.flat().flatMap((piece) => piece.tokens).length;
  function ratios(strategy, part, title, tone) {
    return histogram(title, strategy.share[part], { min: 0, max: 1.0001, bins: 20, ends: ['0 %', '100 %'], rule: strategy.uses_ratio ? shown.ratio / 100 : null, unit: (value, always) => (always ? counted(value, part) : percent(value)), tone });
  }
  function often(strategy, label) {
    const map = heatMap(`${label}: how often each patch is hidden, ${percent(Math.min(...strategy.chance.patch))} to ${percent(Math.max(...strategy.chance.patch))}`), range = [Math.min(...strategy.chance.patch), Math.max(...strategy.chance.patch)];
    map.draw(strategy.chance.patch, shown.grid, 1);
    return make('div', { class: 'mb-histogram' }, make('p', { class: 'mb-count' }, make('b', {}, 'Frequency'), `of ${shown.strategies[0].draws} samples`), map.el, make('p', { class: 'mb-ends' }, ' '), make('p', { class: 'mb-sum' }, `${percent(range[0])} to ${percent(range[1])}`));
  }
  const wordsOften = (strategy) => make('div', { class: 'mb-histogram mb-wide' }, make('p', { class: 'mb-count' }, make('b', {}, 'Frequency'), '% of samples that hide each token'),
    make('div', { class: 'mb-tokens mb-shares' }, tokens(shown.caption, (places) => ({ share: strategy.chance.word[places[0]] }))));
  function distributions(strategy) {
    const sizes = (table, most, title, unit, tone) => histogram(title, table, { min: 1, max: most + 1, bins: Math.min(16, most), ends: ['1', String(most)], of: `hidden ${unit}`, unit: (value) => `${Math.round(value * 10) / 10} ${unit}`, tone });
    const words = tokensOf(), patches = shown.grid[0] * shown.grid[1];
    if (shown.modality === 'image') return [often(strategy, strategy.name), ratios(strategy, 'patch', 'Hidden share', 'orange'), sizes(strategy.hole, patches, 'Region size', 'patches', 'orange')];
    if (shown.modality === 'text') return [ratios(strategy, 'word', 'Hidden share', 'blue'), sizes(strategy.run, words, 'Run length', 'tokens', 'blue'), wordsOften(strategy)];
    return [often(strategy, strategy.name), ratios(strategy, 'patch', 'Hidden patches', 'orange'), ratios(strategy, 'word', 'Hidden tokens', 'blue'), wordsOften(strategy)];
  }
  function card(strategy) {
    return make('article', { class: 'mb-strategy', 'aria-label': strategy.name },
      make('div', {}, make('h3', { class: 'mb-heading' }, strategy.name, ' ', make('code', {}, strategy.key)), make('p', { class: 'mb-how' }, strategy.help)),
      examples(strategy), make('div', { class: `mb-distributions mb-of-${shown.modality}` }, distributions(strategy)));
  }
  const legend = { image: 'frequency is how often each patch is hidden, the dashed line is the ratio, and region size is the number of connected patches around a hidden one', text: 'frequency is how often each token is hidden, the dashed line is the ratio, and run length is the number of hidden tokens in a row', both: 'frequency is how often each patch or token is hidden, and the dashed line is the ratio' };
  let shown = null;
  return (value) => {
    shown = value;
    seed = value.seed;
    modality.set(value.modality);
    ratio.set(value.ratio);
    rounded.textContent = value.rounded; rounded.hidden = !value.rounded;
    source.draw(value.picture, value.grid, []);
    caption.replaceChildren(...tokens(value.caption, () => ({})));
    const rare = value.caption.filter((pieces) => pieces.length > 1).length;
    cut.textContent = !value.caption.length ? '' : rare ? `${rare === 1 ? 'One word is' : `${rare} words are`} cut into pieces (dotted lines): each piece is a token.` : `Every word is one token here${value.modality === 'text' ? ', so whole words and random tokens follow the same rule' : ''}.`;
    read.replaceChildren(`Lower part of each card: ${value.strategies[0].draws} samples: ${legend[value.modality]}. ${value.square}`, ...(value.modality === 'text' ? [] : [make('span', { class: 'mb-scale' }, ' Map: never ', make('i'), ' always hidden.')]));
    cards.replaceChildren(...value.strategies.map(card));
    missing.textContent = value.missing;
    missing.hidden = !value.missing;
  };
}
