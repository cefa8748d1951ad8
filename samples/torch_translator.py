"""A `Translator` that runs a `Transformer` in torch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samples.networks.transformer import Cache, Transformer, padding_mask
from samples.translation import Array, Ids


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchState:
    """Of N sentences: mask of the source, its keys and values, those of the tokens before."""

    padding: Tensor
    sources: list[Cache]
    pasts: list[Cache]


@dataclass(frozen=True, eq=False)
class TorchTranslator:
    """Runs a model in evaluation mode, without gradients."""

    model: Transformer

    def start(self, source: Ids) -> TorchState:
        """Encodes sentences (N, S)."""
        ids = torch.from_numpy(source)
        with torch.no_grad():
            sources = self.model.encode(ids)
        pasts = [(keys[:, :, :0], values[:, :, :0]) for keys, values in sources]
        return TorchState(padding=padding_mask(ids), sources=sources, pasts=pasts)

    def step(self, tokens: Ids, state: TorchState) -> tuple[Array, TorchState]:
        """Scores of what follows the latest tokens (N,)."""
        latest = torch.from_numpy(tokens)[:, None]
        with torch.no_grad():
            scores, pasts = self.model.step(latest, state.padding, state.sources, state.pasts)
        after = TorchState(padding=state.padding, sources=state.sources, pasts=pasts)
        return scores.float().numpy(), after

    def select(self, state: TorchState, rows: Ids) -> TorchState:
        """The state of some sentences."""
        if np.array_equal(rows, np.arange(len(state.padding))):
            return state
        index = torch.from_numpy(rows)
        sources, pasts = (
            [(keys[index], values[index]) for keys, values in caches]
            for caches in (state.sources, state.pasts)
        )
        return TorchState(padding=state.padding[index], sources=sources, pasts=pasts)
