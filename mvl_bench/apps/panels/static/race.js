// Masking race: two strategies train the same small model, live; curves for each seed and their mean, then the paired difference with its interval.
const TONES = { a: 'blue', b: 'orange' };

function build(page) {
  const name = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join('');
  let shown = null, options = {};
  const plain = (side) => shown.strategies[options.masked].find(([name]) => name === options[side])[1];
  const send = (settings) => page.ask({ ...options, page: name, start: false, stop: false, ...settings });
  const masked = menu('masked modality', [], '', (value) => { const [a, b] = shown.strategies[value]; send({ masked: value, a: a[0], b: b[0] }); });
  const sides = Object.fromEntries(['a', 'b'].map((side) => {
    const about = make('p', { class: 'mb-how' }), choice = menu(`Strategy ${side.toUpperCase()}`, [], '', (value) => {  // the same twice: swap them
      const other = side === 'a' ? 'b' : 'a';
      send({ [side]: value, [other]: options[other] === value ? options[side] : options[other] });
    });
    return [side, { choice, about }];
  }));
  const estimate = make('p', { class: 'mb-how' }), expect = (updates, seeds) => { estimate.textContent = `Estimated time: ${duration(2 * updates * seeds * shown.seconds_per_update)} (2 strategies, ${seeds} seeds, ${updates} updates each).`; };
  const updates = slider('number of updates', { min: 40, max: 600, step: 10, value: 100, live: (value) => expect(value, options.seeds) }, (value) => send({ updates: value }));
  const seeds = slider('number of seeds', { min: 3, max: 6, value: 3, live: (value) => expect(options.updates, value) }, (value) => send({ seeds: value }));
  const start = button('Start', () => { start.disabled = true; stop.disabled = false; send({ start: true }); }, { class: 'mb-button mb-primary' }), stop = button('Stop', () => { stop.disabled = true; send({ stop: true }); });
  page.left.append(masked.el, ...['a', 'b'].map((side) => make('div', {}, sides[side].choice.el, sides[side].about)), updates.el, seeds.el, estimate, make('div', { class: 'mb-switches' }, start, stop));
  const bar = make('div', { class: 'mb-progress', role: 'progressbar', 'aria-label': 'progress of the race', 'aria-valuemin': 0, 'aria-valuemax': 100 }), say = make('p', { class: 'mb-say', role: 'status' }), key = make('p', { class: 'mb-scale' }), charts = make('div', { class: 'mb-race-charts' }), verdict = make('div', { class: 'mb-verdicts' });
  page.right.append(make('div', { class: 'mb-race' }, bar, say, key, charts, verdict));

  function curves() {
    const all = Object.entries(shown.curves ?? {});
    key.replaceChildren(...(all.length ? [...['a', 'b'].flatMap((side) => [make('span', { class: `mb-race-key mb-tone-${TONES[side]}` }, '▬ '), `Strategy ${side.toUpperCase()}: ${plain(side)}   `]), 'thin: one seed each, thick: their mean'] : []));
    charts.replaceChildren(...all.map(([measure, of]) => {
      const [label, unit] = shown.measures[measure], lines = ['a', 'b'].flatMap((side) => Object.entries(of[side].seeds).map(([seed, points]) => ({ points, tone: TONES[side], title: `${plain(side)}, seed ${seed}` }))), thin = lines.length;
      for (const side of ['a', 'b']) lines.push({ points: of[side].mean, tone: TONES[side], title: `${plain(side)}, mean` });
      const drawn = chart({ label: `${label} over the updates`, x: { label: 'updates', min: 0, max: options.updates }, y: { label: unit, ...upTo(Math.max(0.001, ...lines.flatMap((line) => line.points.map((point) => point[1])))) }, lines });
      [...drawn.querySelectorAll('.mb-curve')].slice(0, thin).forEach((curve) => curve.classList.add('mb-thin'));
      return make('figure', { class: 'mb-figure' }, make('figcaption', {}, make('b', {}, label), `held-out pairs, lower is better${measure === 'nats' ? `; ${NATS}` : ''}`), drawn);
    }));
  }
  function verdicts() {
    const all = shown.verdicts ?? [];
    verdict.replaceChildren(...(all.length ? [make('h3', { class: 'mb-heading' }, 'Verdict'), make('div', { class: 'mb-race-charts' }, all.map((one) => {
      const most = Math.max(Math.abs(one.low), Math.abs(one.high), ...one.differences.map(Math.abs), 1e-4), last = one.differences.length, [label, unit] = shown.measures[one.measure];
      const told = one.better ? `${plain(one.better)} is better` : 'cannot be told', tone = one.better ? TONES[one.better] : 'muted', axis = upTo(most), digits = Math.max(0, Math.ceil(-Math.log10(axis.max / axis.count) - 1e-9)), say = (value, more = 1) => `${value > 0 ? '+' : ''}${value.toFixed(digits + more)}`;
      const seen = chart({ label: `difference between the strategies: ${label}`, x: { label: '', min: -0.5, max: last + 0.5, count: 2 * (last + 1), format: (at) => (at % 1 ? '' : at === last ? 'mean' : `seed ${at}`) }, y: { label: '', min: -axis.max, max: axis.max, count: 2 * axis.count, format: (at) => (Math.abs(at) < 1e-9 ? '0' : say(at, 0)) }, rules: [{ y: 0, text: '' }], height: 220,
        dots: [...one.differences.map((value, seed) => ({ x: seed, y: value, tone: 'muted', title: `seed ${seed}: ${say(value)}` })), { x: last, y: one.mean, low: one.low, high: one.high, tone, size: 6, title: `mean ${say(one.mean)}, 95 % interval ${say(one.low)} to ${say(one.high)}` }] });
      return make('figure', { class: 'mb-figure' }, make('figcaption', {}, make('b', {}, `${label}: ${told}`), `Strategy B − Strategy A, ${unit}; below 0: Strategy B is better`), seen, make('p', { class: 'mb-how' }, one.text));
    })), make('p', { class: 'mb-how' }, shown.method)] : []));
  }
  return (value) => {
    shown = value; options = value.options;
    const running = value.state === 'running', names = value.strategies[options.masked];
    masked.fill(value.sides, options.masked);
    for (const side of ['a', 'b']) {
      sides[side].choice.fill(names.map(([name, title]) => [name, title]), options[side]);
      sides[side].about.textContent = `${names.find(([name]) => name === options[side])[2]}.`.replace(/^./, (first) => first.toUpperCase());
    }
    updates.limit(...value.update_range); seeds.limit(...value.seed_range);
    updates.set(options.updates); seeds.set(options.seeds); expect(options.updates, options.seeds);
    for (const part of page.left.querySelectorAll('select, input')) part.disabled = running;
    start.disabled = running; stop.disabled = !running;
    bar.hidden = value.state === 'ready'; bar.style.setProperty('--done', percent((value.done ?? 0) / value.total).replace(' ', '')); bar.setAttribute('aria-valuenow', Math.round(100 * (value.done ?? 0) / value.total));
    say.textContent = value.say ?? 'Press Start. Both strategies are evaluated on the same held-out pairs under the same masks, which are neither strategy’s.';
    curves(); verdicts();
  };
}
function duration(seconds) { return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${(seconds / 60).toFixed(1)} minutes`; }
