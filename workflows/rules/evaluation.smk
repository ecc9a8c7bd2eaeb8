# From the final checkpoint to LVIS numbers.
rule predict:
    input:
        checkpoint=final_checkpoint,
        annotations=annotations("val"),
        images=ancient(images("val")),
        statistics=statistics,
        code=method_code,
    output:
        "results/runs/{run}/detections.parquet",
    log:
        "results/logs/{run}/predict.log",
    benchmark:
        "results/benchmarks/{run}/predict.tsv"
    retries: 1
    conda:
        "../../envs/longtail.yaml"
    threads: cores
    resources:
        recipe=recipe_of,
        attempt=lambda wildcards, attempt: attempt,
        gpu=gpus,
        mem_mb=memory,
        runtime=minutes(60, 480),
        workers=lambda wildcards, threads: threads - 1,
    params:
        digest=lambda wildcards: run_of(wildcards).digest("predict"),
    shell:
        "rm -f results/runs/{wildcards.run}/metrics.json &&"
        " longtail predict {resources.recipe:q} -c {input.checkpoint:q} --devices {resources.gpu}"
        " --workers {resources.workers} --attempt {resources.attempt} -o {output:q} > {log} 2>&1"


# What the report shows beside the numbers; a part of the work that opens a checkpoint, so it is done once.
rule weight_norms:
    input:
        checkpoint=final_checkpoint,
        statistics=statistics,
        code=method_code,
    output:
        "results/runs/{run}/weight_norms.csv",
    log:
        "results/logs/{run}/weight_norms.log",
    conda:
        "../../envs/longtail.yaml"
    resources:
        recipe=recipe_of,
        mem_mb=memory,
        runtime=minutes(10, 30),
    shell:
        "longtail weight-norms {resources.recipe:q} -c {input.checkpoint:q} -o {output:q} > {log} 2>&1"


rule evaluate:
    input:
        gt=annotations("val"),
        dt="results/runs/{run}/detections.parquet",
        statistics=statistics,
    output:
        metrics=report(
            "results/runs/{run}/metrics.json",
            category="Runs",
            labels={"run": "{run}"},
            caption="../captions/metrics.rst",
        ),
        per_class="results/runs/{run}/per_class.csv",
        calibration="results/runs/{run}/calibration.csv",
    log:
        "results/logs/{run}/evaluate.log",
    benchmark:
        "results/benchmarks/{run}/evaluate.tsv"
    conda:
        "../../envs/longtail.yaml"
    resources:
        mem_mb=memory,
        runtime=minutes(30, 120),
    params:
        max_detections=lambda wildcards: run_of(wildcards).test.max_detections,
    shell:
        "longtail evaluate --gt {input.gt:q} --dt {input.dt:q} --statistics {input.statistics:q}"
        " --max-detections {params.max_detections}"
        " -o {output.metrics:q} --per-class {output.per_class:q}"
        " --calibration {output.calibration:q} > {log} 2>&1"
