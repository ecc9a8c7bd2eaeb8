# Our numbers beside the published ones. Rows that cannot run here are in the table with the reason. The name of the stamp
# is a digest of everything that the tables depend on.
localrules:
    table,


rule table:
    input:
        ancient(finished_rows()),
    output:
        stamp=f"{TABLES}/{MADE}/{REPORT_KEY}",
        markdown=f"{TABLES}/table.md",
        csv=report(
            f"{TABLES}/table.csv",
            category="Results",
            labels={"experiment": EXPERIMENT.name, "as": "table"},
            caption="../captions/table.rst",
        ),
        tex=f"{TABLES}/table.tex",
        page=report(
            f"{TABLES}/report.html",
            category="Results",
            labels={"experiment": EXPERIMENT.name, "as": "page"},
            caption="../captions/page.rst",
        ),
        plots=report(
            directory(f"{TABLES}/plots"),
            patterns=["{plot}.svg"],
            category="Plots",
            labels={"experiment": EXPERIMENT.name, "plot": "{plot}"},
            caption="../captions/plots.rst",
        ),
    log:
        f"results/logs/table/{EXPERIMENT.name}.log",
    conda:
        "../../envs/longtail.yaml"
    resources:
        experiment=relative(str(EXPERIMENT.path)),
    params:
        folder=subpath(output.markdown, parent=True),
    shell:
        "longtail table {resources.experiment:q} -o {params.folder:q} 2> {log}"
