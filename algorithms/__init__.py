"""How agents learn and how far their decisions may be trusted: training stages and selective statistics."""
