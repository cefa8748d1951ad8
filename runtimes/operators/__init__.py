"""The `optc` operator domain: what each operator means, and how it is stored in a model."""

DOMAIN = "optc"
PORTABLE_DOMAIN = "optc.portable"
"""The same operators without native kernels: their bodies run, for layers where that is faster."""
DOMAINS = (DOMAIN, PORTABLE_DOMAIN)
DOMAIN_VERSION = 1
MIN_OPSET = 13  # of the standard domain: the function bodies use its operator signatures
MIN_IR_VERSION = 8  # first with model-local functions
