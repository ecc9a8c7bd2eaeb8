"""BACL: balanced classification."""
