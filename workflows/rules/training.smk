# One stage. A base that several methods share has one path, so it is trained once. Unfinished trainings lie in
# results/work, which is no output: Snakemake removes the outputs of a failed job, and the next try continues.
# What an earlier training led to goes first: if this one fails, old numbers must not stand in the table as its own.
# `digest` changes exactly when what the stage depends on does: test settings do not retrain. `recipe` is a resource
# because how the run is called (a row here, the base of one there) must not make it stale. The second attempt is for
# what was killed or had too little memory: the command refuses it after bad input, an error in the code and divergence.
rule train:
    input:
        annotations=annotations("train"),
        images=ancient(images("train")),
        statistics=statistics,
        init=initial_checkpoint,
        code=method_code,
    output:
        "results/runs/{run}/{stage}/checkpoint.pt",
    log:
        "results/logs/{run}/train_{stage}.log",
    benchmark:
        "results/benchmarks/{run}/train_{stage}.tsv"
    # what others wait for comes before predictions
    priority: 1
    retries: 1
    conda:
        "../../envs/longtail.yaml"
    threads: cores
    resources:
        recipe=recipe_of,
        attempt=lambda wildcards, attempt: attempt,
        gpu=gpus,
        mem_mb=memory,
        runtime=minutes(120, 2880),
        workers=lambda wildcards, threads: threads - 1,
    params:
        digest=lambda wildcards: run_of(wildcards).digest(wildcards.stage),
        init=lambda wildcards, input: f"--init {input.init}" if input.init else "",
    shell:
        "rm -f results/runs/{wildcards.run}/detections.parquet results/runs/{wildcards.run}/metrics.json &&"
        " longtail train {resources.recipe:q} {wildcards.stage} {params.init} --devices {resources.gpu}"
        " --workers {resources.workers} --attempt {resources.attempt} -o {output:q} > {log} 2>&1"
