"""One graph pass a module, and under `mathematics` the numpy behind them."""

from passes.escalate import EscalatePass
from passes.framework import CompressionPass
from passes.fuse import FusePass
from passes.heads import HeadsPass
from passes.lower import LowerPass
from passes.penni import PenniPass
from passes.select import SelectPass
from passes.shrink import ShrinkPass
from passes.svd import SvdPass
from passes.tprune import TprunePass

PASSES: dict[str, type[CompressionPass]] = {
    each.name: each
    for each in (
        PenniPass,
        SvdPass,
        TprunePass,
        HeadsPass,
        EscalatePass,
        ShrinkPass,
        FusePass,
        SelectPass,
        LowerPass,
    )
}
"""Every pass that `optc transform` offers, by the name a user types."""
