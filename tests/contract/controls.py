"""Running a suite on a part that is broken on purpose."""

from wishbone.core.testing import check_class


def failed(kind, cls, config=None, module=None):
    """Names of the checks that a class fails."""
    return {r.name for r in check_class(kind, cls, config, module=module) if not r.passed}
