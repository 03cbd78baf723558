"""Users and load shape for locust, configured by environment variables; see README.md.

locust -f loadtest/locustfile.py --headless --users 8 --run-time 30s --stop-timeout 15
"""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import gevent
from locust import User, constant, constant_pacing, events, task  # patches the standard library
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner, WorkerRunner

import grpc.experimental.gevent as grpc_gevent  # isort: skip

grpc_gevent.init_gevent()  # otherwise gRPC calls block all greenlets and distort latencies

from load.answers import FirstAnswers  # noqa: E402
from load.arrivals import GreenletPool, run_step  # noqa: E402
from load.callers import Caller, GatewayCaller, TritonCaller  # noqa: E402
from load.knee import find_knee  # noqa: E402
from load.outcomes import Outcome, perform  # noqa: E402
from load.overload import overload  # noqa: E402
from load.pictures import draw_pictures  # noqa: E402
from load.settings import LoadSettings, SettingError  # noqa: E402
from load.stats import figures_of_knee, figures_of_overload, figures_of_stats  # noqa: E402
from load.step import StepResult  # noqa: E402
from load.thresholds import RunFigures, missed_thresholds  # noqa: E402
from load.workload import Job, Workload  # noqa: E402

LOGGED_FAILURES = 20
logger = logging.getLogger("loadtest")
try:
    SETTINGS = LoadSettings.from_env()
except SettingError as error:
    sys.exit(f"error: {error}")
if SETTINGS.shape == "stages":
    from load.shapes import StagesShape as StagesShape
if SETTINGS.shape == "spike":
    from load.shapes import SpikeShape as SpikeShape

WORKLOAD = Workload(SETTINGS)
PICTURES = draw_pictures(SETTINGS.pictures, SETTINGS.seed)
ANSWERS = FirstAnswers(SETTINGS.score_tolerance, SETTINGS.cosine_tolerance)
gevent.get_hub().loop.update_now()  # drawing took seconds, which locust would subtract from the run time
_users, _logged = itertools.count(), itertools.count()
_found: dict[str, Any] = {}


def is_unused(protocol: str) -> bool:
    """Return True if no users of this protocol are needed."""
    return SETTINGS.is_open_loop or protocol not in SETTINGS.protocol


def open_caller(protocol: str) -> Caller:
    """Return a caller with new connections."""
    if protocol == "gateway":
        return GatewayCaller(SETTINGS, PICTURES)
    return TritonCaller(protocol, SETTINGS, PICTURES)


class SharedCaller:
    """A caller that its owner closes."""

    def __init__(self, caller: Caller) -> None:
        self.send = caller.send

    def close(self) -> None:
        """Do nothing; the owner closes the caller."""


def stream_of(environment: Environment, user: int) -> Iterator[Job]:
    """Return the jobs of a user of this process."""
    runner = environment.runner
    worker = runner.worker_index if isinstance(runner, WorkerRunner) else 0
    return WORKLOAD.jobs(worker, user)


def report(environment: Environment, protocol: str, outcome: Outcome) -> None:
    """Report a request to locust. The first failures are logged in full."""
    if outcome.failure is not None and next(_logged) < LOGGED_FAILURES:
        logger.warning("%s: %s", outcome.name, outcome.detail)
    environment.events.request.fire(
        request_type=protocol,
        name=outcome.name,
        response_time=outcome.latency_ms,
        response_length=outcome.size_bytes,
        exception=outcome.failure,
        context={},
    )


class LoadUser(User):
    """User in a closed loop: the next request waits for the last answer."""

    abstract = True
    protocol = ""
    wait_time = constant_pacing(SETTINGS.pace_s) if SETTINGS.pace_s else constant(0)

    def on_start(self) -> None:
        """Open connections, and start a stream of jobs."""
        self.caller = open_caller(self.protocol)
        self.jobs = stream_of(self.environment, next(_users))

    @task
    def request(self) -> None:
        """Send the next request."""
        report(self.environment, self.protocol, perform(self.caller, next(self.jobs), ANSWERS))

    def on_stop(self) -> None:
        """Close the connections, because open gRPC channels keep the process alive."""
        self.caller.close()


class GrpcUser(LoadUser):
    """User of Triton's gRPC port, through the client package."""

    abstract = is_unused("grpc")
    protocol = "grpc"


class HttpUser(LoadUser):
    """User of Triton's HTTP port, through the client package."""

    abstract = is_unused("http")
    protocol = "http"


class GatewayUser(LoadUser):
    """User of the REST gateway."""

    abstract = is_unused("gateway")
    protocol = "gateway"


class ArrivalsUser(User):
    """Source of all requests in an open loop. The run ends with its shape."""

    abstract = not SETTINGS.is_open_loop
    fixed_count = 1

    @task
    def run_shape(self) -> None:
        """Run the shape, keep its result, and stop locust."""
        protocol = SETTINGS.protocol[0]
        caller = open_caller(protocol) if protocol == "grpc" else None  # one channel serves all greenlets
        pool = GreenletPool(
            lambda: SharedCaller(caller) if caller else open_caller(protocol),
            ANSWERS,
            lambda outcome: report(self.environment, protocol, outcome),
            SETTINGS.max_in_flight,
        )
        jobs, rng = (stream_of(self.environment, 0), random.Random(f"{SETTINGS.seed} arrivals"))

        def offer(rate: float) -> StepResult:
            return run_step(pool, jobs, rng, rate, SETTINGS)

        try:
            shape = find_knee if SETTINGS.shape == "knee" else overload
            _found.update(shape(offer, SETTINGS, click.echo))
        finally:
            pool.close()
            if caller:
                caller.close()
        if SETTINGS.output:
            Path(SETTINGS.output).write_text(json.dumps(_found, indent=2) + "\n", encoding="utf-8")
        gevent.spawn(end_run, self.environment)  # in another greenlet, because it waits for all users
        raise StopUser


def end_run(environment: Environment) -> None:
    """Stop locust, or only the run if the web page is in use."""
    if environment.runner is None:
        return
    if environment.web_ui:
        environment.runner.stop()
    else:
        environment.runner.quit()


@events.init.add_listener
def reject_workers(environment: Environment, **_: object) -> None:
    """Exit if an open loop is distributed, because it has a single source of arrivals."""
    if SETTINGS.is_open_loop and not isinstance(environment.runner, LocalRunner):
        sys.exit(f"error: shape {SETTINGS.shape} needs a single process; leave out --master and --processes")


def figures_of_run(environment: Environment) -> RunFigures:
    """Return the figures for the thresholds, without requests if an open loop was interrupted."""
    if not SETTINGS.is_open_loop:
        return figures_of_stats(environment.stats)
    if not _found:
        return RunFigures(requests=0, failed=0, wrong=0, p99_ms=math.nan, rate=0.0)
    return figures_of_knee(_found) if SETTINGS.shape == "knee" else figures_of_overload(_found)


@events.quitting.add_listener
def set_exit_code(environment: Environment, **_: object) -> None:
    """Set the exit code, and print the missed thresholds."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master decides
    misses = missed_thresholds(SETTINGS, figures_of_run(environment))
    for line in misses:
        click.echo(f"threshold missed: {line}", err=True)
    environment.process_exit_code = 1 if misses else 0


@events.quit.add_listener
def end_without_finalizers(exit_code: int, **_: object) -> None:
    """Skip interpreter shutdown, because gRPC's finalizers can wait forever for a dead greenlet."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)

    atexit.register(end)  # runs after locust has written its reports
