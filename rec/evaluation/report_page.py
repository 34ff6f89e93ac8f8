"""What every report has: its style, and the script that narrows down and sorts the phrases. Nothing is loaded from elsewhere."""

from rec.evaluation import overlay

_STYLE = (
    overlay.STYLE
    + """
:root { color-scheme: light dark; --rule: light-dark(#d0d7de, #3d444d); --quiet: light-dark(#57606a, #9198a1);
  --line: light-dark(#0969da, #4493f8); --right: light-dark(#1a7f37, #3fb950); --wrong: light-dark(#cf222e, #f85149);
  --page: light-dark(#fff, #0d1117); --raised: light-dark(#f6f8fa, #151b23) }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: light-dark(#1f2328, #f0f6fc) }
main { max-width: 1280px; margin: 0 auto; padding: 1em clamp(12px, 3vw, 32px) 4em }
h1 { font-size: clamp(1.3em, 4vw, 1.9em); line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 2em; border-bottom: 1px solid var(--rule) } h3 { margin: 2em 0 .4em } h4 { margin: 1.4em 0 .2em; font-size: 1em }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1em 1em; margin: 0 0 1.5em }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
.scroll { overflow-x: auto } .scroll:focus-visible { outline: 2px solid var(--line) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .3em .8em; text-align: right; white-space: nowrap; font-weight: 400 }
th:first-child { padding-left: 0 } thead th { color: var(--quiet) } tbody tr { border-top: 1px solid var(--rule) }
th[scope=row], thead th:first-child { position: sticky; left: 0; background: var(--page); text-align: left; white-space: normal;
  min-width: 8em }
.phrases { width: 100% } .phrases tbody th { min-width: 12em; overflow-wrap: anywhere }
.charts, .filters, .legend { display: flex; flex-wrap: wrap; gap: .6em 1.2em; align-items: center }
.charts svg { flex: 1 1 300px; max-width: min(100%, 520px); height: auto }
.filters { background: var(--raised); padding: .7em 1em; border-radius: 6px; position: sticky; top: 0; z-index: 2 }
input, select, button { font: inherit; max-width: 100% } button.more { margin: .6em 0; padding: .3em 1em }
.filters :is(input, select) { padding: .2em .4em } output { color: var(--quiet) }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: 18px; align-items: start }
.gallery:has(figure):not(:has(figure:not([hidden])))::after { content: "None of these pictures fits."; color: var(--quiet) }
figure { margin: 0 } figure[hidden] { display: none }
figure .picture { --tint: #000; width: 100%; max-height: none; border-radius: 4px }
figcaption { display: grid; gap: .1em; padding-top: .3em; overflow-wrap: anywhere; line-height: 1.35 }
figcaption :is(small, span) { color: var(--quiet) } .picture .heat { display: none }
.pictures:has(.looked:checked) .heat { display: block } .pictures:has(.looked:checked) .mask { display: none }
.legend { margin: 0 0 .6em } .line { border-bottom: 3px solid; padding-bottom: 1px }
.true { border-color: #2ea043; border-bottom-style: dashed } .predicted { border-color: #da3633 }
.other { border-color: #0969da; border-bottom-style: dotted }
@media (max-width: 900px) { td, th { padding: .3em } }
@media (max-width: 600px) {
  table { font-size: 13px } th[scope=row], thead th:first-child { min-width: 6em } .phrases tbody th { min-width: 8em }
  .phrases td:nth-child(n+4) { white-space: normal; overflow-wrap: anywhere; min-width: 5.5em; font-size: 12px }
  .filters { position: static } .filters label, .filters :is(input, select) { width: 100% }
  .gallery { grid-template-columns: 1fr 1fr; gap: 12px } figcaption { font-size: 13px }
  dl { grid-template-columns: 1fr } dd { margin-bottom: .4em }
}
@media print { .filters, .more { display: none } }
"""
)
HEAD = (
    f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
)
# A row: phrase, file, ref id, quality, score, whether it is right, numbers of its groups.
SCRIPT = """<script>
for (const split of document.querySelectorAll('.split')) {
  const rows = JSON.parse(split.querySelector('script').textContent).map((row, number) => ({row, number}));
  const form = split.querySelector('form'), body = split.querySelector('.phrases tbody'), more = split.querySelector('.more');
  const orders = {
    worst: (a, b) => a.row[3] - b.row[3] || (b.row[4] ?? 0) - (a.row[4] ?? 0),
    best: (a, b) => b.row[3] - a.row[3] || (b.row[4] ?? 0) - (a.row[4] ?? 0),
    sure: (a, b) => (b.row[4] ?? -1) - (a.row[4] ?? -1), unsure: (a, b) => (a.row[4] ?? 2) - (b.row[4] ?? 2),
    phrase: (a, b) => a.row[0].localeCompare(b.row[0]), data: (a, b) => a.number - b.number,
  };
  let most = 20;
  const show = () => {
    const {text, right, group, sort} = Object.fromEntries(new FormData(form));
    const kept = rows.filter(({row}) => row[0].toLowerCase().includes(text.trim().toLowerCase())
      && (right === '' || row[5] === +right) && (group === '' || row[6].includes(+group))).sort(orders[sort]);
    body.replaceChildren(...kept.slice(0, most).map(({row}) => {
      const line = document.createElement('tr');
      [row[0], row[3].toFixed(2), row[4]?.toFixed(2) ?? '-', row[1], row[2]].forEach((value, column) => {
        const cell = document.createElement(column ? 'td' : 'th');
        if (!column) cell.scope = 'row';
        cell.textContent = value;
        line.append(cell);
      });
      return line;
    }));
    form.querySelector('output').textContent = `${kept.length} of ${rows.length} phrases`;
    more.hidden = kept.length <= most;
    const place = new Map(kept.map(({number}, at) => [number, at]));
    for (const gallery of split.querySelectorAll('.gallery')) {
      const figures = [...gallery.querySelectorAll('figure')];
      for (const figure of figures) figure.hidden = !place.has(+figure.dataset.row);
      gallery.append(...figures.sort((a, b) => place.get(+a.dataset.row) - place.get(+b.dataset.row)));
    }
  };
  form.addEventListener('input', () => { most = 20; show(); });
  form.addEventListener('submit', (event) => event.preventDefault());
  more.addEventListener('click', () => { most += 200; show(); });
  show();
}
</script>"""
