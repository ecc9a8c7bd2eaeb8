# A recipe is written down once; every step then reads it. `ancient`, because a rewritten file says nothing about
# this step: `digest` changes exactly when what the step depends on does (test settings do not retrain).
localrules:
    recipe,


rule recipe:
    output:
        "results/runs/{run}/recipe.json",
    log:
        "results/logs/{run}/recipe.log",
    conda:
        "../../envs/longtail.yaml"
    resources:
        recipe=lambda wildcards: near(recipe_of(wildcards)),
    params:
        digest=recorded,
    shell:
        "longtail show {resources.recipe:q} --json > {output:q} 2> {log}"


# One stage. A base that several methods share has one path, so it is trained once. Unfinished trainings lie in
# results/work, which is no output: Snakemake removes the outputs of a failed job, and the next try continues.
rule train:
    input:
        recipe=ancient("results/runs/{run}/recipe.json"),
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
    retries: 1
    conda:
        "../../envs/longtail.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory,
        runtime=minutes(120, 2880),
        devices=lambda wildcards: max(1, gpus(wildcards)),
        workers=lambda wildcards, threads: threads - 1,
    params:
        digest=lambda wildcards: run_of(wildcards).digest(wildcards.stage),
        init=lambda wildcards, input: f"--init {input.init}" if input.init else "",
    shell:
        "longtail train {input.recipe:q} {wildcards.stage} {params.init} --devices {resources.devices}"
        " --workers {resources.workers} -o {output:q} > {log} 2>&1"
