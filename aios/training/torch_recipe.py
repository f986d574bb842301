"""Recipes for torch: the user names module and loss, the loop is here."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from aios.errors import UsageError
from aios.training.recipe import Recipe
from aios.training.torch_on_ray import train_module

if TYPE_CHECKING:
    import torch

    from aios.training.data import TrainingData


class TorchRecipe(Recipe):
    """Trains a torch module on one or more workers, with a checkpoint after each epoch.

    `forward` takes all inputs as one float32 matrix [rows, n] in the contract's order; null is
    NaN there. A fit that is killed goes on after the last epoch that was done.

    ```python
    class Network(aios.TorchRecipe):
        label, epochs, workers = "approve", 20, 2

        def module(self, config):
            return nn.Sequential(nn.Linear(14, config["width"]), nn.ReLU(),
                                 nn.Linear(config["width"], 1), nn.Sigmoid())

        def loss(self, outputs, labels):
            return nn.functional.binary_cross_entropy(outputs[:, 0], labels)
    ```
    """

    epochs: ClassVar[int] = 10
    batch_size: ClassVar[int] = 256
    """Rows of one step, over all workers together."""
    workers: ClassVar[int] = 1
    """Processes, each with the cores or the GPU of one trial; gradients are averaged."""
    use_gpu: ClassVar[bool] = False

    def module(self, config: dict[str, Any]) -> "torch.nn.Module":
        """A fresh module for these settings."""
        raise UsageError(f"{type(self).__name__} has no module(config); write one")

    def loss(self, outputs: Any, labels: "torch.Tensor") -> "torch.Tensor":
        """The mean loss of what `forward` gave, for float32 labels [rows]."""
        raise UsageError(f"{type(self).__name__} has no loss(outputs, labels); write one")

    def optimizer(
        self, config: dict[str, Any], module: "torch.nn.Module"
    ) -> "torch.optim.Optimizer":
        """Adam, with `config["learning_rate"]` or 0.001."""
        import torch

        return torch.optim.Adam(module.parameters(), lr=config.get("learning_rate", 1e-3))

    def fit(self, config: dict[str, Any], train: "TrainingData") -> "torch.nn.Module":
        """Train all epochs; the module on the CPU."""
        # From the seeded generator, so that all workers and the next run begin alike.
        seed = int(np.random.randint(2**31))
        return train_module(self, config, train, seed)
