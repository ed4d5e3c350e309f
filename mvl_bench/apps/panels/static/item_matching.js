// Item matching: precision over recall at every threshold, all computed here from the stored scores; the server sends pictures of a pair.
const INPUT_TONES = ['blue', 'pink', 'orange'];
const TERMS = [
  ['Item', 'a picture with a title. The colour is seen in the picture only, the maker is named in the title only; both tell the shape.'],
  ['Match', 'two items of the same shape, colour and maker. Size, place, background and wording may differ.'],
  ['Threshold', 'the model gives each pair a probability. From the threshold on, the pair is called a match.'],
  ['Precision', 'of the pairs that are called a match, the share that is one.'],
  ['Recall', 'of the true matches, the share that is called one.'],
];

function curveOf(pairs, k) {  // [{ cut, recall, precision, at }], from the highest threshold down, and the area under it
  const order = pairs.map((pair, at) => [pair.chances[k], at]).sort((a, b) => b[0] - a[0]), total = pairs.filter((pair) => pair.match).length, points = [];
  let right = 0, area = 0, before = 0;
  order.forEach(([cut, at], i) => {
    right += pairs[at].match;
    if (order[i + 1]?.[0] === cut) return;
    const recall = right / total, precision = right / (i + 1);
    area += (recall - before) * precision; before = recall;
    points.push({ cut, recall, precision, at });
  });
  return { points, area };
}
function countsAt(pairs, k, cut) {  // of the four kinds of decisions
  const count = (match, called) => pairs.filter((pair) => pair.match === match && (pair.chances[k] >= cut) === called).length;
  return { hit: count(true, true), missed: count(true, false), false: count(false, true), rejected: count(false, false) };
}

