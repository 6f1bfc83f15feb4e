"""Make ``build/types``: the package ``wishbone`` as folders, for tools that read without importing.

::

    python tests/house/link_tree.py

The sources of ``wishbone`` lie in six folders of the repository, and setuptools maps them to one
package when it is installed. A type checker or an editor does not know that mapping; it follows
the links below ``build/types`` instead, which ``[tool.pyright]`` of pyproject.toml names.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRONT_DOOR = "core/wishbone"
"""Folder whose files are those of ``wishbone`` itself."""
LAYERS = ("core", "plugins", "adapters", "kernels", "configs")
"""Folders that are packages inside ``wishbone``."""


def make_link_tree(root=ROOT):
    """Create or update the links below ``root``; return the folder to search for ``wishbone``."""
    folder = root / "build" / "types"
    package = folder / "wishbone"
    package.mkdir(parents=True, exist_ok=True)
    targets = {path.name: path for path in (root / FRONT_DOOR).iterdir() if path.is_file()}
    targets |= {layer: root / layer for layer in LAYERS}
    for link in package.iterdir():
        if link.name not in targets:
            link.unlink()
    for name, target in targets.items():
        link, relative = package / name, os.path.relpath(target, package)
        if not (link.is_symlink() and os.readlink(link) == relative):
            link.unlink(missing_ok=True)
            link.symlink_to(relative)
    return folder


if __name__ == "__main__":
    print(make_link_tree())
