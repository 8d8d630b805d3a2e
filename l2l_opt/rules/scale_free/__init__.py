"""The rule with nothing to tune, which ships as the default: its features, how it whitens, how it steps."""

from l2l_opt.rules.scale_free.rule import ScaleFreeRule

__all__ = ["ScaleFreeRule"]