function build(page) {
  let shown = null, at = 0, k = 2, cut = 0.5, curves = [];
  const terms = make('dl', { class: 'mb-terms' }, TERMS.map(([term, about]) => make('div', {}, make('dt', {}, term), make('dd', {}, about)))), about = make('p', { class: 'mb-how' });
  page.left.parentElement.before(terms, about);
  const input = switches('model input', [['both', 'both'], ['pictures alone', 'pictures alone'], ['words alone', 'words alone']], 'words alone', (name) => { k = shown.inputs.indexOf(name); draw(); });
  const bar = slider('threshold', { min: 0, max: 1, step: 0.001, value: 0.5, format: (v) => (v % 1 ? v.toFixed(3) : String(v)), live: (v) => { cut = v; draw(); } }, (v) => { cut = v; draw(); });
  const number = make('p', { class: 'mb-label' }), items = make('div', { class: 'mb-items' }), truth = make('p', { class: 'mb-say' }), decisions = make('div', { class: 'mb-decisions' });
  const step = (by) => choose((at + by + shown.pairs.length) % shown.pairs.length);
  const wrong = button('Next wrong decision', () => { const n = shown.pairs.length; for (let i = 1; i <= n; i++) if (!isRight((at + i) % n)) return choose((at + i) % n); });
  page.left.append(number, items, truth, decisions, make('div', { class: 'mb-row2' }, button('Previous pair', () => step(-1)), button('Next pair', () => step(1)), wrong));
  const curve = make('div', {}), key = make('ul', { class: 'mb-key' }), dots = make('div', {}), say = make('p', { class: 'mb-say', role: 'status' }), table = make('div', { class: 'mb-counts' }), rule = make('p', { class: 'mb-how' });
  page.right.append(make('div', { class: 'mb-controls' }, input.el, bar.el), say,
    make('div', { class: 'mb-charts' }, make('section', {}, make('h3', { class: 'mb-heading' }, 'Precision over recall'), make('p', { class: 'mb-how' }, 'A line for each input; click the chosen one to set the threshold there.'), curve, key),
      make('section', {}, make('h3', { class: 'mb-heading' }, 'Every pair'), make('p', { class: 'mb-how' }, 'A dot for each pair, in rows by what differs. Red: wrong at this threshold. Click one.'), dots)),
    make('section', {}, make('h3', { class: 'mb-heading' }, 'Decisions at this threshold'), rule, table));
  const isRight = (i, j = k) => (shown.pairs[i].chances[j] >= cut) === shown.pairs[i].match;
  function choose(i) { at = i; draw(); page.ask({ pair: i }); }
  function drawPair() {
    const pair = shown.pairs[at], ready = shown.chosen.number === at;
    number.textContent = `Pair ${at + 1} of ${shown.pairs.length}`;
    items.replaceChildren(...pair.titles.map((title, side) => make('figure', { class: 'mb-item' },
      ready && shown.chosen.pictures[side] ? picture(shown.chosen.pictures[side], `picture of item ${side + 1}`) : make('div', { class: 'mb-blank' }),
      make('figcaption', {}, make('b', {}, title ?? '(no title)'), ready && shown.chosen.only[side] ? `only in this title: ${shown.chosen.only[side]}` : ready ? 'no word of its own' : ' '))));
    truth.replaceChildren('Truth: ', make('b', {}, pair.match ? 'a match' : 'not a match'), pair.match || pair.kind === 'other' ? '.' : `, the two ${pair.kind.replace('differs', 'differ').replace('in name', 'in shape')}.`);
    decisions.replaceChildren(...shown.inputs.map((name, j) => make('div', { class: `mb-decision${j === k ? ' mb-chosen' : ''}` }, make('span', {}, name), make('span', { class: `mb-meter mb-tone-${INPUT_TONES[j]}`, style: { '--p': pair.chances[j], '--cut': cut }, 'aria-hidden': 'true' }), make('span', { class: 'mb-value' }, pair.chances[j].toFixed(3)),
      make('span', { class: 'mb-called' }, pair.chances[j] >= cut ? 'called a match: ' : 'not called a match: ', make('b', { class: isRight(at, j) ? 'mb-good' : 'mb-bad' }, isRight(at, j) ? 'right' : 'wrong')))));
    wrong.disabled = !shown.pairs.some((_, i) => !isRight(i));
  }
  function drawCurves(now, called) {
    const share = shown.pairs.filter((pair) => pair.match).length / shown.pairs.length, low = Math.min(...curves.flatMap(({ points }) => points.map((p) => p.precision))) < 0.4 ? 0 : 0.4;
    const stairs = ({ points }) => points.flatMap((p, i) => [[i ? points[i - 1].recall : 0, p.precision], [p.recall, p.precision]]);
    const order = [0, 1, 2].filter((j) => j !== k).concat(k), precision = called ? now.hit / called : 1, recall = now.hit / (now.hit + now.missed);
    curve.replaceChildren(chart({ label: `precision over recall for ${shown.inputs[k]}; at threshold ${cut.toFixed(3)} precision is ${called ? precision.toFixed(2) : 'not defined'} and recall ${recall.toFixed(2)}`, height: 300,
      x: { label: 'recall', min: 0, max: 1 }, y: { label: 'precision', min: low, max: 1, count: low ? 3 : 4 }, rules: [{ y: share, text: `always “match”: ${share.toFixed(2)}` }],
      lines: order.map((j) => ({ points: stairs(curves[j]), tone: INPUT_TONES[j], dashed: j !== k, title: shown.inputs[j] })),
      dots: called ? [{ x: recall, y: precision, tone: INPUT_TONES[k], size: 7, title: `threshold ${cut.toFixed(3)}: precision ${precision.toFixed(2)}, recall ${recall.toFixed(2)}` }] : [],
      pick: (x, y) => { const away = (p) => ((p.recall - x) * 360) ** 2 + ((p.precision - y) / (1 - low) * 248) ** 2, near = curves[k].points.reduce((a, b) => (away(b) < away(a) ? b : a)); cut = near.cut; bar.set(cut); choose(near.at); } }));
    curve.firstChild.classList.add('mb-pickable');
    key.replaceChildren(...shown.inputs.map((name, j) => make('li', { class: j === k ? 'mb-chosen' : '' }, make('i', { class: `mb-tone-${INPUT_TONES[j]}` }), `${name}: area under the curve ${curves[j].area.toFixed(2)}`)));
  }
  function drawDots() {
    const lanes = [...new Set(shown.pairs.map((pair) => pair.kind))].filter((kind) => kind !== 'match').sort(); lanes.push('match');
    const lift = (i) => ((i * 0.618) % 1 - 0.5) * 0.62, name = (kind) => kind.replace('differs in ', '').replace('name', 'shape');
    const order = shown.pairs.map((_, i) => i).filter((i) => i !== at).sort((a, b) => isRight(b) - isRight(a)).concat(at);
    dots.replaceChildren(chart({ label: `probability of a match of each pair, ${shown.inputs[k]}`, height: 300, x: { label: 'probability of a match', min: -0.05, max: 1.05, count: 22, format: (v) => { const quarter = Math.round(4 * v) / 4; return Math.abs(v - quarter) < 0.001 ? String(quarter) : ''; } },
      y: { label: '', min: -0.5, max: lanes.length - 0.5, count: 2 * lanes.length, format: (v) => lanes[v] === undefined ? '' : name(lanes[v]) }, rules: [{ x: cut, text: '' }],
      dots: order.map((i) => { const pair = shown.pairs[i]; return { x: pair.chances[k], y: lanes.indexOf(pair.kind) + lift(i), tone: i === at ? 'accent' : isRight(i) ? 'muted' : 'bad', size: i === at ? 7 : 3.5, title: `pair ${i + 1}: ${pair.titles.join(' / ')}, ${pair.chances[k].toFixed(3)}`, pick: () => choose(i) }; }) }));
  }
  function draw() {
    const now = countsAt(shown.pairs, k, cut), called = now.hit + now.false, matches = now.hit + now.missed;
    input.set(shown.inputs[k]);
    bar.el.querySelector('output').textContent = cut.toFixed(3);
    say.textContent = `${shown.inputs[k][0].toUpperCase()}${shown.inputs[k].slice(1)}: ${called} of ${shown.pairs.length} pairs are called a match. ${called ? `Precision ${(now.hit / called).toFixed(2)} (${now.hit} of ${called})` : 'Precision has no value'}, recall ${(now.hit / matches).toFixed(2)} (${now.hit} of ${matches}).`;
    rule.textContent = `A match: same shape, colour and maker. Called a match: probability of at least ${cut.toFixed(3)}.`;
    const cell = (count, text, good) => make('td', {}, make('b', { class: good ? 'mb-good' : 'mb-bad' }, String(count)), ` ${text}`);
    table.replaceChildren(make('table', { class: 'mb-table' }, make('thead', {}, make('tr', {}, make('th', {}, 'truth'), make('th', { scope: 'col' }, 'called a match'), make('th', { scope: 'col' }, 'not called a match'))),
      make('tbody', {}, make('tr', {}, make('th', { scope: 'row' }, 'a match'), cell(now.hit, 'right', true), cell(now.missed, 'missed', false)), make('tr', {}, make('th', { scope: 'row' }, 'not a match'), cell(now.false, 'false alarms', false), cell(now.rejected, 'right', true)))));
    drawCurves(now, called); drawDots(); drawPair();
  }
  return (value) => {
    const first = !shown;
    shown = value;
    if (first) { curves = shown.inputs.map((_, j) => curveOf(shown.pairs, j)); at = shown.chosen.number; about.textContent = shown.about; draw(); } else drawPair();
  };
}
