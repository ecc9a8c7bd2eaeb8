# A separate target: `snakemake prepare --config experiment=bags` gets and checks the files that the rows need, including
# weights. A missing file has no content and therefore no key: rows that lack something are skipped until then. The rule
# has no output either, because only the command can check the files; it does nothing if nothing is missing.
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
