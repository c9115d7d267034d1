"""How programs look: a table of sites as text and as HTML."""

import html

from ppl.semantics.site import SiteInfo

_COLUMNS = ("address", "kind", "measure", "shape", "dims", "source")


def _rows(sites: dict[str, SiteInfo]) -> list[tuple[str, ...]]:
    rows = []
    for info in sites.values():
        notes = " in a branch" if info.masked else " in a while_loop" if info.unbounded else ""
        dims = ", ".join(dim or "·" for dim in info.dims) if any(info.dims) else ""
        shape = f"{info.dtype.name}{list(info.shape)}"
        measure = "" if info.kind in ("factor", "deterministic") else info.distribution
        rows.append((info.address, info.kind + notes, measure, shape, dims, info.source))
    return rows


def program_text(name: str, sites: dict[str, SiteInfo]) -> str:
    """An aligned table."""
    rows = [_COLUMNS, *_rows(sites)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"Program {name}", *(f"  {line}" for line in lines)])


def program_html(name: str, sites: dict[str, SiteInfo]) -> str:
    """A table for Jupyter that follows its colours, light or dark."""
    head = "".join(f'<th style="text-align:left">{column}</th>' for column in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left"><code>{html.escape(cell)}</code></td>' for cell in row) + "</tr>"
        for row in _rows(sites)
    )
    title = f"<strong>Program</strong> <code>{html.escape(name)}</code>"
    return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def finite_text(mass: float, rows: list[tuple[float, str]], limit: int = 20) -> str:
    """Masses and values, the heaviest first."""
    lines = [f"FiniteMeasure: {len(rows)} points, mass {mass:.6g}"]
    lines += [f"  {weight:<12.6g} {value}" for weight, value in rows[:limit]]
    return "\n".join(lines + ([f"  ... {len(rows) - limit} more"] if len(rows) > limit else []))


def finite_html(mass: float, rows: list[tuple[float, str]], limit: int = 20) -> str:
    """Masses and values as a table."""
    body = "".join(
        f'<tr><td style="text-align:right">{weight:.6g}</td>'
        f'<td style="text-align:left"><code>{html.escape(value)}</code></td></tr>'
        for weight, value in rows[:limit]
    )
    more = f"<p>{len(rows) - limit} more</p>" if len(rows) > limit else ""
    head = "<thead><tr><th>mass</th><th>value</th></tr></thead>"
    title = f"<strong>FiniteMeasure</strong>, {len(rows)} points, mass {mass:.6g}"
    return f"<div>{title}<table>{head}<tbody>{body}</tbody></table>{more}</div>"
