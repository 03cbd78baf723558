"""The subcommands `index`, which creates and updates an image index, and `search`, which queries one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from tritonclip._cli import report
from tritonclip._cli.inputs import check_complete, read_lines
from tritonclip._cli.options import (
    EXIT_OK,
    EXIT_USAGE,
    EXITS,
    GroupedCommand,
    as_json,
    connection,
    many,
    strict,
)
from tritonclip._cli.terminal import plain, visible
from tritonclip._messages.text import printable
from tritonclip.client import Client
from tritonclip.errors import InvalidInputError

if TYPE_CHECKING:
    from tritonclip.search import DuplicateGroup, Hit, SearchIndex, Summary

_FILE = click.Path(path_type=Path)
_INDEX_EXAMPLES = """\b
Examples:
  tritonclip index photos/ --to photos.index
  tritonclip index --to photos.index --duplicates --near 0.98 --json

"""
_SEARCH_EXAMPLES = """\b
Examples:
  tritonclip search photos.index "a beach"
  tritonclip search photos.index --image photo.jpg -k 50 --json
  tritonclip search photos.index "a beach" --html found.html

"""
_PLACES = """PLACE is a directory, or chroma://host:port/collection for a Chroma server.

"""


@click.command(cls=GroupedCommand, epilog=_INDEX_EXAMPLES + _PLACES + EXITS)
@click.argument("directories", nargs=-1, metavar="[DIR]...", type=click.Path())
@click.option(
    "--to", "place", required=True, metavar="PLACE", help="The index, created if it does not exist."
)
@click.option(
    "--texts",
    "text_files",
    multiple=True,
    type=click.Path(),
    help="UTF-8 file with one text per line; repeatable.",
)
@click.option("--duplicates", is_flag=True, help="List images that occur more than once.")
@click.option(
    "--near", type=float, metavar="COSINE", help="With --duplicates: also list similar images, such as 0.98."
)
@strict
@connection
@many
@as_json
def index(
    directories: tuple[str, ...],
    place: str,
    text_files: tuple[str, ...],
    duplicates: bool,
    near: float | None,
    strict: bool,
    connect: dict[str, Any],
    many: dict[str, Any],
    as_json: bool,
) -> int:
    """Create or update an image index.

    The images come from directories, searched recursively. `tritonclip search` queries the index. Only new
    and changed files are embedded. Deleted files are removed from the index. Entries outside the given
    directories are kept. The same command continues a run that was killed. Files that are not images are
    reported, and the exit code is then 2. Files that are left out by their suffix, such as .psd, are
    counted.
    """
    from tritonclip.search import SearchIndex

    if near is not None and not duplicates:
        raise click.UsageError("--near requires --duplicates")
    if not directories and not text_files and not duplicates:
        raise click.UsageError("nothing to index; give directories, --texts FILE, or --duplicates")
    if strict:
        check_complete(directories, apart_from=place)
    answer: dict[str, Any] = {}
    failed = False
    with ExitStack() as stack:
        if directories or text_files:
            client = stack.enter_context(Client(**connect))
            opened = stack.enter_context(SearchIndex.open(place, client, create=True))
            summary = _sync(opened, directories, text_files, many, quiet=as_json)
            unlisted = any(kind.is_directory for kind in summary.skipped)
            answer, failed = {"summary": asdict(summary)}, summary.failed > 0 or unlisted
        else:
            opened = stack.enter_context(SearchIndex.open(place))
        if duplicates:
            groups = opened.duplicates(near)
            answer["duplicates"] = [asdict(group) for group in groups]
            if not as_json:
                _show_duplicates(groups)
    if as_json:
        _print_json(answer)
    return EXIT_USAGE if failed else EXIT_OK


@click.command(cls=GroupedCommand, epilog=_SEARCH_EXAMPLES + _PLACES + EXITS)
@click.argument("place")
@click.argument("text", required=False)
@click.option("--image", type=click.Path(), help="Search with this file or URL instead of a text.")
@click.option(
    "--of",
    type=click.Choice(["images", "texts", "all"]),
    default="images",
    show_default=True,
    help="Kind of entries to search.",
)
@click.option("--texts", "texts_file", type=_FILE, help="Search the lines of a file instead of the index.")
@click.option("-k", "--top-k", default=10, show_default=True, help="Maximum number of results.")
@click.option("--threshold", type=float, help="Minimum cosine.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write the results as an HTML page with thumbnails.")
@connection
@as_json
def search(
    place: str,
    text: str | None,
    image: str | None,
    of: str,
    texts_file: Path | None,
    top_k: int,
    threshold: float | None,
    html: Path | None,
    connect: dict[str, Any],
    as_json: bool,
) -> None:
    """Search an index by a text or an image.

    The results are the entries that are most similar to TEXT or to --image, best first. Texts are embedded
    without a template. Scores are cosines, -1 to 1. Scores between two images are higher than scores between
    an image and a text.
    """
    from tritonclip.search import SearchIndex
    from tritonclip.search._query import embed_query, rank_texts

    if (text is None) == (image is None):
        raise click.UsageError("give either TEXT or --image")
    lines = read_lines(texts_file, "--texts", "text") if texts_file else None
    with Client(**connect) as client, SearchIndex.open(place, client) as opened:
        vector, content = embed_query(client, text, image)
        if lines is not None:
            hits = rank_texts(client, str(texts_file), lines, vector, top_k)
        else:
            kind: Any = {"images": "image", "texts": "text", "all": None}[of]
            hits = opened.search(vector, top_k, kind=kind)
    if threshold is not None:
        hits = [hit for hit in hits if hit.score >= threshold]
    if html is not None:
        _write_html(html, text or str(image), hits, content)
    if as_json:
        query = {"text": text} if text is not None else {"image": printable(str(image))}
        _print_json({"query": query, "results": [{"score": h.score, **asdict(h.entry)} for h in hits]})
    else:
        _show_hits(hits)


def _sync(
    opened: SearchIndex,
    directories: Sequence[str],
    text_files: Sequence[str],
    many: dict[str, Any],
    *,
    quiet: bool,
) -> Summary:
    def on_error(name: str, reason: str) -> None:
        report.fail(f"{visible(name)}: {reason}")

    counter = report.RecordCounter("entry")
    with report.progress(None, 0) as bar:
        options: dict[str, Any] = {**many, "on_progress": bar}
        summary = opened.sync(directories, text_files=text_files, on_error=on_error, **options)
    if not quiet:
        counts = [
            f"{getattr(summary, name)} {name}"
            for name in ("embedded", "reused", "unchanged", "deleted", "failed")
            if getattr(summary, name) or name == "embedded"
        ]
        kept = f" ({summary.kept} from an interrupted run)" if summary.kept else ""
        counter.done = summary.embedded
        rate = f", {counter.rate()}" if counter.done > 1 else ""
        text = f"{summary.total} in the index{kept}: {', '.join(counts)}; {counter.elapsed()}{rate}"
        Console().print(plain(text), soft_wrap=True)
    report.skipped(summary.skipped)
    return summary


def _show_hits(hits: list[Hit]) -> None:
    console = Console()
    console.print(plain(" score  result", style="bold"))
    for hit in hits:
        name = hit.entry.path if hit.entry.kind == "image" else hit.entry.name
        console.print(plain(f"{hit.score:6.4f}  {name}"), soft_wrap=True)


def _show_duplicates(groups: list[DuplicateGroup]) -> None:
    console = Console()
    for group in groups:
        similarity = "identical content" if group.exact else f"cosine {group.cosine:.4f}"
        console.print(plain(f"{len(group.entries)} images, {similarity}"), soft_wrap=True)
        for entry in group.entries:
            console.print(plain(f"  {entry.path}"), soft_wrap=True)
    images = sum(len(group.entries) - 1 for group in groups)
    text = f"{len(groups)} group{'' if len(groups) == 1 else 's'}; "
    text += f"{images} redundant image{'' if images == 1 else 's'}"
    console.print(plain(text), soft_wrap=True)


def _write_html(file: Path, title: str, hits: list[Hit], content: bytes | None) -> None:
    from tritonclip.search._contact_sheet import write_contact_sheet
    from tritonclip.search._thumbnails import thumbnail_of

    try:
        picture = None if content is None else thumbnail_of(content)
    except InvalidInputError:
        picture = None
    write_contact_sheet(file, title, hits, picture)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
