"""Measures vector stores for `tritonclip.search`: recall, latency, memory, size on disk, updates.

Each store is built once, and then searched in turns, every time in a new process with one query at a time, so
that a drifting machine cannot favour one. Recall is against comparing all vectors. Needs the dependency group
`search-bench`; a store that is not installed is left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from tritonclip_server.benchmarks.search.stores import STORES, VectorStore
from tritonclip_server.benchmarks.search.vectors import Clustered, nearest, uniform

TOP_K = 10
CHANGED = 1000
PACKAGES = {"exact": "numpy", "faiss": "faiss-cpu"}
Figures = dict[str, Any]


@click.command()
@click.option("--rows", default=100_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--queries", default=200, show_default=True, help="Of each kind.")
@click.option("--rounds", default=3, show_default=True, help="Times that each store is searched.")
@click.option("--store", "names", multiple=True, type=click.Choice(list(STORES)), help="[default: all]")
@click.option(
    "--data", "kinds", multiple=True, type=click.Choice(["clustered", "uniform"]), help="[default: both]"
)
@click.option(
    "--child", hidden=True, nargs=4, help="Work in a process of its own: step, store, two directories."
)
def main(
    rows: int,
    dim: int,
    queries: int,
    rounds: int,
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    child: tuple[str, str, str, str] | None,
) -> None:
    """Compares stores on clustered vectors, with images and texts as queries, and on uniform random ones."""
    if child:
        step, store, given, place = child
        click.echo(json.dumps(STEPS[step](STORES[store](Path(place)), Path(given))))
        return
    console = Console(highlight=False, soft_wrap=True)
    for kind in kinds or ("clustered", "uniform"):
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "data"
            write_data(data, kind, rows, dim, queries)
            console.print(f"{rows} {kind} vectors of {dim}, {TOP_K} nearest, medians of {rounds} runs")
            show(console, measure(names or tuple(STORES), data, Path(scratch), rounds))


def write_data(directory: Path, kind: str, rows: int, dim: int, queries: int) -> None:
    """Write vectors, further ones for the update, queries, and the true neighbours of these."""
    directory.mkdir()
    if kind == "uniform":
        vectors, more = uniform(rows, dim, 1), uniform(CHANGED, dim, 2)
        asked = {"uniform": uniform(queries, dim, 3)}
    else:
        made = Clustered(dim)
        vectors, more = made.images(rows, 1), made.images(CHANGED, 2)
        asked = {"image": made.images(queries, 3), "text": made.texts(queries, 4)}
    np.save(directory / "vectors.npy", vectors)
    np.save(directory / "more.npy", more)
    for name, query in asked.items():
        np.save(directory / f"query_{name}.npy", query)
        np.save(directory / f"true_{name}.npy", nearest(vectors, query, TOP_K))


def measure(names: tuple[str, ...], data: Path, scratch: Path, rounds: int) -> dict[str, Figures]:
    """The figures of each store that is installed."""
    figures: dict[str, Figures] = {}
    for name in names:
        try:
            release = version(PACKAGES.get(name, name))
        except PackageNotFoundError:
            continue
        place = scratch / name
        place.mkdir()
        figures[name] = {"release": release, **run("build", name, data, place)}
        figures[name]["disk_mib"] = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 2**20
    searched: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(rounds):
        for name in figures:
            searched[name].append(run("search", name, data, scratch / name))
    for name, found in searched.items():
        figures[name] |= {key: statistics.median(one[key] for one in found) for key in found[0]}
        figures[name] |= run("update", name, data, scratch / name)
    return figures


def run(step: str, name: str, data: Path, place: Path) -> Figures:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--child", step, name, str(data), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{name}, {step}: {done.stderr[-800:]}")
    result: Figures = json.loads(done.stdout.splitlines()[-1])
    return result


def build(store: VectorStore, data: Path) -> Figures:
    """Write all."""
    vectors = np.load(data / "vectors.npy")
    start_s = time.perf_counter()
    store.build(np.arange(len(vectors)), vectors)
    return {"build_s": time.perf_counter() - start_s}


def search(store: VectorStore, data: Path) -> Figures:
    """Ask each query once, after one of each kind to warm up."""
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = peak_mib()
    store.open()
    figures: Figures = {}
    for file in sorted(data.glob("query_*.npy")):
        name = file.stem.removeprefix("query_")
        queries, truth = np.load(file), np.load(data / f"true_{name}.npy")
        list(store.search(queries[0], TOP_K))
        times, right = [], 0
        for query, true in zip(queries, truth, strict=True):
            start_s = time.perf_counter()
            found = list(store.search(query, TOP_K))
            times.append(time.perf_counter() - start_s)
            right += len(set(found) & set(true.tolist()))
        figures |= {
            f"{name}_p50_ms": 1000 * statistics.median(times),
            f"{name}_p95_ms": 1000 * float(np.percentile(times, 95)),
            f"{name}_recall": right / (TOP_K * len(queries)),
        }
    return {**figures, "memory_mib": peak_mib() - before}


def peak_mib() -> float:
    """The most memory of this process so far, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def update(store: VectorStore, data: Path) -> Figures:
    """Delete 1,000 rows and change 1,000 others; then each of the changed ones must find itself."""
    more = np.load(data / "more.npy")
    gone, changed = np.arange(CHANGED), np.arange(CHANGED, 2 * CHANGED)
    store.open()
    start_s = time.perf_counter()
    store.update(gone, changed, more)
    update_s = time.perf_counter() - start_s
    store.open()
    found = [list(store.search(vector, 1)) for vector in more[:100]]
    return {"update_s": update_s, "updated": sum(i in f for i, f in zip(changed[:100], found, strict=True))}


STEPS = {"build": build, "search": search, "update": update}


def show(console: Console, figures: dict[str, Figures]) -> None:
    """Print the figures as a table of Markdown."""
    columns = list(next(iter(figures.values())))
    console.print(f"| store | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in figures.items():
        cells = (_shown(key, row[key]) for key in columns)
        console.print(f"| {name} | {' | '.join(cells)} |")


def _shown(key: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if key.endswith("recall") else f"{value:.1f}"


if __name__ == "__main__":
    main()
