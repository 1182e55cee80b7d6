"""Find out whether a CNN looks at the right thing, and keeps doing so when the scene changes."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AuditError", "FinishedRun", "explain", "load_run", "score", "techniques"]

if TYPE_CHECKING:
    from cnnaudit.api import FinishedRun, explain, load_run, score, techniques
    from cnnaudit.types import AuditError
else:  # a type checker that saw this would take every name for one of the package's

    def __getattr__(name: str) -> Any:
        """Import what is asked for when it is: `cnnaudit --help` must not wait for pandas."""
        if name not in __all__:
            raise AttributeError(f"module 'cnnaudit' has no attribute {name!r}")
        from cnnaudit import api, types

        return getattr(types if name == "AuditError" else api, name)


def __dir__() -> list[str]:
    """Name what is public: tab completion does not ask `__getattr__`."""
    return [*__all__, "__version__"]
