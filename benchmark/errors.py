"""The common form of all errors that a user can cause."""


class BenchmarkError(Exception):
    """Bad input, or an environment that lacks something; the command line exits with status 2.

    Every package derives one type from it. The message states what is wrong, where, what was found, what was
    expected and what to do; parts that do not apply are omitted.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        parts = {"where": where, "found": found, "expected": expected, "remedy": remedy}
        lines = [what, *(f"  {name + ':':<10}{value}" for name, value in parts.items() if value is not None)]
        super().__init__("\n".join(lines))
        self.what, self.where, self.found, self.expected, self.remedy = what, where, found, expected, remedy


class FileError(BenchmarkError):
    """A file or folder cannot be read or written."""


class MissingDependencyError(BenchmarkError):
    """A package, a weight file or a device that a recipe needs is not there."""
