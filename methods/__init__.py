"""Method plug-ins: one folder each, found through its ``method.yaml``."""
