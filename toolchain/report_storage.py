"""The part of the report page that says where the bytes of the file go."""

from html import escape

from toolchain.console import format_bytes, format_share
from toolchain.results import TransformResult


def ratios(result: TransformResult) -> str:
    """``6.3× smaller than the input, 1.6× smaller than its weights in int8``; "" if unwritten."""
    if result.output is None:
        return ""
    nbytes, others = result.output.nbytes, [(result.input.nbytes, "the input")]
    if result.int8_nbytes is not None:
        others.append((result.int8_nbytes, "its weights in int8"))
    return ", ".join(
        f"{other / nbytes:.1f}× smaller than {name}" for other, name in others if other > nbytes
    )


def storage(result: TransformResult) -> str:
    """Bytes, share and entropy bound of every part of the output file."""
    if result.output is None or not result.storage:
        return ""
    nbytes = result.output.nbytes
    names = ("Bytes", "Share", "Entropy bound")
    head = '<th scope="col">Stored</th>'
    head += "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    rows = [_row(part.part, part.nbytes, nbytes, part.bound) for part in result.storage]
    total = _row("File", nbytes, nbytes, sum(part.bound for part in result.storage))
    compared = ratios(result)
    return (
        "<h2>Where the bytes go</h2>"
        f'<p class="soft">{escape(compared[:1].upper() + compared[1:])}{"." if compared else ""} '
        "The bound is what an ideal code of the same content needs.</p>"
        '<div class="card scroll" tabindex="0" role="region" aria-label="Storage"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f"<tfoot>{total}</tfoot></table></div>"
    )


def _row(name: str, nbytes: int, of: int, bound: int) -> str:
    cells = (format_bytes(nbytes), format_share(nbytes / of, 1), format_bytes(bound))
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{numbers}</tr>'
