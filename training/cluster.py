"""Training on several workers by Ray Train: the only module of this room that imports Ray.

    train(run, open_loader, workers=4, address="auto", system="full-input", stage="unet1", preset="small")

Every worker is a process with a device of its own, opens the data for itself and takes its part of each global batch.
Where one is lost, all begin again from the last checkpoint. The run's folder must be on a path that all machines see.
Importable where there is no Ray, and without torch: the actors that only pass on words begin sooner.
"""

import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore.conditioning import system as system_named
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.loader import Loader
from featurestore.ray_cluster import start_ray

RESTARTS = 5
"""How often all workers begin again because one was lost; a node that is taken away in good order does not count."""

PATIENCE = 300
"""Seconds that workers may take to begin, on a cluster that has to grow or a machine that is busy."""

OpenLoader = Callable[[int, int], Loader]
"""(rank, ranks) -> the loader of that worker. It travels to the workers."""


def train(
    run: str | os.PathLike[str],
    open_loader: OpenLoader,
    workers: int,
    *,
    address: str | None = None,
    device: str | None = None,
    restarts: int = RESTARTS,
    told: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`loop.train` on workers of a Ray cluster, or of this machine where there is no address; returns the same.

    device: `cuda` where each worker can have one, else `cpu`. restarts: after the loss of a worker. told: called with a
    line where workers have to be waited for. options: of `loop.train`. What is wrong with the data or the
    run's folder is said before Ray is asked for workers; when `should_stop` says so, all workers save and end, and
    those that the cluster has no room for are not waited for.
    Raises UsageError where Ray is not installed, VoxportraitError where workers are lost too often or cannot be had.
    """
    run = Path(run).absolute()
    choose("device", (device or "cpu").split(":")[0], ("cpu", "cuda"))
    before = _begun(run, open_loader(0, workers), options)
    if before["finished"]:
        return {**before, "already_finished": True}
    ray = _ray()
    local = address is None and not os.environ.get("RAY_ADDRESS")
    cores = max(1, (os.cpu_count() or 1) // workers)
    if not ray.is_initialized():
        start_ray(address, num_cpus=workers * cores)
    has = ray.cluster_resources()
    on_gpu = device.startswith("cuda") if device else has.get("GPU", 0) >= workers
    kind = "GPU" if on_gpu else "CPU"
    lacking = has.get(kind, 0) < workers
    if lacking:
        told(f"{workers} workers need {workers} {kind}s, the Ray cluster has {has.get(kind, 0):.0f}: waiting for more")
    elif not (on_gpu or device) and has.get("GPU", 0):
        told(f"{workers} workers on CPUs: the Ray cluster has {has['GPU']:.0f} GPUs, not one for each")
    desk = ray.remote(num_cpus=0)(Desk).remote()
    trainer = _trainer(
        {"run": run, "open_loader": open_loader, "options": options, "desk": desk},
        run / "ray",
        {"num_workers": workers, "use_gpu": on_gpu, "resources_per_worker": {"CPU": cores if local else 1}},
        restarts,
    )
    fit = _Fit(trainer.fit)
    try:
        news = _watch(fit, desk, progress, should_stop, lacking)
    except ray.exceptions.RayError as error:
        raise VoxportraitError(f"{run}: the Ray cluster was lost: {_first_line(error)}. {_ADVICE}") from None
    finally:
        shutil.rmtree(run / "ray", ignore_errors=True)
    if news.refused:
        raise news.refused
    if news.outcome:
        return news.outcome
    if fit.error:
        raise VoxportraitError(f"{run}: {_line(fit.error)} (begun again {restarts} times at most). {_ADVICE}") from None
    return before


_ADVICE = "What was saved is kept; run the same command again to go on."


def _begun(run: Path, loader: Loader, options: dict[str, Any]) -> dict[str, Any]:
    """Check what one worker can check; where the run stands."""
    from training import loop
    from training.stages import settings_of

    system, stage = options.get("system", "full-input"), options.get("stage", "unet1")
    preset, layout = options.get("preset", "tiny"), options.get("layout")
    settings = settings_of(stage, preset, options.get("choices"))
    steps = options.get("steps") or settings.steps
    layout, seed = system_named(system).layout(layout), options.get("seed", 0)
    loop.begin(run, loader, system, stage, preset, settings, layout=layout, seed=seed, steps=steps)
    return loop.outcome_of(run, steps)


def _ray() -> Any:
    try:
        import ray
        import ray.train.torch
    except ImportError as error:
        raise UsageError(f"--workers and --ray-address need Ray ({error}): install it, or train without them") from None
    return ray


@dataclass
class News:
    """What the driver hears of its workers. place: (done, total) steps."""

    place: tuple[int, int] | None = None
    outcome: dict[str, Any] | None = None
    refused: VoxportraitError | None = None


class Desk:
    """An actor between the driver and the first worker: how far it is, whether to stop, how it ended."""

    def __init__(self) -> None:
        self._news, self._stopping = News(), False

    def news(self) -> News:
        return self._news

    def stop(self) -> None:
        self._stopping = True

    def at(self, done: int, total: int) -> bool:
        """Note how far training is; whether it shall stop."""
        self._news.place = (done, total)
        return self._stopping

    def end(self, outcome: dict[str, Any]) -> None:
        self._news.outcome = outcome

    def refuse(self, error: VoxportraitError) -> None:
        """Note what no new beginning will mend."""
        self._news.refused = self._news.refused or error


def work(config: dict[str, Any]) -> None:
    """What each worker does, from the beginning or the last checkpoint to the end."""
    import ray
    import ray.train.torch

    from training import loop
    from training.ranks import Ranks

    context, desk = ray.train.get_context(), config["desk"]
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    if ray.get(desk.news.remote()).refused:
        return
    line = _Line(desk) if ranks.is_first else None
    try:
        outcome = loop.train(
            config["run"],
            config["open_loader"](ranks.rank, ranks.size),
            device=ray.train.torch.get_device(),
            ranks=ranks,
            progress=line.tell if line else None,
            should_stop=line.should_stop if line else None,
            **config["options"],
        )
    except VoxportraitError as error:
        ray.get(desk.refuse.remote(error))
        raise
    if ranks.is_first:
        ray.get(desk.end.remote(outcome))


@dataclass
class _Line:
    """The first worker's line to the desk, on which it waits before its first step alone: later one call at a time is
    under way."""

    desk: Any
    asked: Any = None
    stopping: bool = False

    def tell(self, done: int, total: int) -> None:
        import ray

        if self.asked is None:
            self.stopping = ray.get(self.desk.at.remote(done, total))
        elif not ray.wait([self.asked], timeout=0)[0]:
            return
        else:
            self.stopping = ray.get(self.asked)
        self.asked = self.desk.at.remote(done, total)

    def should_stop(self) -> bool:
        return self.stopping


@dataclass
class _Fit:
    """Ray Train's driver in a thread that does not hold up the program's end."""

    fit: Callable[[], Any]
    error: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True, name="ray train")
        self._thread.start()

    def is_over(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for so long at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.fit()
        except (Exception, SystemExit) as error:  # noqa: BLE001  Ray Train's own, or of Ray that ends: for the main thread
            self.error = error


def _watch(fit: _Fit, desk: Any, progress: Any, should_stop: Any, lacking: bool) -> News:
    """Until training has ended: tell how far it is, and ask it to stop. lacking: it may never begin, and to stop is
    then to leave it."""
    import ray

    news, told = News(), False
    while True:
        over = fit.is_over(0.5)
        news = ray.get(desk.news.remote())
        if progress and news.place:
            progress(*news.place)
        if over:
            return news
        if should_stop and not told and should_stop():
            desk.stop.remote()
            told = True
            if lacking and news.place is None:
                return news


def _trainer(config: dict[str, Any], folder: Path, scaling: dict[str, Any], restarts: int) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import FailureConfig

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(PATIENCE))
    return TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if scaling["use_gpu"] else "gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=folder.parent.name,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=restarts),
        ),
    )


def _line(error: BaseException) -> str:
    """Why workers were lost, in a line: a death rather than what the others saw of it."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:
        return f"workers could not be had: {_first_line(getattr(error, 'controller_failure', error))}"
    from ray.exceptions import RayActorError

    rank, failure = min(failures.items(), key=lambda item: not isinstance(item[1], RayActorError))
    return f"worker {rank} was lost: {_first_line(failure)}"


def _first_line(error: BaseException) -> str:
    """What an error says, without the traceback that Ray puts before it."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    telling = (line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line))
    return next(telling, lines[0] if lines else repr(cause))[:200]
