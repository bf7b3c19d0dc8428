"""How the status page looks, and the one script that it has."""

from __future__ import annotations

import base64
import hashlib

from halfsync.pump.status.plots import COLOURS, DARK_COLOURS, STYLE

PAGE_STYLE = f"""
:root {{ color-scheme: light dark; --rule: #8886; {COLOURS}
  --W: #ffd54f; --G: #c9b8e8; --idle: #b9e3bd; --gone: #d5d5d5; --bad: #ff9d94; --letter: #222;
  --alarm: #b3261e; }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK_COLOURS} --W: #b98a00; --G: #6f5aa0; --idle: #2c6b33;
  --gone: #555; --bad: #a8322a; --letter: #fff; --alarm: #ff8a80; }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 1rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1.05rem; margin: 1.6rem 0 .4rem; }}
p {{ margin: .4rem 0; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }}
th {{ font-weight: 600; }} tr {{ border-bottom: 1px solid var(--rule); }} .n {{ text-align: right; }}
.alarm {{ color: var(--alarm); font-weight: 600; }}
.board {{ font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }}
.board b, .legend b {{ display: inline-block; width: 1.3em; margin: 0 1px 1px 0; border-radius: 2px;
  text-align: center; color: var(--letter); background: var(--gone);
  font: 700 14px/1.5 ui-monospace, monospace; }}
.board .W, .legend .W {{ background: var(--W); }} .board .G, .legend .G {{ background: var(--G); }}
.board .idle, .legend .idle {{ background: var(--idle); }}
.board .bad, .legend .bad {{ background: var(--bad); }}
.legend {{ list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem;
  font-size: .9rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }}
figure {{ margin: 0; min-width: 0; }} figcaption {{ font-size: .85rem; }}
.key {{ display: inline-block; width: 1.4em; border-top: 3px solid; vertical-align: middle; }}
.key0 {{ border-color: var(--line0); }} .key1 {{ border-color: var(--line1); border-top-style: dashed; }}
.key2 {{ border-color: var(--line2); border-top-style: dotted; }}
{STYLE}"""

SCRIPT = """
const every = 5000;
async function refresh() {
  if (document.hidden || document.querySelector("#live input")?.checked === false) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const text = await answer.text();
    const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    for (const open of document.querySelectorAll("main details[open]"))
      fresh.querySelector("#" + open.id)?.setAttribute("open", "");
    document.querySelector("main").replaceWith(fresh);
    document.querySelector("#live span").textContent = "live";
  } catch (error) {
    document.querySelector("#live span").textContent = "live (no response: " + error.message + ")";
  }
}
document.querySelector("#live").innerHTML = "<label><input type=checkbox checked> <span>live</span></label>";
document.querySelector("meta[http-equiv]")?.remove();
setInterval(refresh, every);
"""

_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_hash}'; connect-src 'self'"
"""The page's Content-Security-Policy."""
