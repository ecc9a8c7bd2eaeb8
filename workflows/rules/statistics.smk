# Class frequencies of the training split, which every long-tail method asks for.
rule class_statistics:
    input:
        lambda wildcards: str(
            paths.annotations_path(DATASETS[wildcards.dataset], "train")
        ),
    output:
        "results/data/{dataset}/class_statistics.csv",
    log:
        "results/logs/statistics/{dataset}.log",
    benchmark:
        "results/benchmarks/statistics/{dataset}.tsv"
    conda:
        "../../envs/longtail.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    shell:
        "longtail stats {input:q} -o {output:q} > {log} 2>&1"
