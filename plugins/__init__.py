"""The parts that ship with Wishbone. They register by the same door as anybody else's."""

if __name__ != "wishbone.plugins":
    raise ImportError(f"import this as wishbone.plugins, not {__name__}: run 'pip install -e .' first")
