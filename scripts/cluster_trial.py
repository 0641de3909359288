"""Try a real Dask cluster on this machine: the same bits, losses, overhead, speed, many workers, TLS.

    python scripts/cluster_trial.py lost         `quick` on a scheduler and three workers, of which one is killed, and
                                                 the scheduler too: then its bits against results/reference/quick
    python scripts/cluster_trial.py overhead     seconds per batch of 1,000 that do nothing: local processes, cluster
    python scripts/cluster_trial.py writing      seconds per record that workers write themselves, or send back
    python scripts/cluster_trial.py interrupt    Ctrl-C and SIGKILL: what the worker does then
    python scripts/cluster_trial.py speed        some cells of `quick` in this process, by two processes, by two workers
    python scripts/cluster_trial.py simulation   10,000 batches that sleep as long as records say, on 200 workers
    python scripts/cluster_trial.py tls          one cell on a cluster whose links are encrypted

docs/clusters.md states what they printed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import distributed
import distributed.protocol.pickle

from bdlbench.core import files
from bdlbench.core.spec import Replicate
from bdlbench.records import record as records
from bdlbench.runs import cluster, costs, executors, remote, suites
from bdlbench.runs.batch import Batch, Outcome, Row, Settings, batches
from bdlbench.runs.executors import Assignment, Event, Pool, Report, Travel

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference" / "quick"
distributed.protocol.pickle.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have this file


class Deployment:
    """A scheduler and workers as processes of their own, of which those that end are started again, as a queue does."""

    def __init__(self, workers: int, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.options = options
        self.scheduler = self.started("scheduler", f"--port={self.port}", "--host=127.0.0.1", "--no-dashboard")
        self.workers = [self.worker() for _ in range(workers)]

    def started(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        code = f"from distributed.cli.dask_{kind} import main; main()"
        command = [sys.executable, "-c", code, *words, *self.options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def worker(self) -> subprocess.Popen[bytes]:
        scheme = "tls" if self.options else "tcp"
        words = (f"{scheme}://127.0.0.1:{self.port}", "--nthreads=1", "--no-nanny", "--no-dashboard")
        return self.started("worker", *words)

    def mend(self) -> None:
        """Start again whatever has ended."""
        if self.scheduler.poll() is not None:
            self.scheduler = self.started("scheduler", f"--port={self.port}", "--host=127.0.0.1", "--no-dashboard")
        self.workers = [one if one.poll() is None else self.worker() for one in self.workers]

    def end(self) -> None:
        for one in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


@contextlib.contextmanager
def deployed(workers: int, *options: str) -> Iterator[Deployment]:
    made = Deployment(workers, *options)
    try:
        yield made
    finally:
        made.end()


def run(results: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bdlbench", "run", *words, "--device=cpu", f"--results={results}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lost(folder: Path) -> None:
    """Kill a worker when there are three records, and the scheduler when there are nine."""
    kills = {"a worker": 3, "the scheduler": 9}
    with deployed(3) as made:
        began, process = time.monotonic(), run(folder, "quick", f"--executor=dask://127.0.0.1:{made.port}")
        while process.poll() is None:
            time.sleep(0.2)
            there = len(list(folder.glob("*.json")))
            for what in [what for what, at in kills.items() if there >= at]:
                del kills[what]
                (made.workers[0] if what == "a worker" else made.scheduler).kill()
                print(f"killed {what} after {time.monotonic() - began:.0f} s, with {there} of 27 records")
            made.mend()
        print("".join(line for line in process.stderr or () if "note" in line), end="")
        print(f"exit code {process.returncode} after {time.monotonic() - began:.0f} s")
    first = len(list(folder.glob("*.json")))
    again = run(folder, "quick", "--jobs=2")
    again.communicate()
    print(f"{first} of 27 records then; the same command without a cluster: exit code {again.returncode}")
    made_here = {record.name: record for record in records.read(folder)}
    reference = {record.name: record for record in records.read(REFERENCE)}
    same = [name for name, one in reference.items() if name in made_here and alike(one, made_here[name])]
    print(f"{len(same)} of {len(reference)} records have the parameters and metrics of results/reference/quick")
    print(f"left besides records: {sorted(path.name for path in folder.iterdir() if path.name.startswith('.'))}")


def alike(one: Any, other: Any) -> bool:
    """Tell whether a record has the parameters and all metrics of the committed one; it may have newer ones too."""
    held = {name: entry.values for name, entry in one.values.metrics.items()}
    here = {name: entry.values for name, entry in other.values.metrics.items() if name in held}
    return bool(held == here and one.values.parameters_sha256 == other.values.parameters_sha256)


def small_batches(count: int) -> list[Batch]:
    """So many batches, each of one cell that takes almost nothing."""
    chosen = suites.Overrides(("map",), ("logistic",), ("wine",), "1", 1, ("map.epochs=1",), "cpu")
    spec = suites.build_spec(suites.read_suite("quick"), chosen)
    (batch,) = batches(spec, ())
    return [batch] * count


def nothing(task: Assignment, report: Report) -> dict[int, Outcome]:
    """Do in a worker what batches take that do nothing."""
    return {i: Outcome([]) for i in task.batches}


def nothing_far(parcel: remote.Parcel, report: Report) -> remote.SentBack:
    """Do the same on a cluster, with the news of a batch that starts."""

    def run_one(index: int, batch: Batch, settings: Settings) -> Outcome:
        report(Event(index, "", "start"))
        return Outcome([])

    return remote.run(parcel, run_one)


@contextlib.contextmanager
def on_cluster(address: str, folder: Path, run: Callable[[Any, Report], Any]) -> Iterator[Pool]:
    """Yield a pool of the cluster at this address, whose tasks travel as those of a run, and do another thing there."""

    @contextlib.contextmanager
    def travelling() -> Iterator[Travel]:
        with executors._travelling(folder) as travel:
            yield replace(travel, run=run)

    with cluster.on_cluster(f"dask:{address}", 2, 0, travelling) as pool:
        yield pool


def overhead(folder: Path) -> None:
    """Time 1,000 batches that do nothing; a first hundred start the workers."""
    settings = Settings(folder)
    many = small_batches(1000)
    load = os.getloadavg()[0]
    with executors.workers("", 2, "cpu", nothing, lambda: executors._travelling(folder)) as pool:
        for which in (many[:100], many):
            seconds = timed(which, settings, pool)
        print(f"local processes: {1000 * seconds / len(many):.2f} ms a batch (load {load:.1f})")
    with deployed(2) as made:
        for cost, how in ((1e9, "each a task"), (0.01, "packed")):
            with on_cluster(f"tcp://127.0.0.1:{made.port}", folder, nothing_far) as pool:
                for which in (many[:100], many):
                    seconds = timed(which, settings, pool, cost)
                print(f"cluster, {how}: {1000 * seconds / len(many):.2f} ms a batch (load {load:.1f})")


def writes_far(parcel: remote.Parcel, report: Report) -> remote.SentBack:
    """Write in a worker what a record of `quick` takes, here or in a folder that is sent back."""
    if not parcel.settings.keep_parameters:  # says here which of the two is measured
        remote._shares = lambda mark: False

    def run_one(index: int, batch: Batch, settings: Settings) -> Outcome:
        for ending in (".safetensors", ".json"):
            files.write_atomic(settings.results / f"{index}{ending}", EXAMPLE.with_suffix(ending).read_bytes())
        return Outcome([])

    return remote.run(parcel, run_one)


EXAMPLE = next(REFERENCE.glob("digits-mlp-mc_dropout-*.json"))
"""A record of five replicates and 100 samples."""


def writing(folder: Path) -> None:
    """Time 200 records that workers write where they belong, or send back."""
    size = sum(EXAMPLE.with_suffix(ending).stat().st_size for ending in (".safetensors", ".json"))
    with deployed(2) as made:
        for how in (True, False):
            with on_cluster(f"tcp://127.0.0.1:{made.port}", folder, writes_far) as pool:
                for which in (small_batches(50), small_batches(200)):
                    seconds = timed(which, Settings(folder, keep_parameters=how), pool, 1e9)
            name = "written by workers" if how else "sent back, written here"
            print(
                f"{name}: {1000 * seconds / 200:.1f} ms for each of {size / 1e6:.2f} MB (load {os.getloadavg()[0]:.1f})"
            )


def interrupt(folder: Path) -> None:
    """Stop a run by Ctrl-C, and kill another one; the worker must be idle soon after, and the run go on."""
    words = ["--method=mle", "--model=mlp", "--dataset=digits", "--seeds=1", "--samples=1", "--set=mle.epochs=100000"]
    with deployed(1) as made, distributed.Client(f"tcp://127.0.0.1:{made.port}") as client:
        for how in (signal.SIGINT, signal.SIGKILL):
            process = run(folder, *words, f"--executor=dask://127.0.0.1:{made.port}", "--checkpoint-every=2")
            while not list(folder.glob(".checkpoints/*")):
                time.sleep(0.1)
            process.send_signal(how)
            began = time.monotonic()
            _, said = process.communicate()
            while any(client.processing().values()) or busy(client):
                time.sleep(0.2)
            print(
                f"{how.name}: exit code {process.returncode}, idle after {time.monotonic() - began:.1f} s; {said[-90:]}"
            )
            for file in folder.glob(".checkpoints/*"):
                file.unlink()


def busy(client: distributed.Client) -> bool:
    """Tell whether a worker's thread runs a task."""
    states = client.run(lambda dask_worker: len(dask_worker.active_threads))
    return any(states.values())


