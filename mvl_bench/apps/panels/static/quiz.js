// You vs. the model: ten questions about what is hidden; the person answers first. All of the round is in the settings.
function build(page) {
  const root = page.left.closest('.mb-panel');
  const grid = patchGrid('the picture as you and the model are given it; hidden patches are hatched'), line = make('svg', { class: 'mb-spot', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const chips = wordChips('the caption as you and the model are given it'), hint = make('p', { class: 'mb-how' });
  page.left.append(make('p', { class: 'mb-label' }, 'Given to you and to the model'), make('div', { class: 'mb-line mb-given' }, grid.el, line), chips.el, hint);
  const count = make('p', { class: 'mb-label' }), title = make('h3', { class: 'mb-heading mb-asking' }), picks = make('div', { class: 'mb-picks', role: 'group', 'aria-label': 'your answer' });
  const say = make('p', { class: 'mb-say', role: 'status' }), pictures = make('div', { class: 'mb-figures mb-pairs' }), next = button('Next question', () => go(), { class: 'mb-button mb-primary' });
  const play = make('div', { class: 'mb-play' }, count, title, picks, make('div', { class: 'mb-row2' }, next), say, pictures), over = make('div', { class: 'mb-result' }), scores = make('div', { class: 'mb-scores' });
  const model = menu('model', [], '', (value) => begin({ model: value }));
  const round = make('input', { type: 'number', id: `mb-round-${++numbered}`, min: 1, max: 10000, step: 1, onchange: () => { const value = Number(round.value); if (Number.isInteger(value) && value >= 1 && value <= 10000) begin({ round: value }); else page.tell('Rounds are numbered from 1 to 10,000.'); } });
  const about = make('p', { class: 'mb-how' });
  page.right.append(play, over, scores, make('div', { class: 'mb-choose' }, model.el, make('div', { class: 'mb-field' }, make('label', { for: round.id }, 'round'), round)), about);
  let shown = null, moved = false;
  function begin(change) { page.ask({ marks: [], number: 0, guess: null, ...change }); }
  function pick(i) { if (root.classList.contains('mb-busy') || shown.told || shown.result || !shown.choices[i]) return; moved = true; page.ask({ guess: i }); }
  function go() {
    moved = true;
    if (shown.result) return begin({ round: page.settings.round + 1 });
    page.ask({ number: page.settings.number + 1, guess: null });
  }
  document.addEventListener('keydown', function press(event) {  // also right after the tab was opened
    if (!root.isConnected) return document.removeEventListener('keydown', press);
    const here = root.contains(event.target) || (root.offsetParent && (event.target === document.body || event.target.matches?.('[role=tab]')));
    if (!here || event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea') || !/^[1-9]$/.test(event.key)) return;
    event.preventDefault();
    pick(Number(event.key) - 1);
  });
  function outline(spot, [rows, columns]) {
    const inside = new Set(spot), parts = [];
    for (const i of spot) {
      const y = Math.floor(i / columns), x = i % columns;
      for (const [there, d] of [[y > 0 && inside.has(i - columns), `M${x} ${y}h1`], [y < rows - 1 && inside.has(i + columns), `M${x} ${y + 1}h1`], [x > 0 && inside.has(i - 1), `M${x} ${y}v1`], [x < columns - 1 && inside.has(i + 1), `M${x + 1} ${y}v1`]]) if (!there) parts.push(d);
    }
    line.setAttribute('viewBox', `0 0 ${columns} ${rows}`);
    line.replaceChildren(...[0, 1].map(() => make('path', { d: parts.join('') })));
  }
  const name = (text, nothing = false) => (nothing ? 'background only' : shown.kind === 'crop' ? `crop ${text}` : `“${text}”`);
  const verdict = (right) => make('b', { class: right ? 'mb-good' : 'mb-bad' }, right ? 'right' : 'wrong');
  function tell() {
    const told = shown.told;
    if (!told) return [];
    const how = shown.kind === 'crop' ? 'What the model filled in is nearest to ' : told.painted ? 'The model filled in ' : 'The model said ';
    const sure = told.probability === null ? '' : ` (${percent(told.probability)} among these choices)`;
    return [`You said ${name(told.guess)}: `, verdict(told.guess === told.truth), `. ${how}${name(told.answer, told.nothing)}${sure}: `, verdict(told.answer === told.truth), '.'];
  }
  function choice({ text, picture: url }, i) {
    const told = shown.told, right = told && told.truth === text, mine = told && told.guess === text, its = told && told.answer === text;
    const tags = [right && 'truth', mine && 'you', its && 'model'].filter(Boolean);
    return button('', () => pick(i), { class: `mb-button mb-pick${right ? ' mb-right-one' : mine || its ? ' mb-wrong-one' : ''}`, disabled: Boolean(told), 'aria-label': `${i + 1}: ${shown.kind === 'crop' ? 'crop ' : ''}${text}${tags.length ? `, ${tags.join(', ')}` : ''}` });
  }
  function drawChoices() {
    picks.classList.toggle('mb-crops', shown.kind === 'crop');
    picks.replaceChildren(...shown.choices.map((one, i) => {
      const el = choice(one, i), told = shown.told;
      if (one.picture) el.append(make('img', { src: one.picture, alt: `crop ${one.text}` }));
      el.append(make('kbd', {}, String(i + 1)), make('span', {}, one.picture ? `crop ${one.text}` : one.text));
      if (told) el.append(make('small', {}, [told.truth === one.text && 'truth', told.guess === one.text && 'you', told.answer === one.text && 'model'].filter(Boolean).join(' · ')));
      return el;
    }));
  }
  function drawQuestion() {
    const told = shown.told, number = page.settings.number;
    grid.draw({ url: told ? told.whole : shown.picture, grid: shown.grid, hidden: new Set(told ? [] : shown.hidden) });
    outline(shown.spot, shown.grid);
    chips.draw(shown.words.map((word, i) => ({ text: told ? told.words[i] : word.asked ? 'which word?' : word.hidden ? '····' : word.text, hidden: word.hidden && !told, marked: word.asked, mood: told && word.hidden ? 'good' : '' })));
    hint.textContent = told ? 'Now the whole picture and caption.' : `${shown.hidden.length} of ${shown.grid[0] * shown.grid[1]} patches are hidden.`;
    count.textContent = `Question ${number + 1} of ${shown.of}`;
    title.textContent = told ? `Answer: ${name(told.truth)}` : shown.question;
    drawChoices();
    next.hidden = !told;
    next.textContent = number + 1 === shown.of ? 'See the result' : 'Next question';
    say.replaceChildren(...(told ? tell() : ['Press a number key, or Tab and Enter, or click.']));
    say.classList.toggle('mb-none', !told);
    pictures.replaceChildren(...(told ? [figure('Filled in', 'by the model', picture(told.filled, 'the picture with hidden patches filled in by the model')), figure('Truth', 'the picture itself', picture(told.whole, 'the true picture'))] : []));
  }
  function drawScores() {
    const cell = (right) => make('td', { class: right === undefined ? '' : right ? 'mb-good' : 'mb-bad' }, right === undefined ? '·' : right ? '✓' : '✗');
    const numbers = Array.from({ length: shown.of }, (_, i) => i), now = shown.result ? -1 : page.settings.number;
    const head = (i) => make('th', { scope: 'col' }, i < shown.right.length ? make('button', { type: 'button', class: 'mb-jump', 'aria-current': i === now ? 'true' : 'false', 'aria-label': `question ${i + 1}`, onclick: () => { moved = true; page.ask({ number: i, guess: null }); } }, String(i + 1)) : String(i + 1));
    const row = (who, k) => make('tr', {}, make('th', { scope: 'row' }, who), numbers.map((i) => cell(shown.right[i]?.[k])), make('td', { class: 'mb-sum' }, String(shown.right.filter((one) => one[k]).length)));
    scores.replaceChildren(make('table', { class: 'mb-marks', 'aria-label': 'who was right on which question' }, make('thead', {}, make('tr', {}, make('td', {}), numbers.map(head), make('th', { scope: 'col' }, 'sum'))), make('tbody', {}, row('you', 0), row('model', 1))));
  }
  function drawResult() {
    const { you, model: its, blind, verdict: text, differing } = shown.result;
    const score = (who, value, note) => make('div', { class: 'mb-total' }, make('b', {}, String(value)), make('span', {}, `${who}`), make('small', {}, note));
    const answered = (who, value, truth, nothing = false) => make('span', {}, `${who}: `, make('b', { class: value === truth ? 'mb-good' : 'mb-bad' }, nothing ? 'background only' : value));
    over.replaceChildren(make('h3', { class: 'mb-heading mb-asking' }, 'The result'), make('div', { class: 'mb-totals' }, score('you', you, `of ${shown.of} right`), score('the model', its, `of ${shown.of} right`), score('blind guessing', blind, 'right on average')), make('p', { class: 'mb-say' }, text),
      make('div', { class: 'mb-row2' }, button('New round', () => go(), { class: 'mb-button mb-primary' })),
      make('h3', { class: 'mb-heading mb-apart' }, differing.length ? `Questions with different answers: ${differing.length}` : 'You and the model gave the same answers.'),
      make('ol', { class: 'mb-differing' }, differing.map((one) => make('li', {}, make('img', { src: one.picture, alt: `the picture of question ${one.number + 1}, partly hidden` }), make('div', {}, make('b', {}, `${one.number + 1}. ${one.question}`), make('span', {}, one.caption), make('span', {}, `truth: ${one.truth}`), answered('you', one.guess, one.truth), answered('model', one.answer, one.truth, one.nothing))))));
  }
  return (value) => {
    shown = value;
    model.fill(shown.models.map((one) => [one, one]), page.settings.model);
    model.el.hidden = shown.models.length < 2;
    round.value = page.settings.round;
    about.textContent = `${shown.about} The same round brings the same questions.`;
    page.left.hidden = play.hidden = Boolean(shown.result); over.hidden = !shown.result;
    root.classList.toggle('mb-over', Boolean(shown.result));
    if (shown.result) drawResult(); else drawQuestion();
    drawScores();
    if (moved) (shown.result ? over.querySelector('.mb-primary') : shown.told ? next : picks.firstChild)?.focus({ preventScroll: true });
    moved = false;
  };
}
