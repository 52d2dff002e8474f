"""Which job types this process can run: said outright, so gaps and doubles stop it at start."""

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

from taskflow.errors import ConfigurationError
from taskflow.sdk.job_type import JobType


class Registry:
    """Job types by name.

    Raises:
        ConfigurationError: two functions claim one name, or an isolated one can't be imported
            by name.
    """

    def __init__(self, job_types: Iterable[JobType]) -> None:
        self._by_name: dict[str, JobType] = {}
        self._modules: dict[str, str] = {}
        for job_type in job_types:
            self._add(job_type, job_type.handler.__module__)

    @classmethod
    def from_modules(cls, names: Sequence[str], built_in: Iterable[JobType] = ()) -> "Registry":
        """The job types of these modules, those that they import from others included.

        `built_in` are there beside them.

        Raises:
            ConfigurationError: a module can't be imported or defines no job, or as for the class.
        """
        registry = cls(built_in)
        for name in names:
            job_types = _jobs_of(_import(name))
            if not job_types:
                raise ConfigurationError(
                    f"The handlers' module {name!r} defines no job: decorate a function of it with"
                    " '@job(...)'."
                )
            for job_type in job_types:
                registry._add(job_type, name)
        return registry

    def __getitem__(self, name: str) -> JobType:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all job types, sorted."""
        return tuple(sorted(self._by_name))

    def module_of(self, name: str) -> str:
        """The module in which another process finds the job type of this name."""
        return self._modules[name]

    def can_isolate(self, name: str) -> bool:
        """Whether another process can find the job type of this name."""
        return _is_found(self._by_name[name], self._modules[name])

    def _add(self, job_type: JobType, module: str) -> None:
        known = self._by_name.setdefault(job_type.name, job_type)
        if known is not job_type:
            raise ConfigurationError(
                f"The job type {job_type.name!r} is defined twice:"
                f" by {known.where} and by {job_type.where}."
            )
        self._modules[job_type.name] = module
        if job_type.isolation == "process" and not _is_found(job_type, module):
            raise ConfigurationError(
                f"{job_type.where}: with isolation='process' the function must be at the top level"
                " of a module that can be imported."
            )


def find_job_type(module: str, name: str) -> JobType:
    """The job type `name` of a module, as `Registry.module_of` named it to another process.

    Raises:
        ConfigurationError: it isn't there.
    """
    return Registry.from_modules([module])[name]


def _is_found(job_type: JobType, module: str) -> bool:
    if module == "__main__" or module not in sys.modules:
        return False
    return any(found is job_type for found in _jobs_of(sys.modules[module]))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ConfigurationError as error:
        # What `@job` refuses names the function; the line must name the listed module too.
        raise ConfigurationError(f"The handlers' module {name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # importing runs code of the user's
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(
            f"The handlers' module {name!r} can't be imported: {said}"
        ) from error


def _jobs_of(module: ModuleType) -> list[JobType]:
    found: dict[int, JobType] = {}
    for value in list(vars(module).values()):
        # Statically: a lazy object of the user's must not be woken by looking at it.
        job_type = inspect.getattr_static(value, "job_type", None)
        if isinstance(job_type, JobType):
            found[id(job_type)] = job_type
    return list(found.values())
