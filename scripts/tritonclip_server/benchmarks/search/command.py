"""The command `tritonclip-server benchmark search`: vector stores for `tritonclip.search`.

It measures recall, latency, memory, size on disk, and updates. Each store is built once. The searches of all
stores are interleaved, each in a new process with one query at a time, so that a drift of the machine affects
all. Recall is relative to a comparison with all vectors.
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
StoreFigures = dict[str, Any]


@click.command()
@click.option("--rows", default=100_000, show_default=True, help="Number of vectors.")
@click.option("--dim", default=512, show_default=True, help="Dimensions of the vectors.")
@click.option("--queries", default=200, show_default=True, help="Queries of each kind.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds of searches.")
@click.option(
    "--store",
    "names",
    multiple=True,
    type=click.Choice(list(STORES)),
    help="Stores to compare.  [default: all]",
)
@click.option(
    "--data",
    "kinds",
    multiple=True,
    type=click.Choice(["clustered", "uniform"]),
    help="Kinds of vectors.  [default: both]",
)
@click.option(
    "--child", hidden=True, nargs=4, help="Run one step in this process: step, store, two directories."
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
    """Compare vector stores on clustered and on uniform random vectors.

    The clustered vectors resemble embeddings; images and texts are the queries. A store whose package is not
    installed is left out; install all with: pip install --group search-bench
    """
    if child:
        step, store, data_folder, store_folder = child
        click.echo(json.dumps(STEPS[step](STORES[store](Path(store_folder)), Path(data_folder))))
        return
    console = Console(highlight=False, soft_wrap=True)
    for kind in kinds or ("clustered", "uniform"):
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "data"
            write_data(data, kind, rows, dim, queries)
            console.print(f"{rows} {kind} vectors of {dim}, {TOP_K} nearest, medians of {rounds} runs")
            show(console, measure(names or tuple(STORES), data, Path(scratch), rounds))


def write_data(directory: Path, kind: str, rows: int, dim: int, queries: int) -> None:
    """Write vectors, new vectors for the update, queries, and the true neighbours of the queries."""
    directory.mkdir()
    if kind == "uniform":
        vectors, more = uniform(rows, dim, 1), uniform(CHANGED, dim, 2)
        queries_of = {"uniform": uniform(queries, dim, 3)}
    else:
        clustered = Clustered(dim)
        vectors, more = clustered.images(rows, 1), clustered.images(CHANGED, 2)
        queries_of = {"image": clustered.images(queries, 3), "text": clustered.texts(queries, 4)}
    np.save(directory / "vectors.npy", vectors)
    np.save(directory / "more.npy", more)
    for name, query in queries_of.items():
        np.save(directory / f"query_{name}.npy", query)
        np.save(directory / f"true_{name}.npy", nearest(vectors, query, TOP_K))


def measure(names: tuple[str, ...], data: Path, scratch: Path, rounds: int) -> dict[str, StoreFigures]:
    """Measure each store that is installed."""
    figures: dict[str, StoreFigures] = {}
    for name in names:
        try:
            release = version(PACKAGES.get(name, name))
        except PackageNotFoundError:
            continue
        place = scratch / name
        place.mkdir()
        figures[name] = {"release": release, **run_step("build", name, data, place)}
        figures[name]["disk_mib"] = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 2**20
    searched: dict[str, list[StoreFigures]] = defaultdict(list)
    for _ in range(rounds):
        for name in figures:
            searched[name].append(run_step("search", name, data, scratch / name))
    for name, found in searched.items():
        figures[name] |= {key: statistics.median(one[key] for one in found) for key in found[0]}
        figures[name] |= run_step("update", name, data, scratch / name)
    return figures


def run_step(step: str, name: str, data: Path, place: Path) -> StoreFigures:
    """Run a step in a separate process."""
    command = [
        sys.executable,
        "-m",
        "tritonclip_server.benchmarks.search.command",
        "--child",
        step,
        name,
        str(data),
        str(place),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{name}, {step}: {done.stderr[-800:]}")
    result: StoreFigures = json.loads(done.stdout.splitlines()[-1])
    return result


def build(store: VectorStore, data: Path) -> StoreFigures:
    """Build the store, and return the time it takes."""
    vectors = np.load(data / "vectors.npy")
    start_s = time.perf_counter()
    store.build(np.arange(len(vectors)), vectors)
    return {"build_s": time.perf_counter() - start_s}


def search(store: VectorStore, data: Path) -> StoreFigures:
    """Search once per query, after one warm-up query of each kind."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_mib()
    store.open()
    figures: StoreFigures = {}
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
    """Return the peak memory of this process, including mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def update(store: VectorStore, data: Path) -> StoreFigures:
    """Delete 1,000 rows and change 1,000 others, then count the changed rows that a search finds."""
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


def show(console: Console, figures: dict[str, StoreFigures]) -> None:
    """Print the figures as a Markdown table."""
    columns = list(next(iter(figures.values())))
    console.print(f"| store | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in figures.items():
        cells = (_format(key, row[key]) for key in columns)
        console.print(f"| {name} | {' | '.join(cells)} |")


def _format(key: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if key.endswith("recall") else f"{value:.1f}"


if __name__ == "__main__":
    main()