def timed(which: list[Batch], settings: Settings, pool: Pool, cost: float = 1.0) -> float:
    began = time.perf_counter()
    executors._Run(which, settings, pool, lambda event: None).finish([cost] * len(which))
    return time.perf_counter() - began


def speed(folder: Path) -> None:
    """Time six methods of `quick`, and say what two cores allow: half of the work, but at least the longest batch."""
    words = [f"--method={name}" for name in ("mle", "map", "mc_dropout", "dropconnect", "mean_field_vi", "sparse_vd")]
    words += ["--model=mlp", "--dataset=digits", "--dataset=digits_near", "--seeds=5"]
    alone = 0.0
    with deployed(2) as made:
        ways = {"this process": "--jobs=1", "two processes": "--jobs=2"}
        ways["two workers"] = f"--executor=dask://127.0.0.1:{made.port}"
        for name, way in ways.items():
            results, load = folder / name.replace(" ", "_"), os.getloadavg()[0]
            began, spent = time.perf_counter(), cpu_seconds(made)
            code = run(results, *words, way).wait()
            wall, spent = time.perf_counter() - began, cpu_seconds(made) - spent
            took = [record.seconds or 0.0 for record in records.read(results)]
            alone = alone or wall
            print(
                f"{name}: {wall:.1f} s, {alone / wall:.2f} times as fast; {spent:.1f} s of CPU; exit code {code}; "
                f"batches {sum(took):.1f} s, the longest {max(took):.1f} s, so at best {sum(took):.1f} / "
                f"{max(sum(took) / 2, *took):.1f} times as fast (load {load:.1f})",
                flush=True,
            )


