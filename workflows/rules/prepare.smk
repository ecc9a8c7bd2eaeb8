# A target of its own: `snakemake prepare --config experiment=bags` gets and checks what the rows need, weights included.
# What is not there has no content yet and so no key: rows that lack something are skipped until then. It has no output
# either, because only the command can tell what is still there; it does nothing where nothing is missing.
localrules:
    prepare,


rule prepare:
    log:
        f"results/logs/prepare/{EXPERIMENT.name}.log",
    conda:
        "../../envs/longtail.yaml"
    resources:
        experiment=relative(str(EXPERIMENT.path)),
    params:
        coco=f"--coco {shlex.quote(config['coco'])}" if "coco" in config else "",
    shell:
        "longtail prepare {resources.experiment:q} {params.coco} 2>&1 | tee {log}"
