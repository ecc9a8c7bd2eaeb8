# A rule for each kind of step (benchmark/steps/listing.py): synthesize, check, statistics, intermediates, train,
# retrain, fit, transform, predict, evaluate. The command moves the finished step into the store as a whole; unfinished
# steps are in results/work, and the next attempt continues there. The second attempt is for steps that were killed or ran
# out of memory: the command refuses it after bad input, an error in the code and divergence. `recipe` is a resource,
# because the name of a step (a row here, the base of a row there) does not affect its result.
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
        # steps that others wait for before predictions, and steps that may refuse the data before trainings
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
            devices=devices(kind),
            mem_mb=memory(kind),
            runtime=minutes(kind),
            workers=workers(kind),
        shell:
            "longtail make {resources.recipe:q} {resources.step}/{wildcards.key} --devices {resources.devices}"
            " --workers {resources.workers} --attempt {resources.attempt} > {log} 2>&1"


# One pass over the images for all rows that train classifiers on equal features, or that predict with detectors which
# differ only in their classifiers (benchmark/steps/sharing.py). It moves finished steps into the store one by one, where
# the jobs of these steps find them; failed steps are left to their jobs.
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
        experiment=relative(str(EXPERIMENT.path)),
        owner=members_of_pass,
        attempt=lambda wildcards, attempt: attempt,
        gpu=gpus(PASS),
        devices=devices(PASS),
        mem_mb=memory(PASS),
        runtime=minutes(PASS),
        workers=workers(PASS),
    shell:
        "longtail make {resources.experiment:q} {resources.step}/{wildcards.key} --devices {resources.devices}"
        " --workers {resources.workers} --attempt {resources.attempt} > {log} 2>&1"
