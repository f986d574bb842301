"""Thin Ray shell of torch recipes: Ray Train's workers, and a checkpoint after each epoch."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aios.errors import UsageError
from aios.records.cost import Owner
from aios.telemetry.on_ray import Metered, metered_as
from aios.training.search import free_cores, share

if TYPE_CHECKING:
    import torch

    from aios.training.data import TrainingData
    from aios.training.torch_recipe import TorchRecipe

_FILE = "state.pt"
_POOL_ROWS = 50_000
"""Rows that are shuffled together: read in order, and never all in memory."""
_CRASHES = 2


def train_module(
    recipe: "TorchRecipe", config: dict[str, Any], train: "TrainingData", seed: int
) -> "torch.nn.Module":
    """Train on `recipe.workers` processes; go on from the last checkpoint, if there is one.

    Raises:
        UsageError: the recipe's code raised, or Ray is not there.
    """
    import ray
    import ray.train
    import torch
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if not ray.is_initialized():
        raise UsageError("a torch recipe trains on Ray, which is not running: use rt.retrain")
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The text's module exists only where it was loaded.
    ray.cloudpickle.register_pickle_by_value(sys.modules[type(recipe).__module__])
    cores = share(float(recipe.workers), free_cores())[1] / recipe.workers
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "recipe": recipe,
            "config": config,
            "train": train,
            "seed": seed,
            "owner": Metered.here.owner if Metered.here else None,
        },
        scaling_config=ScalingConfig(
            num_workers=recipe.workers,
            use_gpu=recipe.use_gpu,
            resources_per_worker={"CPU": cores, **({"GPU": 1} if recipe.use_gpu else {})},
        ),
        run_config=RunConfig(
            name="torch",
            storage_path=_storage(recipe),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=_CRASHES),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise UsageError(
            f"{type(recipe).__name__}: training on {recipe.workers} workers failed: "
            f"{str(error).strip().splitlines()[-1][:500]}"
        ) from error
    module = recipe.module(dict(config))
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / _FILE, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    return module


def _storage(recipe: "TorchRecipe") -> str:
    if recipe.checkpoints is None:
        return tempfile.mkdtemp(prefix="aios-torch-")
    url = recipe.checkpoints
    return url if "://" in url else os.path.abspath(url)


def _train_loop(given: dict[str, Any]) -> None:
    """What each worker does."""
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    recipe, config, seed = given["recipe"], given["config"], given["seed"]
    metered = metered_as(Owner(*given["owner"])) if given["owner"] else None
    torch.manual_seed(seed)
    plain = recipe.module(dict(config))
    checkpoint = ray.train.get_checkpoint()
    begin, state = 0, None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / _FILE, map_location="cpu", weights_only=True)
        plain.load_state_dict(state["module"])
        begin = state["epoch"]
    module = prepare_model(plain)
    optimizer = recipe.optimizer(dict(config), module)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    device = get_device()
    for epoch in range(begin, recipe.epochs):
        module.train()
        total, steps = 0.0, 0
        for inputs, labels in _batches(given["train"], recipe.batch_size, seed + epoch):
            optimizer.zero_grad()
            loss = recipe.loss(module(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total, steps = total + float(loss), steps + 1
        _report(epoch + 1, total / max(steps, 1), plain, optimizer)
    if metered is not None:
        metered.tell()


def _batches(
    train: "TrainingData", batch_size: int, seed: int
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """This worker's part of each batch. Every worker has as many of them, as each of their
    steps waits for all."""
    import ray.train
    import torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    order = np.random.default_rng(seed)
    for frame in train.batches(_POOL_ROWS):
        rows = order.permutation(len(frame))
        inputs = frame[list(train.features)].to_numpy(dtype=np.float32)
        labels = frame[train.label].to_numpy(dtype=np.float32)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            if len(batch) < world:
                continue
            mine = np.array_split(batch, world)[rank]
            yield torch.from_numpy(inputs[mine]), torch.from_numpy(labels[mine])


def _report(epoch: int, loss: float, module: Any, optimizer: Any) -> None:
    """Tell Ray Train of an epoch; the first worker keeps the state."""
    import ray.train
    import torch

    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report({"epoch": epoch, "loss": loss})
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {
            "epoch": epoch,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, Path(folder) / _FILE)
        ray.train.report(
            {"epoch": epoch, "loss": loss}, checkpoint=ray.train.Checkpoint.from_directory(folder)
        )
