// Uncertainty: how much each hidden patch changes when a little more is hidden (spread), beside how wrong it is (error).
function build(page) {
  const source = patchGrid('what is hidden'), caption = wordChips('the caption');
  page.left.append(make('p', { class: 'mb-label' }, 'Input'), source.el, caption.el);
  const maps = make('div', { class: 'mb-figures' }), curve = make('div', { class: 'mb-curve-place' }), say = make('p', { class: 'mb-say', role: 'status' });
  page.right.append(maps, say, curve);
  return (shown) => {
    source.draw({ url: shown.picture, grid: shown.grid, hidden: new Set(shown.hidden) });
    caption.draw(shown.words);
    const [spread, error] = [['spread', 'how much it changes'], ['error', 'how wrong it is']].map(([name, about]) => {
      const heat = heatMap(`${name} of each hidden patch`);
      heat.draw(shown[name], shown.grid, shown.scale[name]);
      return figure(`${name[0].toUpperCase()}${name.slice(1)} ${fixed(shown.mean[name])}`, about, heat.el, scaleKey('0', `${shown.scale[name]} and more`));
    });
    maps.replaceChildren(figure('Filled in', 'by the model', picture(shown.filled, 'the picture with hidden patches filled in')), spread, error, figure('Truth', 'the picture itself', picture(shown.picture, 'the true picture')));
    say.textContent = shown.verdict;
    const check = shown.check;
    if (!check) return curve.replaceChildren(make('p', { class: 'mb-how' }, shown.no_check));
    const most = (values) => Math.max(...values), own = shown.outside ? [] : [{ x: shown.mean.spread, y: shown.mean.error, tone: 'pink', size: 7, title: `this picture: spread ${fixed(shown.mean.spread)}, error ${fixed(shown.mean.error)}` }];
    curve.replaceChildren(make('h3', { class: 'mb-heading' }, `Is spread a sign of error? ${check.verdict}`), make('p', { class: 'mb-how' }, check.about),
      chart({ label: 'mean error over spread', x: { label: 'spread', ...upTo(most([...check.bins.map((bin) => bin.spread), shown.outside ? 0 : shown.mean.spread])) }, y: { label: 'error', ...upTo(most([...check.bins.map((bin) => bin.ci[1]), shown.outside ? 0 : shown.mean.error])) },
        lines: [{ points: check.bins.map((bin) => [bin.spread, bin.error]), tone: shown.outside ? 'muted' : 'accent' }],
        dots: [...check.bins.map((bin) => ({ x: bin.spread, y: bin.error, low: bin.ci[0], high: bin.ci[1], tone: shown.outside ? 'muted' : 'accent', title: `${bin.count} patches: spread ${fixed(bin.spread, 3)}, error ${fixed(bin.error, 3)}` })), ...own] }),
      make('p', { class: 'mb-scale' }, shown.outside ? 'This picture is not on the curve: it lies outside the data that the curve was measured on.' : [make('b', { class: 'mb-key-pink' }, '●'), ' this picture (mean of its hidden patches); bars: 95 % intervals of the means']));
  };
}
