"""Run a headless load test against the embedded Triton or running servers.

    .venv/bin/python loadtest/run.py --repository build/repositories/scripts--demo--checkpoint

Environment variables `TRITONCLIP_LOAD_*` set everything that has no option; see README.md. Exit code 1 means
that a threshold was missed.
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
    """Serve a repository, and yield the settings with the addresses; without a repository yield none."""
    if repository is None:
        yield {}
        return
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        click.echo(f"serving {repository}")
        yield {
            "grpc_url": server.grpc_url,
            "http_url": f"http://{server.http_url}",
            "metrics_url": server.metrics_url,
        }


def environment_of(given: dict[str, Any]) -> dict[str, str]:
    """Return the environment together with the settings given as options."""
    chosen = {PREFIX + name.upper(): str(value) for name, value in given.items() if value is not None}
    return dict(os.environ) | chosen


def locust_command(settings: LoadSettings, users: int, run_time_s: int, output: Path) -> list[str]:
    """Return the command line of a headless locust run."""
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless"]
    command += ["--only-summary", "--stop-timeout", str(int(settings.deadline_s) + STOP_MARGIN_S)]
    command += ["--html", str(output / "report.html"), "--csv", str(output / "report")]
    if settings.shape == "constant":
        command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{run_time_s}s"]
    return command


def run_locust(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return its exit code; stop it on any exception."""
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
@click.option("--repository", type=click.Path(path_type=Path), help="Repository to serve during the test.")
@click.option("--url", "grpc_url", help="gRPC address of a running server, host:port.")
@click.option("--http-url", help="HTTP address of a running server, http://host:port.")
@click.option("--metrics-url", help="Metrics address of a running server, host:port.")
@click.option("--protocol", help="grpc, http, gateway, or several separated by commas.")
@click.option("--shape", type=click.Choice(SHAPES), help="Load shape; constant by default.")
@click.option("--users", default=8, show_default=True, help="Number of users, for the shape constant.")
@click.option("--run-time-s", default=30, show_default=True, help="Duration, for the shape constant.")
@click.option("--rate", type=float, help="Requests/s: first rate of knee, base rate of overload.")
@click.option("--max-p99-ms", type=float, help="Threshold: largest p99 of right answers.")
@click.option("--max-error-share", type=float, help="Threshold: largest share of failures; 0 by default.")
@click.option("--min-rate", type=float, help="Threshold: lowest rate of right answers, per second.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/loadtest"),
    show_default=True,
    help="Folder for the reports.",
)
def main(repository: Path | None, users: int, run_time_s: int, output: Path, **given: Any) -> None:
    """Load a server and write a report. Give --repository, or the URLs of running servers."""
    signal.signal(signal.SIGTERM, _on_signal)
    given["output"] = output / "shape.json"
    try:
        settings = LoadSettings.from_env(environment_of(given))
    except SettingError as error:
        raise click.ClickException(str(error)) from error
    if repository is None and not (given["grpc_url"] or given["http_url"] or "gateway" in settings.protocol):
        raise click.UsageError(
            "no server to load: give --repository, or --url or --http-url of a running server"
        )
    output.mkdir(parents=True, exist_ok=True)
    try:
        with served(repository) as addresses:
            code = run_locust(
                locust_command(settings, users, run_time_s, output), environment_of(given | addresses)
            )
    except LaunchError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"reports: {output}/report.html, {output}/report_*.csv")
    if settings.is_open_loop:
        click.echo(f"result of the shape: {given['output']}")
    sys.exit(code)


if __name__ == "__main__":
    main()
