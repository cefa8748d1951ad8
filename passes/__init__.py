"""One graph pass a module, and under `mathematics` the numpy behind them."""
