# Generated datasets. The images are declared too: a broken generation leaves nothing behind.
rule synthesize:
    output:
        train="results/data/{dataset}/train.json",
        val="results/data/{dataset}/val.json",
        images=directory("results/data/{dataset}/images"),
    log:
        "results/logs/synthesize/{dataset}.log",
    benchmark:
        "results/benchmarks/synthesize/{dataset}.tsv"
    conda:
        "../../envs/longtail.yaml"
    resources:
        file=lambda wildcards: near(EXPERIMENT.dataset_files[wildcards.dataset]),
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        sizes=lambda wildcards: DATASETS[wildcards.dataset].synthetic.model_dump_json(),
    shell:
        "longtail synthesize {resources.file:q} -o results/data/{wildcards.dataset} > {log} 2>&1"
