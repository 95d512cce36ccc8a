"""How the status page looks: its style, its shapes, and the few lines of script that it can do without."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from urllib.parse import quote

REFRESH = 5                                         # seconds

STYLE = """
:root{color-scheme:light dark;--bg:#f3f4f6;--card:#fff;--ink:#1c2128;--soft:#57606a;--line:#d9dee3;--faint:#e4e8ec;
--link:#0a58ca;--ok:#1a7f37;--ok-bg:#dcf5e3;--warn:#8a5a00;--warn-bg:#fff3cd;--bad:#c01c28;--bad-bg:#ffe5e5;
--off:#57606a;--off-bg:#e8ebef;--unk:#57606a;--unk-bg:#e8ebef;--shade:0 1px 2px rgba(27,31,36,.08)}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--card:#161b22;--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;
--faint:#262c34;--link:#79b8ff;--ok:#4cc26a;--ok-bg:#12291a;--warn:#e3b341;--warn-bg:#2b2310;--bad:#ff8182;
--bad-bg:#331619;--off:#9da7b1;--off-bg:#262c34;--unk:#9da7b1;--unk-bg:#262c34;--shade:none}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans",sans-serif;-webkit-text-size-adjust:100%}
a{color:var(--link);text-decoration:none}a:hover,a:focus-visible{text-decoration:underline}
code,.n{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.9em}
h1,h2,h3,p,ol,ul,dl,dd,form{margin:0;padding:0}ol,ul{list-style:none}
.s{color:var(--soft)}.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
svg.i{width:1.15em;height:1.15em;flex:none;vertical-align:-.2em;fill:currentColor}
.ok{--c:var(--ok);--b:var(--ok-bg)}.warn{--c:var(--warn);--b:var(--warn-bg)}.bad{--c:var(--bad);--b:var(--bad-bg)}
.off{--c:var(--off);--b:var(--off-bg)}.unk{--c:var(--unk);--b:var(--unk-bg)}
.pill{display:inline-flex;align-items:center;gap:.35em;padding:.1em .6em .1em .45em;border-radius:99px;color:var(--c);
background:var(--b);font-weight:600;font-size:.87em;white-space:nowrap}
.tag{display:inline-block;padding:0 .45em;border:1px solid var(--line);border-radius:5px;font-size:.77em;
color:var(--soft);white-space:nowrap}
header,main,footer,.bar{max-width:1160px;margin:0 auto;padding:0 16px}
header{display:flex;flex-wrap:wrap;gap:.2em .9em;align-items:center;padding-top:18px;padding-bottom:12px}
header b{font-size:1.25em;letter-spacing:-.01em}header svg{width:26px;height:26px;stroke:var(--link);flex:none}
header form{margin-left:auto;display:flex;gap:6px}
input,button{font:inherit;font-size:.93em;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:7px;padding:.3em .6em;min-width:0}input{width:14em}button{cursor:pointer}
:focus-visible{outline:2px solid var(--link);outline-offset:1px}
.card{background:var(--card);border:1px solid var(--line);border-radius:11px;box-shadow:var(--shade);overflow:hidden}
.hero{border-left:6px solid var(--c);padding:16px 18px}
.hero h1{font-size:1.4em;line-height:1.25;display:flex;gap:.45em;align-items:flex-start}.hero h1 svg{color:var(--c)}
.hero h1 svg.i{width:1.25em;height:1.25em;vertical-align:0}
.hero ul{display:grid;gap:6px 16px;margin-top:10px;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr))}
.hero li{display:flex;flex-wrap:wrap;gap:.1em .5em;align-items:center}
.hero li .s{font-size:.87em;margin:0;overflow-wrap:anywhere}
.hero ul a{color:inherit;white-space:normal;overflow-wrap:anywhere;border-radius:12px}.hero ul a svg{color:var(--c)}
.hero .s{margin-top:8px;font-size:.84em}
.alert{margin-top:10px;padding:9px 14px;border-radius:9px;background:var(--b);color:var(--c);overflow-wrap:anywhere;
display:flex;gap:.5em;align-items:flex-start}.alert svg{margin-top:.15em}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;margin-top:10px}
dl div{padding:9px 14px}dt{color:var(--soft);font-size:.84em}dd{font-size:1.15em;font-weight:600;white-space:nowrap}
dd small{font-weight:400;font-size:.76em;color:var(--soft)}
h2{font-size:1.15em;margin:26px 2px 8px;display:flex;flex-wrap:wrap;gap:.1em .6em;align-items:baseline}
h2 span{font-weight:400;font-size:.82em}
section .card+.card{margin-top:12px}
.head{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center;padding:10px 16px}
.head h3{font-size:1em}.head .pill{margin-left:auto}.head .s{font-size:.87em}
table{width:100%;border-collapse:collapse;table-layout:fixed}
th{font-size:.78em;font-weight:500;color:var(--soft);text-align:left;padding:4px 10px}
td,tbody th{padding:7px 10px;border-top:1px solid var(--faint);vertical-align:middle;overflow-wrap:anywhere}
thead th{border-top:1px solid var(--faint)}
th:first-child,td:first-child{padding-left:16px}th:last-child,td:last-child{padding-right:16px}
.cs{width:164px}.cm{width:16%}.cr{width:104px}.ct{width:74px}.ch{width:146px}.cl,.cd{width:112px}
tbody th{font-size:1em;font-weight:400;color:inherit}
summary{cursor:pointer;display:flex;gap:.5em;align-items:baseline;list-style:none}summary::-webkit-details-marker{
display:none}summary:before{content:"▸";color:var(--soft)}details[open]>summary:before{content:"▾"}
summary h2{margin:18px 2px 6px}details:not([open]) h2{margin:8px 2px}
.card details{border-top:1px solid var(--faint)}.card summary{padding:0 16px}summary .more{padding:6px 4px;
display:inline-block;border:0}
tr:target>*{background:var(--warn-bg)}tbody tr:hover>*{background:var(--bg)}
tr.bad td:first-child,tr.warn td:first-child{box-shadow:inset 3px 0 var(--c)}
th .who{font-weight:600}td .n,th .n{color:var(--soft);display:block}th .tag{margin-left:.35em;vertical-align:.1em}
td .why{display:block;font-size:.93em}td time{white-space:nowrap}
.cs .pill{white-space:normal;border-radius:12px}h2 .pill{align-self:center}td .why code{font-weight:600;color:var(--c)}
.rule{font-size:.93em;white-space:nowrap;color:var(--soft)}.rule.warn{color:var(--c);font-weight:600}
.strip{display:block;width:126px;max-width:100%;height:20px}.strip path{fill:none;stroke-dasharray:2 1}
.strip .p{stroke:var(--ok);stroke-width:10}.strip .f{stroke:var(--bad);stroke-width:18}.strip .o{stroke:var(--line);
stroke-width:2}.strip .d{stroke:var(--off);stroke-width:5}.day path{stroke-dasharray:none}.day,.line{width:92px}
.line .l{stroke:var(--link);stroke-width:1.5;stroke-dasharray:none;vector-effect:non-scaling-stroke}
.cl .n{font-size:.75em}
.more{padding:8px 16px;border-top:1px solid var(--faint);font-size:.93em}
.log li{display:grid;grid-template-columns:max-content 1.2em 1fr;gap:.2em .7em;padding:6px 16px;
border-top:1px solid var(--faint);overflow-wrap:anywhere}.log li:first-child{border-top:0}
.log svg{color:var(--c);margin-top:.2em}.log time{color:var(--soft);white-space:nowrap}
footer{padding-top:22px;padding-bottom:30px;color:var(--soft);font-size:.87em;display:flex;
flex-wrap:wrap;gap:.2em 1.2em}
[hidden]{display:none!important}
@media(max-width:1060px){.ch,.cl{display:none}}@media(max-width:860px){.cm{width:30%}.cd{display:none}}
@media(max-width:640px){header form{margin-left:0;width:100%}input{flex:1;width:auto}
dl{grid-template-columns:1fr 1fr}.hero h1{font-size:1.2em}
table,tbody{display:block}thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{display:grid;grid-template-columns:1fr max-content;gap:4px 12px;padding:10px 16px;border-top:1px solid var(--faint)}
tbody tr:hover td,tr:target>*{background:none}
tr[class]>td[class],tr[class]>th[class]{display:block;border:0;padding:0;width:auto;box-shadow:none}
tr.bad,tr.warn{box-shadow:inset 3px 0 var(--c)}dl div:last-child:nth-child(odd){grid-column:1/-1}
th.cm{grid-column:1;grid-row:1}td.cs{grid-column:2;grid-row:1;text-align:right}
td.cw,td.ch{grid-column:1/-1}.strip{width:100%;height:16px}td.cl{grid-column:1;grid-row:5}td.cd{grid-column:2;grid-row:5;width:112px}
td.cr{grid-column:1;grid-row:4}td.ct{grid-column:2;grid-row:4;text-align:right}
td.ct:before{content:"for ";color:var(--soft)}
.log li{grid-template-columns:max-content 1fr;}.log li span{grid-column:1/-1}}
"""

#: each state has a shape of its own, for who cannot tell the colours
SHAPES = {
    "ok": '<path d="M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm3.9 6.2-4.6 5a.8.8 0 0 1-1.2 0L4 9.1a.8.8 0 0 1 1.1-1.2'
          'l1.6 1.6 4.1-4.4a.8.8 0 1 1 1.1 1.1Z"/>',
    "warn": '<path d="M6.7 1.3a1.5 1.5 0 0 1 2.6 0l6.4 11.6a1.4 1.4 0 0 1-1.3 2.1H1.6a1.4 1.4 0 0 1-1.3-2.1Z'
            'M8 5a.8.8 0 0 0-.8.8v3.5a.8.8 0 0 0 1.6 0V5.8A.8.8 0 0 0 8 5Zm0 6a1 1 0 1 0 0 2 1 1 0 0 0 0-2Z"/>',
    "bad": '<path d="M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7Zm.8 4.4a.8.8 0 0 0-1.1 1.1L6.9 8l-2.5 2.5'
           'a.8.8 0 1 0 1.1 1.1L8 9.1l2.5 2.5a.8.8 0 0 0 1.1-1.1L9.1 8l2.5-2.5a.8.8 0 0 0-1.1-1.1L8 6.9Z"/>',
    "off": '<path d="M2.5 0h11A2.5 2.5 0 0 1 16 2.5v11a2.5 2.5 0 0 1-2.5 2.5h-11A2.5 2.5 0 0 1 0 13.5v-11'
           'A2.5 2.5 0 0 1 2.5 0ZM5.6 4.2a.8.8 0 0 0-.8.8v6a.8.8 0 0 0 1.6 0V5a.8.8 0 0 0-.8-.8Zm4.8 0a.8.8 0 0 0'
           '-.8.8v6a.8.8 0 0 0 1.6 0V5a.8.8 0 0 0-.8-.8Z"/>',
    "unk": '<path d="M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm0 1.6a6.4 6.4 0 1 1 0 12.8A6.4 6.4 0 0 1 8 1.6ZM4.6 7a1 1 0 1 0'
           ' 0 2 1 1 0 0 0 0-2Zm3.4 0a1 1 0 1 0 0 2 1 1 0 0 0 0-2Zm3.4 0a1 1 0 1 0 0 2 1 1 0 0 0 0-2Z"/>',
}
SYMBOLS = ('<svg class="sr" aria-hidden="true">'
           + "".join(f'<symbol id="{name}" viewBox="0 0 16 16">{path}</symbol>' for name, path in SHAPES.items())
           + "</svg>")
LOGO = ('<svg viewBox="0 0 26 26" fill="none" stroke-width="2.4" stroke-linecap="round" aria-hidden="true">'
        '<path d="M2 13h8M10 13l11-8M10 13h12M10 13l11 8"/></svg>')
COLOURS = {"ok": "#1a7f37", "warn": "#d29922", "bad": "#d1242f", "off": "#6e7781", "unk": "#6e7781"}

#: puts the new page in the place of the old one, so that it neither flickers nor scrolls; says when nobody answers
SCRIPT = """
(() => {
  const main = document.querySelector("main"), gone = document.getElementById("gone");
  const refresh = async () => {
    if (document.hidden || !getSelection().isCollapsed) return;
    try {
      const answer = await fetch(location.href, {cache: "no-store"});
      if (!answer.ok) throw answer.status;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of main.querySelectorAll("details")) {
        const now = page.getElementById(old.id);
        if (now && old.open !== old.hasAttribute("data-open")) now.open = old.open;
      }
      main.replaceChildren(...page.querySelector("main").childNodes);
      document.title = page.title;
      document.querySelector("link[rel=icon]").href = page.querySelector("link[rel=icon]").href;
      gone.hidden = true;
    } catch { gone.hidden = false; }
  };
  setInterval(refresh, REFRESH * 1000);
  document.addEventListener("visibilitychange", refresh);
})();
""".replace("REFRESH", str(REFRESH))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


#: the page may use its own style and script and ask its own server, and nothing else
POLICY = (f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; img-src data:; "
          "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")


def icon(tone: str) -> str:
    """The little picture of a browser's tab."""
    return "data:image/svg+xml," + quote(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" '
                                         f'fill="{COLOURS[tone]}" fill-rule="evenodd">{SHAPES[tone]}</svg>')
