"""One file per sequence layout: what goes at which position, and nothing else."""

if __name__ != "wishbone.adapters":
    raise ImportError(f"import this as wishbone.adapters, not {__name__}: run 'pip install -e .' first")
