"""A seeded run in a process of its own, which the test kills: `killed_run.py FOLDER EPOCHS`."""

import json
import sys
from pathlib import Path

import torch

from tests.toolchain.training import tiny
from toolchain.training.hooks import Penalty
from toolchain.training.objectives import top1
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer


def main(folder: Path, epochs: int) -> None:
    torch.set_num_threads(1)
    model, test = tiny.network(), tiny.data(seed=1, shuffle=False)
    trainer = Trainer(
        model,
        tiny.data(),
        TrainConfig(epochs=epochs, lr=0.05, seed=3),
        evaluate=lambda model: top1(model, test),
        hooks=[Penalty(regularizer="hoyer-square", strength=1e-4)],
        folder=folder,
        progress=lambda done, total, label: print(done, flush=True),
    )
    history = [{k: v for k, v in r.items() if k != "seconds"} for r in trainer.run()]
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    (folder / "final.json").write_text(json.dumps([history, weights]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
