# Longtail Bench: one experiment (one results table), from annotations to the table.
#
#   snakemake --workflow-profile workflows/profiles/local                            the smoke experiment
#   snakemake --workflow-profile workflows/profiles/local --config experiment=bags   another one
#   snakemake --workflow-profile workflows/profiles/local -n                         the jobs that would run, and why
#   snakemake prepare --workflow-profile workflows/profiles/local                    get the data and weights of an experiment
from snakemake.utils import min_version, validate

min_version("9.19")

validate(config, "workflows/schemas/config.schema.json")


include: "workflows/rules/common.smk"


validate(read_yaml(EXPERIMENT.path), "workflows/schemas/experiment.schema.json")


include: "workflows/rules/reporting.smk"


# The metrics are targets too: the table after a failure must not hide a missing row.
rule all:
    default_target: True
    input:
        finished_rows(),
        rules.table.output.stamp,


include: "workflows/rules/prepare.smk"
include: "workflows/rules/steps.smk"


# Rules of the methods, with the method's name as prefix: rule `x` of method `bags` becomes `bags_x`.
for name, snakefile in method_rules().items():
    alias_ = f"{name}_"

    module:
        name: name
        snakefile:
            snakefile
        config:
            config

    use rule * from name as alias_*


onsuccess:
    if not PREPARES:
        print(f"tables and plots: {TABLES}")
    refuse_if_all_skipped()


# The table with the results so far; a failed run is a row with its reason. The next call continues failed jobs.
onerror:
    shell("longtail table {EXPERIMENT.path:q} -o {TABLES:q} || true")
