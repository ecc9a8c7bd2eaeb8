# A rule for each kind of step (benchmark/steps/listing.py): synthesize, check, statistics, intermediates, train,
# retrain, fit, transform, predict, evaluate. The command puts the finished step into the store, all at once; unfinished
# ones lie in results/work, and the next try continues there. The second attempt is for what was killed or had too little
# memory: the command refuses it after bad input, an error in the code and divergence. `recipe` is a resource because
# how a step is called (a row here, the base of one there) makes no difference to it.
for kind in KINDS:

    rule:
        name:
            kind.name
        input:
            inputs_of(kind.name),
        output:
            **outputs_of(kind),
        log:
            f"results/logs/{kind.name}/{{key}}.log",
        # what others wait for comes before predictions, and what may refuse the data before trainings
        priority: 2 if kind.of_dataset else int(kind.trains)
        retries: 1
        conda:
            "../../envs/longtail.yaml"
        threads: cores(kind)
        resources:
            step=kind.name,
            recipe=recipe_of(kind.name),
            owner=owner_of(kind.name),
            attempt=lambda wildcards, attempt: attempt,
            gpu=gpus(kind),
            mem_mb=memory(kind),
            runtime=minutes(kind),
            workers=lambda wildcards, threads: threads - 1,
        shell:
            "longtail make {resources.recipe:q} {resources.step}/{wildcards.key} --devices {resources.gpu}"
            " --workers {resources.workers} --attempt {resources.attempt} > {log} 2>&1"


# One pass over the images for all rows that train classifiers on equal features, or that predict with detectors which
# are equal but for their classifiers (benchmark/steps/sharing.py). What it finishes goes into the store step by step,
# where the jobs of these steps then find it; what fails is left to them.
rule:
    name:
        PASS.name
    input:
        inputs_of_pass,
    output:
        done=temp(f"results/work/{PASS.name}/{{key}}.{DONE}"),
    log:
        f"results/logs/{PASS.name}/{{key}}.log",
    priority: 1
    retries: 1
    conda:
        "../../envs/longtail.yaml"
    threads: cores(PASS)
    resources:
        step=PASS.name,
        of=kind_of_pass,
        experiment=near(str(EXPERIMENT.path)),
        owner=members_of_pass,
        attempt=lambda wildcards, attempt: attempt,
        gpu=gpus(PASS),
        mem_mb=memory(PASS),
        runtime=minutes(PASS),
        workers=lambda wildcards, threads: threads - 1,
    shell:
        "longtail make {resources.experiment:q} {resources.step}/{wildcards.key} --devices {resources.gpu}"
        " --workers {resources.workers} --attempt {resources.attempt} > {log} 2>&1"
