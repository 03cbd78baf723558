"""locust's entry: the users, and the shape of the load, as the environment asks for; see README.md.

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

grpc_gevent.init_gevent()  # else gRPC's calls block every greenlet, and show latencies that are none

from load.answers import FirstAnswers  # noqa: E402
from load.arrivals import Crew, run_step  # noqa: E402
from load.calls import Caller, Outcome, TritonCaller, perform  # noqa: E402
from load.find_knee import find_knee  # noqa: E402
from load.gateway import GatewayCaller  # noqa: E402
from load.overload import overload  # noqa: E402
from load.pictures import draw_pictures  # noqa: E402
from load.settings import LoadSettings, SettingError  # noqa: E402
from load.stats import figures_of_knee, figures_of_overload, figures_of_stats  # noqa: E402
from load.step import Step  # noqa: E402
from load.thresholds import Figures, missed  # noqa: E402
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
gevent.get_hub().loop.update_now()  # drawing took seconds, which locust would take off the run time
_users, _logged = itertools.count(), itertools.count()
_found: dict[str, Any] = {}


def is_left_out(protocol: str) -> bool:
    """Whether locust is to make no users of a protocol."""
    return SETTINGS.is_open_loop or protocol not in SETTINGS.protocol


def open_caller(protocol: str) -> Caller:
    """A caller of its own connections."""
    if protocol == "gateway":
        return GatewayCaller(SETTINGS, PICTURES)
    return TritonCaller(protocol, SETTINGS, PICTURES)


class Borrowed:
    """A caller that is shared, and closed by its owner."""

    def __init__(self, caller: Caller) -> None:
        self.send = caller.send

    def close(self) -> None:
        """Leave it open."""


def stream_of(environment: Environment, user: int) -> Iterator[Job]:
    """The jobs of a user of this process."""
    runner = environment.runner
    worker = runner.worker_index if isinstance(runner, WorkerRunner) else 0
    return WORKLOAD.jobs(worker, user)


def report(environment: Environment, protocol: str, outcome: Outcome) -> None:
    """Tell locust of a request; the first failures are logged in full."""
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
    """One caller in a closed loop: the next request waits for the last one's answer."""

    abstract = True
    protocol = ""
    wait_time = constant_pacing(SETTINGS.pace_s) if SETTINGS.pace_s else constant(0)

    def on_start(self) -> None:
        """Open connections and a stream of jobs."""
        self.caller = open_caller(self.protocol)
        self.jobs = stream_of(self.environment, next(_users))

    @task
    def request(self) -> None:
        """Make the next request."""
        report(self.environment, self.protocol, perform(self.caller, next(self.jobs), ANSWERS))

    def on_stop(self) -> None:
        """Close the connections: with open gRPC channels the process would not end."""
        self.caller.close()


class GrpcUser(LoadUser):
    """Triton's gRPC, through the client package."""

    abstract = is_left_out("grpc")
    protocol = "grpc"


class HttpUser(LoadUser):
    """Triton's HTTP, through the client package."""

    abstract = is_left_out("http")
    protocol = "http"


class GatewayUser(LoadUser):
    """The REST gateway, by plain HTTP."""

    abstract = is_left_out("gateway")
    protocol = "gateway"


class ArrivalsUser(User):
    """Not a caller but the source of all of them, in an open loop; the run ends with its shape."""

    abstract = not SETTINGS.is_open_loop
    fixed_count = 1

    @task
    def run_shape(self) -> None:
        """Run the shape, keep what it found, and end locust."""
        protocol = SETTINGS.protocol[0]
        caller = open_caller(protocol) if protocol == "grpc" else None  # one channel is for all threads
        crew = Crew(
            lambda: Borrowed(caller) if caller else open_caller(protocol),
            ANSWERS,
            lambda outcome: report(self.environment, protocol, outcome),
            SETTINGS.max_in_flight,
        )
        jobs, rng = (stream_of(self.environment, 0), random.Random(f"{SETTINGS.seed} arrivals"))

        def offer(rate: float) -> Step:
            return run_step(crew, jobs, rng, rate, SETTINGS)

        try:
            shape = find_knee if SETTINGS.shape == "knee" else overload
            _found.update(shape(offer, SETTINGS, click.echo))
        finally:
            crew.close()
            if caller:
                caller.close()
        if SETTINGS.output:
            Path(SETTINGS.output).write_text(json.dumps(_found, indent=2) + "\n", encoding="utf-8")
        gevent.spawn(end_run, self.environment)  # not from here: it waits for all users to end
        raise StopUser


def end_run(environment: Environment) -> None:
    """End locust, or with its web page only the run."""
    if environment.runner is None:
        return
    if environment.web_ui:
        environment.runner.stop()
    else:
        environment.runner.quit()


@events.init.add_listener
def refuse_workers(environment: Environment, **_: object) -> None:
    """An open loop has one source of arrivals."""
    if SETTINGS.is_open_loop and not isinstance(environment.runner, LocalRunner):
        sys.exit(f"error: the shape {SETTINGS.shape} runs in one process, without --master or --processes")


def figures_of_run(environment: Environment) -> Figures:
    """What the thresholds look at; nothing where an open loop was broken off."""
    if not SETTINGS.is_open_loop:
        return figures_of_stats(environment.stats)
    if not _found:
        return Figures(requests=0, failed=0, wrong=0, p99_ms=math.nan, rate=0.0)
    return figures_of_knee(_found) if SETTINGS.shape == "knee" else figures_of_overload(_found)


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Set the exit code, and name the thresholds that were missed."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master judges
    misses = missed(SETTINGS, figures_of_run(environment))
    for line in misses:
        click.echo(f"threshold missed: {line}", err=True)
    environment.process_exit_code = 1 if misses else 0


@events.quit.add_listener
def end_without_finalizers(exit_code: int, **_: object) -> None:
    """Skip the interpreter's end: gRPC's finalizers sometimes wait for ever for a greenlet that is gone."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)

    atexit.register(end)  # once locust has written its reports
