# Our numbers beside the published ones. Rows that cannot run here are in the table with the reason.
localrules:
    table,


rule table:
    input:
        metrics=finished_rows(),
        norms=finished_norms(),
        experiment=near(EXPERIMENT.path),
        reported=near(project_root() / "results/reported/reported.csv"),
    output:
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
    params:
        folder=subpath(output.markdown, parent=True),
        titles=[run.title for row in EXPERIMENT.rows for run in row.runs],
        skipped={row.row.id: row.skipped for row in EXPERIMENT.rows if row.skipped},
    shell:
        "longtail table {input.experiment:q} -o {params.folder:q} 2> {log}"
