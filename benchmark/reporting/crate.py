"""An exported run as a Workflow Run RO-Crate, which archives such as WorkflowHub and Zenodo understand."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.files import write_json
from benchmark.recipes.models import Run
from benchmark.records import Record

METADATA = "ro-crate-metadata.json"
WORKFLOW = "commands.sh"
BASH = "https://www.gnu.org/software/bash/"
PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate"),
)


def write_crate_metadata(folder: Path, run: Run, records: Sequence[Record]) -> None:
    """Describe the files in a folder of an export, and the steps that made the numbers in it, in JSON-LD.

    Every step is an action of the command ``longtail``; what it made and read is named by SHA-256, also where
    the file itself is not in the folder. Raises ``FileError`` where the metadata cannot be written.
    """
    from rocrate.model import ContextEntity
    from rocrate.model.computerlanguage import ComputerLanguage
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.name = f"{run.title} on {run.dataset.title}, seed {run.seed}"
    crate.description = "Recipe, commands, records and numbers of a run of Longtail Bench"
    crate.license = "https://spdx.org/licenses/MIT"
    crate.datePublished = datetime.fromisoformat(max(record.finished or record.started for record in records))
    profiles = [
        crate.add(
            ContextEntity(
                crate, address, {"@type": "CreativeWork", "name": name, "version": version(address)}
            )
        )
        for address, name in PROFILES
    ]
    crate.root_dataset["conformsTo"] = profiles

    def entity(identifier: str, **properties: Any) -> Any:
        """The entity of this identifier, made once."""
        return crate.get(identifier) or crate.add(ContextEntity(crate, identifier, properties=properties))

    bash = ComputerLanguage(crate, "#bash", {"name": "Bash", "url": BASH})
    steps = {"name": "the steps, in order"}
    workflow = crate.add_workflow(dest_path=WORKFLOW, main=True, lang=bash, properties=steps)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in (WORKFLOW, METADATA):
            crate.add_file(dest_path=name, properties={"name": name, "contentSize": str(path.stat().st_size)})
    actions = []
    for record in records:
        subject = record.subject
        command = entity(
            f"#longtail-{record.code_version}",
            **{
                "@type": "SoftwareApplication",
                "name": "longtail make",
                "softwareVersion": record.code_version,
            },
        )
        made = [
            entity(
                f"#{subject.kind}/{subject.key}/{output.name}",
                **{"@type": "CreativeWork", "name": output.name, "sha256": output.sha256 or "none"},
            )
            for output in record.outputs
        ]
        read = [
            entity(f"#source/{sha256}", **{"@type": "CreativeWork", "name": role, "sha256": sha256})
            for role, sha256 in subject.sources.items()
        ]
        read += [
            other
            for place in subject.inputs.values()
            for other in crate.get_entities()
            if other.id.startswith(f"#{place}/")
        ]
        action = {
            "@type": "CreateAction",
            "name": f"{subject.step} of {subject.title}",
            "startTime": record.started,
            "endTime": record.finished,
            "actionStatus": "http://schema.org/CompletedActionStatus",
        }
        actions.append(crate.add_action(command, f"#{subject.kind}/{subject.key}", read, made, action))
    numbers = [crate.get(name) for name in ("metrics.json", "per_class.csv") if crate.get(name) is not None]
    whole = {"@type": "CreateAction", "name": "the whole run", "startTime": records[0].started}
    whole["endTime"] = records[-1].finished or records[-1].started
    actions.append(crate.add_action(workflow, "#run", [crate.get("recipe.json")], numbers, whole))
    crate.root_dataset["mentions"] = actions
    write_json(folder / METADATA, crate.metadata.generate())


def version(address: str) -> str:
    """The version at the end of a profile's address."""
    return address.rsplit("/", 1)[-1]
