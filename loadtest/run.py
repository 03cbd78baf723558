"""Runs a load test headless against the embedded Triton, or against servers that run already.

    .venv/bin/python loadtest/run.py --repository build/repositories/scripts--demo--checkpoint

What has no option here is set by `TRITONCLIP_LOAD_*`, see README.md. The exit code is 1 where a threshold was
missed, which is then named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from load.settings import PREFIX, SHAPES, LoadSettings, SettingError
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions

HERE = Path(__file__).resolve().parent

STOP_MARGIN_S = 2
END_S = 20.0


@contextlib.contextmanager
def served(repository: Path | None) -> Iterator[dict[str, str]]:
    """The settings that name the embedded server on a repository; none where there is no repository."""
    if repository is None:
        yield {}
        return
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        click.echo(f"Triton serves {repository}")
        yield {
            "grpc_url": server.grpc_url,
            "http_url": f"http://{server.http_url}",
            "metrics_url": server.metrics_url,
        }


def environment_of(given: dict[str, Any]) -> dict[str, str]:
    """The environment, with the settings that were given as options."""
    chosen = {PREFIX + name.upper(): str(value) for name, value in given.items() if value is not None}
    return dict(os.environ) | chosen


def locust_command(settings: LoadSettings, users: int, run_time_s: int, output: Path) -> list[str]:
    """The command line of a headless locust."""
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless"]
    command += ["--only-summary", "--stop-timeout", str(int(settings.deadline_s) + STOP_MARGIN_S)]
    command += ["--html", str(output / "report.html"), "--csv", str(output / "report")]
    if settings.shape == "constant":
        command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{run_time_s}s"]
    return command


def run_locust(command: list[str], environment: dict[str, str]) -> int:
    """Run it to its end; it is ended before any exception leaves."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()
            raise


def _on_signal(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), help="Serve this repository meanwhile.")
@click.option("--url", "grpc_url", help="Of a running server's gRPC, as host:port.")
@click.option("--http-url", help="Of a running server's HTTP, as http://host:port.")
@click.option("--metrics-url", help="Of a running server's metrics, as host:port.")
@click.option("--protocol", help="grpc, http or gateway, or several separated by commas.")
@click.option("--shape", type=click.Choice(SHAPES), help="Course of the load; constant by default.")
@click.option("--users", default=8, show_default=True, help="Of the shape constant.")
@click.option("--run-time-s", default=30, show_default=True, help="Of the shape constant.")
@click.option("--rate", type=float, help="Requests/s: where knee begins, what overload multiplies.")
@click.option("--max-p99-ms", type=float, help="Threshold.")
@click.option("--max-error-share", type=float, help="Threshold; 0 by default.")
@click.option("--min-rate", type=float, help="Threshold: right answers/s.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/loadtest"),
    show_default=True,
    help="Folder.",
)
def main(repository: Path | None, users: int, run_time_s: int, output: Path, **given: Any) -> None:
    """Loads a server and leaves a report; give --repository, or the URLs of running servers."""
    signal.signal(signal.SIGTERM, _on_signal)
    given["output"] = output / "shape.json"
    try:
        settings = LoadSettings.from_env(environment_of(given))
    except SettingError as error:
        raise click.ClickException(str(error)) from error
    if repository is None and not (given["grpc_url"] or given["http_url"] or "gateway" in settings.protocol):
        raise click.UsageError(
            "nothing to load: give --repository, or --url or --http-url of a running server"
        )
    output.mkdir(parents=True, exist_ok=True)
    try:
        with served(repository) as addresses:
            code = run_locust(
                locust_command(settings, users, run_time_s, output), environment_of(given | addresses)
            )
    except LaunchError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"report: {output}/report.html, {output}/report_*.csv")
    if settings.is_open_loop:
        click.echo(f"found: {given['output']}")
    sys.exit(code)


if __name__ == "__main__":
    main()
