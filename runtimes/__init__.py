"""How optimised models execute: the `optc` operator domain and its native kernels."""
