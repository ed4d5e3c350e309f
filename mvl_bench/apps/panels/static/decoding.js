// Decoding: what is hidden is filled in step by step; play it, step through it, and pin a patch or a word by clicking it.
const ORDERS = [['together', 'patches and words together'], ['turns', 'words and patches in turn'], ['words first', 'words first'], ['patches first', 'patches first']];
const SPEEDS = [['1600', 'slow'], ['800', 'normal'], ['300', 'fast']];

function build(page) {
  let shown = null, at = 0, timer = null, speed = 800;
  const source = patchGrid('what is hidden at the beginning; click a patch to pin it', { pick: pinPatch });
  const caption = wordChips('the caption; click a hidden word to pin it', { pick: pinWord }), choice = make('div', { class: 'mb-pin' });
  const order = menu('order', ORDERS, 'together', (value) => page.ask({ order: value })), count = slider('number of steps', { min: 1, max: 16, value: 8 }, (value) => page.ask({ steps: value }));
  const clear = button('Remove all pins', () => page.ask({ patches: [], words: {} }), { hidden: true });
  page.left.append(make('p', { class: 'mb-label' }, 'At the beginning'), source.el, caption.el, choice, make('p', { class: 'mb-how' }, 'Click a hidden patch to pin its true content, or a hidden word to pin a word: the rest is decoded around it.'), clear, order.el, count.el);
  const play = button('Play', () => (timer ? stop() : start()), { class: 'mb-button mb-primary' });
  const back = button('Back', () => go(at - 1)), forward = button('Step', () => go(at + 1));
  const bar = slider('step', { min: 0, max: 1, value: 0, live: (value) => go(value) }, (value) => go(value));
  const pace = menu('speed', SPEEDS, '800', (value) => { speed = Number(value); if (timer) { stop(); start(); } });
  const now = patchGrid('the picture at this step'), truth = make('img', { class: 'mb-picture', alt: 'the true picture' }), words = wordChips('the caption at this step'), score = make('p', { class: 'mb-score' }), say = make('p', { class: 'mb-say', role: 'status' }), guesses = make('div', { class: 'mb-guesses' });
  page.right.append(make('div', { class: 'mb-player' }, play, back, forward, bar.el, pace.el),
    make('div', { class: 'mb-figures mb-pairs' }, figure('At this step', 'outlined: filled in now', now.el), figure('Truth', 'the picture itself', truth)), words.el, score, say, guesses);
  function start() { if (at === shown.steps.length - 1) go(0, true); play.textContent = 'Pause'; timer = setInterval(() => (at < shown.steps.length - 1 && play.isConnected ? go(at + 1, true) : stop()), speed); }
  function stop() { clearInterval(timer); timer = null; play.textContent = 'Play'; }
  function go(to, playing = false) {
    if (!playing) stop();
    at = Math.min(Math.max(to, 0), shown.steps.length - 1);
    draw();
  }
  function pinPatch(i) {
    if (!shown.hidden.includes(i)) return;
    const pins = new Set(page.settings.patches ?? []);
    if (!pins.delete(i)) pins.add(i);
    page.ask({ patches: [...pins].sort((a, b) => a - b) });
  }
  function pinWord(i) {
    const word = shown.words[i], pins = page.settings.words ?? {};
    if (!word.hidden) return choice.replaceChildren(make('p', { class: 'mb-how' }, `“${word.text}” is visible. Only a hidden word can be pinned.`));
    if (pins[word.position] !== undefined) { const { [word.position]: _, ...rest } = pins; choice.replaceChildren(); return page.ask({ words: rest }); }
    const typed = make('input', { type: 'text', maxlength: 60, 'aria-label': `word to pin in place of ${i + 1}`, placeholder: 'another word', onkeydown: (event) => { if (event.key === 'Enter') set(typed.value); } });
    const set = (text) => { choice.replaceChildren(); page.ask({ words: { ...pins, [word.position]: text.trim() } }); };
    const offers = [...new Set([word.text, ...(shown.first[word.position] ?? []).map(([text]) => text)])].slice(0, 4);
    choice.replaceChildren(make('span', { class: 'mb-label' }, 'Pin a word here:'), ...offers.map((text, k) => button(text, () => set(text), { title: k ? 'a prediction' : 'the true word' })), typed, button('Pin', () => set(typed.value)));
    typed.focus();
  }
  function told({ error, patches, right, words: count }) {  // how wrong everything is that was filled in so far
    return [...(patches ? ['error so far ', make('b', {}, fixed(error, 3)), ` of the pixel range (${patches} patch${patches > 1 ? 'es' : ''})`] : []), ...(count ? [patches ? ' · words right ' : 'words right ', make('b', {}, `${right} of ${count}`)] : [])];
  }
  function draw() {
    const step = shown.steps[at], last = shown.steps.length - 1;
    now.draw({ url: step.picture, grid: shown.grid, hidden: new Set(step.hidden_patches), marked: new Set(step.new_patches) });
    words.draw(step.words.map(([text, state, note]) => ({ text: state === 'hidden' ? '····' : text, hidden: state === 'hidden', marked: state === 'new', note, mood: state === 'right' || (state === 'new' && note === 'right') ? 'good' : state === 'wrong' || (state === 'new' && note === 'wrong') ? 'bad' : '' })));
    score.replaceChildren(...told(step.score));
    say.textContent = step.description;
    guesses.replaceChildren(...step.guesses.map(({ place, top }) => make('div', { class: 'mb-guess' }, make('span', { class: 'mb-label' }, `word ${place}: likeliest before this step`), bars(top.map(([text, value]) => ({ text, value }))))));
    bar.limit(0, last); bar.set(at);
    back.disabled = at === 0; forward.disabled = at === last;
  }
  return (value, settings) => {
    stop();
    shown = value;
    order.set(settings.order ?? 'together'); count.set(settings.steps ?? 8);
    const pins = new Set(settings.patches ?? []), words = settings.words ?? {};
    source.draw({ url: shown.picture, grid: shown.grid, hidden: new Set(shown.hidden.filter((i) => !pins.has(i))), marked: pins, note: (i) => (pins.has(i) ? 'pinned' : '') });
    caption.draw(shown.words.map((word) => ({ text: words[word.position] ?? word.text, hidden: word.hidden && words[word.position] === undefined, marked: words[word.position] !== undefined })));
    clear.hidden = !pins.size && !Object.keys(words).length;
    truth.src = shown.picture;
    go(shown.steps.length - 1);  // starts filled
  };
}
