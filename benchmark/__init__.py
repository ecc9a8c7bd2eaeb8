"""Everything that is the same for all methods: data, detectors, training, evaluation, reporting."""