def cpu_seconds(made: Deployment) -> float:
    """Return the CPU seconds of runs that have ended, and of a cluster's scheduler and workers so far."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    texts = [Path(f"/proc/{one.pid}/stat").read_text() for one in (made.scheduler, *made.workers)]
    ticks = [int(ticks) for text in texts for ticks in text.rpartition(")")[2].split()[11:13]]  # of user and system
    return ended.ru_utime + ended.ru_stime + sum(ticks) / os.sysconf("SC_CLK_TCK")


SCALE, COUNT, WORKERS = 300.0, 10_000, 200
"""Seconds that the simulation should take at best, its batches, and its workers."""

LONGEST = 0.2
"""The longest batch of the simulation, as a share of SCALE: the bound is then the work of all, not the longest."""


def asleep(parcel: remote.Parcel, report: Report) -> remote.SentBack:
    """Sleep as many microseconds as the seeds of a parcel's batches say, and tell of a step each second."""
    for i, batch in parcel.batches.items():
        end = time.monotonic() + batch.rows[0].replicate.seed / 1e6
        report(Event(i, "", "start"))
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            report(Event(i, "", "step", 1, 2))
    return remote.SentBack({i: Outcome([]) for i in parcel.batches}, {}, True)


def simulation(folder: Path) -> None:
    """Sleep as long as committed records took, all divided by one number; compare with the best that is possible.

    Records that would be longer than LONGEST are left out.
    """
    found = records.scan(ROOT / "results", below=True).records
    took = sorted(record.seconds for record in found if record.seconds)
    while took[-1] > LONGEST * statistics.fmean(took) * COUNT / WORKERS:
        took.pop()
    drawn = random.Random(0).choices(took, k=COUNT)
    seconds = [one * SCALE * WORKERS / sum(drawn) for one in drawn]
    bound, middle = max(SCALE, *seconds), statistics.median(seconds)
    best = costs.Forecast(tuple(seconds), 0, 0.0).with_workers(WORKERS)
    guessed = [one * random.Random(i).lognormvariate(0, 0.5) for i, one in enumerate(seconds)]
    (example,) = small_batches(1)
    many = [Batch((Row(example.cells[0], Replicate(int(1e6 * one))),)) for one in seconds]
    print(f"{len(took)} of {len(found)} records; batches of {middle:.2f} s in the middle, {max(seconds):.1f} s at most")
    quiet = {"processes": False, "dashboard_address": None, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    watching = {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "1h"}
    with (  # what each of 200 machines would watch for itself is off, as all are this process
        dask.config.set(watching),
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, **quiet) as local,
    ):
        for name, known in (("costs known", seconds), ("costs known within a factor 1.6", guessed)):
            with on_cluster(local.scheduler_address, folder, asleep) as pool:
                began, spent = time.perf_counter(), time.process_time()
                executors._Run(many, Settings(folder), pool, lambda event: None).finish(known)
                took_all = time.perf_counter() - began
            print(
                f"{name}: {COUNT} batches on {WORKERS} workers: {took_all:.1f} s; bound {bound:.1f} s, longest first "
                f"{best:.1f} s; {took_all / bound:.2f} times the bound; {time.process_time() - spent:.0f} s of CPU for "
                f"the scheduler, all workers and the run (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )


def tls(folder: Path) -> None:
    """Make a certificate, and run one cell through a scheduler that takes no other; without it nobody is let in."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=bdlbench", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        *subject,
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    given = {"tls-ca-file": certificate, "tls-cert": certificate, "tls-key": key}
    words = ["--method=mle", "--model=logistic", "--dataset=wine", "--seeds=1", "--samples=1", "--set=mle.epochs=2"]
    with deployed(1, "--protocol=tls", *(f"--{name}={path}" for name, path in given.items())) as made:
        os.environ["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = str(certificate)
        os.environ["DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT"] = str(certificate)
        os.environ["DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"] = str(key)
        for address in ("dask:tls://127.0.0.1", "dask://127.0.0.1"):
            process = run(folder / address.partition(":")[2][:3], *words, f"--executor={address}:{made.port}")
            _, said = process.communicate()
            print(f"{address}: exit code {process.returncode}; {said.strip().splitlines()[-1][:160]}")


if __name__ == "__main__":
    parts = {one.__name__: one for one in (lost, overhead, writing, interrupt, speed, simulation, tls)}
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            print(f"== {name}", flush=True)
            parts[name](Path(place))
