"""How the html page looks: one style sheet for phone, desktop, dark screens, paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d4d4d4;
  --back: #fff; --panel: #f5f5f3; --good: #005b8f; --bad: #b34500; --open: #7a5c00 }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #aaa;
  --line: #444; --back: #161616; --panel: #232323; --good: #6fc1f0; --bad: #ff9255;
  --open: #e9c46a } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto;
  padding: 1rem; color: var(--ink); background: var(--back); overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem;
  border-bottom: 2px solid var(--line) } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
h4 { font-size: .9rem; margin: .8rem 0 .2rem }
.lead { font-size: 1.1rem; margin: .3rem 0 .8rem }
.coverage { background: var(--panel); border-left: 4px solid var(--good);
  padding: .5rem .8rem }
.soft, small { color: var(--soft); font-size: .85rem }
.scroll { overflow-x: auto; margin: .3rem 0 1rem }
table { border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.scroll td { white-space: nowrap; overflow-wrap: normal }
.scroll th { overflow-wrap: normal }
.board { width: 100%; margin: .3rem 0 1rem }
.board th, .board td { text-align: left } .board th { white-space: nowrap } .board td:first-child { width: 45% }
.board small { display: block } .board td[data-of=papers] { white-space: nowrap }
.supported { color: var(--good) } .contradicted { color: var(--bad) }
.inconclusive { color: var(--open) } .not-run { color: var(--soft) }
.verdict { font-weight: 600 }
img { display: block; max-width: 100%; height: auto; margin: .5rem 0; padding: .4rem;
  background: #fff; border-radius: 4px }
pre { overflow-x: auto; background: var(--panel); padding: .6rem; font-size: .8rem;
  white-space: pre-wrap }
details { margin: .5rem 0 } summary { cursor: pointer; font-weight: 600 }
details details { margin-left: 1rem }
.bar { display: grid; grid-template-columns: 7.5rem 1fr; gap: .5rem; margin: 2px 0;
  font-size: .8rem; align-items: center }
.bar > span { text-align: right } .bar > div { display: flex; height: 1.35rem }
.bar i { overflow: hidden; text-align: center; font-style: normal; line-height: 1.35rem;
  border-right: 1px solid var(--back); min-width: 0;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0;
  list-style: none; font-size: .8rem }
.legend b { display: inline-block; width: 1.3rem; text-align: center; font-weight: 400;
  margin-right: .35rem; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.wrong { border-left: 3px solid var(--line); padding-left: .7rem; margin: .7rem 0;
  font-size: .85rem }
.wrong dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .7rem;
  margin: 0 } .wrong dt { color: var(--soft) } .wrong dd { margin: 0 }
code { font: .95em ui-monospace, monospace }
.hit { color: var(--good) }
.miss { color: var(--bad); font-weight: 700; text-decoration: underline 2px }
.gone { color: var(--bad); text-decoration: underline dotted 2px }
@media (max-width: 600px) {
  .board thead { display: none }
  .board, .board tbody, .board tr, .board td { display: block; width: auto }
  .board td:first-child { width: auto }
  .board tr { border-bottom: 1px solid var(--line); padding: .5rem 0 }
  .board td { border: 0; padding: 0 }
  .board td[data-of]:not(:empty)::before { content: attr(data-of) ': ';
    color: var(--soft) }
  .bar { grid-template-columns: 5rem 1fr }
  .scroll td { white-space: normal } .scroll th, .scroll td { padding: .2rem .35rem }
}
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb;
  --back: #fff; --panel: #f5f5f3; --good: #005b8f; --bad: #a03c00; --open: #6b5000 }
  body { font-size: 11pt; max-width: none } .scroll { overflow: visible }
  .scroll td { white-space: normal } .wrong, tr, .bar, img { break-inside: avoid } }
"""
