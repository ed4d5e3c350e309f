// Training timeline: monitored pairs at each recorded step, with and without the other modality, beside the losses; a player over the steps.
function build(page) {
  let shown = null, at = 0, timer = null, speed = 500;
  const play = button('Play', () => (timer ? stop() : start()), { class: 'mb-button mb-primary' }), back = button('Back', () => go(at - 1)), forward = button('Step', () => go(at + 1));
  const bar = slider('recorded step', { min: 0, max: 1, value: 0, format: (i) => (shown ? shown.steps[i].step.toLocaleString('en') : ''), live: (i) => go(i) }, (i) => go(i));
  const pace = menu('speed', [['1000', 'slow'], ['500', 'normal'], ['200', 'fast']], '500', (value) => { speed = Number(value); if (timer) { stop(); start(); } });
  const end = button('Stop training', () => { end.disabled = true; end.textContent = 'Stopping'; page.ask({ stop: true }); }, { class: 'mb-button mb-primary', hidden: true });
  const say = make('p', { class: 'mb-say', role: 'status' }), source = make('p', { class: 'mb-how' }), charts = make('div', { class: 'mb-timeline-charts' }), pairs = make('div', { class: 'mb-timeline-pairs' }), words = make('div', { class: 'mb-timeline-words' });
  page.left.append(make('div', { class: 'mb-timeline' }, charts));
  page.right.append(source, make('div', { class: 'mb-player' }, end, play, back, forward, bar.el, pace.el), say, pairs, words);
  page.right.parentNode.classList.add('mb-timeline-main');
  let tiles = [], chips = [];

  function start() { if (at === shown.steps.length - 1) go(0, true); play.textContent = 'Pause'; timer = setInterval(() => (at < shown.steps.length - 1 && play.isConnected ? go(at + 1, true) : stop()), speed); }
  function stop() { clearInterval(timer); timer = null; play.textContent = 'Play'; }
  function go(to, playing = false) { if (!playing) stop(); at = Math.min(Math.max(to, 0), shown.steps.length - 1); draw(); }
  function nearest(step) { return shown.steps.reduce((best, one, i) => (Math.abs(one.step - step) < Math.abs(shown.steps[best].step - step) ? i : best), 0); }

  function layPairs() {
    const captions = shown.captions.pixels, heads = [['Masked', 'model input'], ['With', 'the caption visible'], ['Without', 'the caption hidden'], ['Truth', '']];
    tiles = captions.map((caption) => ['masked', 'with', 'without', 'truth'].map((column) => make('div', { class: 'mb-tile', role: 'img', 'aria-label': `${column === 'with' || column === 'without' ? `${column} the caption` : column}: ${caption}`, style: { 'aspect-ratio': shown.aspect } })));
    pairs.replaceChildren(...(captions.length ? [...heads.map(([head, about]) => make('p', { class: 'mb-tile-head' }, make('b', {}, head), about ? ` ${about}` : '')), ...captions.flatMap((caption, i) => [...tiles[i], make('p', { class: 'mb-tile-caption' }, caption)])] : []));
  }
  function layWords() {
    chips = shown.captions.words.map(() => ['with the image', 'without the image'].map((label) => wordChips(label)));
    words.replaceChildren(...(chips.length ? [make('h3', { class: 'mb-heading' }, 'Masked words'), make('p', { class: 'mb-how' }, 'The likeliest word at each masked place; green: the true word.'), make('table', { class: 'mb-table' }, make('tr', {}, make('th', { scope: 'col' }, 'Caption'), make('th', { scope: 'col' }, 'With the image'), make('th', { scope: 'col' }, 'Without it')), shown.captions.words.map((caption, i) => make('tr', {}, make('td', {}, caption), chips[i].map((one) => make('td', {}, one.el)))))] : []));
  }
  function show(strip, place, i, n) { place.style.backgroundImage = `url("${strip}")`; place.style.backgroundSize = `100% ${100 * n}%`; place.style.backgroundPosition = `0 ${n > 1 ? 100 * i / (n - 1) : 0}%`; }
  function plot(title, about, label, lines, level, place) {
    const all = lines.flatMap((line) => line.points), step = shown.steps[at].step, most = Math.max(...all.map(([, value]) => value), ...level.map(([, value]) => value)), last = Math.max(...all.map(([x]) => x), 1);
    const drawn = chart({ label: `${title}: ${about}`, x: { label: 'step', min: 0, max: last, format: (v) => Math.round(v).toLocaleString('en') }, y: { label, ...upTo(most) }, lines, rules: [...named(level, most).map(([text, value]) => ({ y: value, text })), { x: Math.min(step, last), text: '' }], pick: (x) => go(nearest(x)) });
    return make('figure', { class: 'mb-figure' }, make('figcaption', {}, make('b', {}, title), about), drawn);
  }
  function plots() {
    const monitored = [['recon', 'Masked pixels', 'error, 0 to 1', 'orange'], ['mlm', 'Masked words', 'nats per word', 'blue']].filter(([name]) => shown.steps.every((one) => one[name]));
    charts.replaceChildren(...monitored.map(([name, title, unit, tone]) => plot(title, `monitored pairs; solid: with the other modality, dashed: without${name === 'mlm' ? `; ${NATS}` : ''}`, unit, [0, 1].map((way) => ({ points: shown.steps.map((one) => [one.step, one[name][way]]), tone, dashed: way === 1, title: way ? 'without' : 'with' })), [])),
      ...shown.losses.map((loss) => plot(loss.label, 'training loss; dashed levels: baselines', 'loss', [{ points: loss.points, tone: { recon: 'orange', mlm: 'blue' }[loss.name] ?? 'accent', title: loss.name }], once(loss.baselines))));
  }
  function once(levels) {  // baselines that lie on each other share a line
    const kept = [];
    for (const [text, value] of levels) { const near = kept.find((one) => Math.abs(one[1] - value) < 0.02 * Math.abs(value)); if (near) near[0] += ` and ${text}`; else kept.push([text, value]); }
    return kept;
  }
  function named(levels, most) {  // levels close to each other share a label, at the highest of them
    const sorted = [...levels].sort((a, b) => b[1] - a[1]);
    return sorted.map(([text, value], i) => {
      if (i && sorted[i - 1][1] - value < 0.07 * most) return ['', value];
      let last = i;
      while (sorted[last + 1] && sorted[last][1] - sorted[last + 1][1] < 0.07 * most) last += 1;
      return [sorted.slice(i, last + 1).map(([name]) => name).join(', '), value];
    });
  }
  function draw() {
    const step = shown.steps[at], n = tiles.length, last = shown.steps.length - 1;
    tiles.forEach((row, i) => [shown.masked, step.pictures.with, step.pictures.without, shown.truth].forEach((strip, k) => show(strip, row[k], i, n)));
    chips.forEach((pair, i) => pair.forEach((one, k) => one.draw(step.words[i].map((guess) => { const [truth] = guess, text = guess[1 + 2 * k], p = guess[2 + 2 * k]; return { text, mood: text === truth ? 'good' : 'bad', note: `true word “${truth}”: ${percent(p)}` }; }))));
    const told = [['recon', 'Masked pixels: error'], ['mlm', 'Masked words: nats per word']].filter(([name]) => step[name]).map(([name, what]) => `${what} ${fixed(step[name][0], 3)} with the other modality, ${fixed(step[name][1], 3)} without.`);
    say.textContent = `After step ${step.step.toLocaleString('en')}. ${told.join(' ')}`;
    bar.limit(0, last); bar.set(at); back.disabled = at === 0; forward.disabled = at === last;
    plots();
  }
  return (value) => {
    const newest = !shown || at === shown.steps.length - 1, before = shown?.run === value.run ? shown.steps[at].step : null, asked = page.settings.step !== undefined;
    if (timer) stop();
    shown = value;
    source.textContent = value.about;
    end.hidden = !value.can_stop;
    layPairs(); layWords();
    go(before === null || newest || asked ? value.at : nearest(before));
  };
}
