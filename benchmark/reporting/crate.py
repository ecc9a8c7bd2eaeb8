"""An exported run as a Workflow Run RO-Crate, which archives such as WorkflowHub and Zenodo understand."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.files import write_json
from benchmark.recipes.models import Run
from benchmark.records import Record

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

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

    Every step is an action of the command ``longtail``. Its inputs and outputs are named by SHA-256, whether
    or not the files themselves are in the folder. Raises ``FileError`` if the metadata cannot be written.
    """
    crate = _new_crate(run, records)
    workflow = _add_files(crate, folder)
    actions = [_add_step(crate, record) for record in records]
    numbers = [crate.get(name) for name in ("metrics.json", "per_class.csv") if crate.get(name) is not None]
    whole = {"@type": "CreateAction", "name": "the whole run", "startTime": records[0].started}
    whole["endTime"] = records[-1].finished or records[-1].started
    actions.append(crate.add_action(workflow, "#run", [crate.get("recipe.json")], numbers, whole))
    crate.root_dataset["mentions"] = actions
    write_json(folder / METADATA, crate.metadata.generate())


def _new_crate(run: Run, records: Sequence[Record]) -> "ROCrate":
    """A crate with a title, a date and the profiles that it conforms to, but without content."""
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.name = f"{run.title} on {run.dataset.title}, seed {run.seed}"
    crate.description = "Recipe, commands, records and numbers of a run of Longtail Bench"
    crate.license = "https://spdx.org/licenses/MIT"
    crate.datePublished = datetime.fromisoformat(max(record.finished or record.started for record in records))
    crate.root_dataset["conformsTo"] = [
        _entity(crate, address, "CreativeWork", name=name, version=version(address))
        for address, name in PROFILES
    ]
    return crate


def _add_files(crate: "ROCrate", folder: Path) -> Any:
    """Add every file of the folder; returns the entity of the workflow."""
    from rocrate.model.computerlanguage import ComputerLanguage

    bash = ComputerLanguage(crate, "#bash", {"name": "Bash", "url": BASH})
    steps = {"name": "the steps, in order"}
    workflow = crate.add_workflow(dest_path=WORKFLOW, main=True, lang=bash, properties=steps)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in (WORKFLOW, METADATA):
            crate.add_file(dest_path=name, properties={"name": name, "contentSize": str(path.stat().st_size)})
    return workflow


def _add_step(crate: "ROCrate", record: Record) -> Any:
    """Add the action of one step, with its command, inputs and outputs; those of earlier steps are reused."""
    subject, version_of_code = record.subject, record.code_version
    command = _entity(
        crate,
        f"#longtail-{version_of_code}",
        "SoftwareApplication",
        name="longtail make",
        softwareVersion=version_of_code,
    )
    place = f"#{subject.kind}/{subject.key}"
    outputs = [
        _entity(
            crate,
            f"{place}/{output.name}",
            "CreativeWork",
            name=output.name,
            sha256=output.sha256 or "none",
        )
        for output in record.outputs
    ]
    inputs = [
        _entity(crate, f"#source/{sha256}", "CreativeWork", name=role, sha256=sha256)
        for role, sha256 in subject.sources.items()
    ]
    inputs += [
        other
        for earlier in subject.inputs.values()
        for other in crate.get_entities()
        if other.id.startswith(f"#{earlier}/")
    ]
    action = {
        "@type": "CreateAction",
        "name": f"{subject.step} of {subject.title}",
        "startTime": record.started,
        "endTime": record.finished,
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    return crate.add_action(command, place, inputs, outputs, action)


def _entity(crate: "ROCrate", identifier: str, type_: str, **properties: str) -> Any:
    """The entity with this identifier, added to the crate where it is new."""
    from rocrate.model import ContextEntity

    found = crate.get(identifier)
    properties = {"@type": type_, **properties}
    return found or crate.add(ContextEntity(crate, identifier, properties=properties))


def version(address: str) -> str:
    """The version at the end of a profile's address."""
    return address.rsplit("/", 1)[-1]
