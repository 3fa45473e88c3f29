"""Colours and rules of the pages: one palette for light and one for dark, shared with pictures that stand alone."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["LEVELS", "PAGE_STYLE", "PICTURE_STYLE"]

#: Colours of a heat map.
LEVELS = 11

_RGB = tuple[int, int, int]
#: Names of colours, light and dark. Text has a contrast of at least 4.5 with paper and panel (WCAG 2.2, 1.4.3), and
#: marks of at least 3 (1.4.11); tests/toolkit/pages/test_style.py computes them.
COLOURS = {
    "paper": ("#ffffff", "#13161b"),
    "panel": ("#f5f6f8", "#1a1e25"),
    "ink": ("#1b212c", "#e4e7ec"),
    "muted": ("#57606e", "#9ea7b5"),
    "rule": ("#d8dce2", "#303742"),
    "mark": ("#1c6e8c", "#5cb3d1"),
    "second": ("#b3541e", "#e39b6b"),
    "alarm": ("#a4262c", "#f0868b"),
}
#: Stops of the heat maps: one hue from the paper to the strongest, and two hues that meet in grey.
_RAMPS = {
    "s": (("#e9eff2", "#7fb0c2", "#1c6e8c", "#0a3344"), ("#222a32", "#2b6178", "#5cb3d1", "#dff3fa")),
    "d": (
        ("#8f3d0f", "#dd9f78", "#eceae6", "#79adc1", "#12506a"),
        ("#f3b187", "#9a5c37", "#2a2f36", "#35708a", "#8ad3ee"),
    ),
}


def _rgb(colour: str) -> _RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _ramp(stops: tuple[str, ...]) -> list[str]:
    """Return LEVELS colours, evenly spaced along the stops."""
    parts = list(pairwise(map(_rgb, stops)))
    colours = []
    for level in range(LEVELS):
        place = level * len(parts) / (LEVELS - 1)
        index = min(int(place), len(parts) - 1)
        begin, end = parts[index]
        mixed = (round(one + (place - index) * (other - one)) for one, other in zip(begin, end, strict=True))
        colours.append("#" + "".join(f"{value:02x}" for value in mixed))
    return colours


def _variables(dark: bool) -> str:
    """Return the declarations of all colours."""
    named = {name: pair[dark] for name, pair in COLOURS.items()}
    ramps = {f"{ramp}{i}": c for ramp, pair in _RAMPS.items() for i, c in enumerate(_ramp(pair[dark]))}
    return "".join(f"--{name}:{colour};" for name, colour in (named | ramps).items())


_LEVEL_RULES = "".join(f".{ramp}{i}{{fill:var(--{ramp}{i})}}" for ramp in _RAMPS for i in range(LEVELS))

#: Rules of a picture: colours, and what its parts look like.
PICTURE_STYLE = f""":root{{{_variables(False)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(True)}}}}}
svg text{{
  font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums;
  fill:var(--muted);
}}
svg text.strong{{fill:var(--ink)}}
.paper{{fill:var(--paper)}} .panel{{fill:var(--panel)}}
.grid{{stroke:var(--rule);fill:none}} .axis{{stroke:var(--muted);fill:none}}
.mark{{fill:var(--mark)}} .second{{fill:var(--second)}}
.wash{{fill:var(--mark);fill-opacity:.18}} .wash2{{fill:var(--mark);fill-opacity:.34}}
.line{{stroke:var(--mark);stroke-width:1.6;fill:none;stroke-linejoin:round;stroke-linecap:round}}
.line2{{stroke:var(--ink);stroke-width:1.6;fill:none;stroke-dasharray:4 3}}
.thin{{stroke:var(--mark);stroke-width:1.2;fill:none}}
{_LEVEL_RULES}
"""

#: Rules of a page.
PAGE_STYLE = (
    PICTURE_STYLE
    + """*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{
  margin:0;background:var(--paper);color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
}
main,header,footer{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere;font-weight:650;letter-spacing:-.01em}
h2{font-size:18px;margin:44px 0 4px;padding-top:14px;border-top:1px solid var(--rule);font-weight:650}
h3{font-size:14px;margin:0;font-weight:600;overflow-wrap:anywhere}
p{margin:4px 0 12px;max-width:76ch;text-wrap:pretty}
.aside,.lead{color:var(--muted)} .aside{font-size:13px;margin-top:8px} .lead{font-size:16px;margin-bottom:20px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
td code,th code{font-size:12.5px}
.facts{
  display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,165px),1fr));gap:1px;margin:18px 0 0;
  border:1px solid var(--rule);border-radius:6px;overflow:hidden;
}
.facts div{box-shadow:0 0 0 1px var(--rule);padding:10px 14px;min-width:0}
.facts dt{color:var(--muted);font-size:12.5px}
.facts dd{margin:0;font-size:16px;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.facts dd small{display:block;font-size:12.5px;font-weight:400;color:var(--muted)}
.pictures{
  display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:26px 30px;
  margin-top:16px;
}
.pictures.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:18px 26px}
.pair{
  display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:0 48px;margin-top:12px;
}
figure{margin:0;min-width:0}
section>h3{margin-top:26px}
figcaption{font-size:13px;color:var(--muted);margin-bottom:6px}
figcaption h3{color:var(--ink)}
figure svg{display:block;width:100%;height:auto;max-width:460px}
.small svg{max-width:330px} .wide svg{max-width:760px}
.scroll{overflow-x:auto;margin-top:14px}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--mark);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);font-size:13px;padding-bottom:6px}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--rule);vertical-align:baseline}
thead th{color:var(--muted);font-weight:500;font-size:12.5px;vertical-align:bottom;white-space:nowrap}
tbody th{font-weight:500;min-width:8em} th:has(code){min-width:10em}
tbody tr:last-child>*{border-bottom-color:transparent}
td{white-space:nowrap} td.p{white-space:normal;overflow-wrap:anywhere}
.n{text-align:right}
th:last-child,td:last-child{padding-right:0}
td.bar{width:20%;min-width:90px;vertical-align:middle}
td.bar svg{display:block;width:100%;height:10px}
.notes{padding:0;margin:14px 0 0;list-style:none;max-width:100ch}
.notes li{
  padding:8px 12px;margin:0 0 6px;border-left:3px solid var(--second);background:var(--panel);
  border-radius:0 4px 4px 0;overflow-wrap:anywhere;
}
.notes.alarm li{border-left-color:var(--alarm)} .notes.good li{border-left-color:var(--mark)}
details{margin-top:14px} summary{cursor:pointer;color:var(--mark);width:max-content;max-width:100%}
footer{margin-top:56px;padding-bottom:40px;color:var(--muted);font-size:13px}
@media (max-width:560px){
  body{font-size:14.5px}
  main,header,footer{padding-left:16px;padding-right:16px}
  header{padding-top:22px}
  h1{font-size:22px}
  .facts{grid-template-columns:1fr 1fr}
  .o{display:none}
}
@media print{h2{break-after:avoid} figure,tr{break-inside:avoid}}
"""
)
