"""Operations on tensors, one folder each: a readable reference and the fast forms beside it."""

if __name__ != "wishbone.kernels":
    raise ImportError(
        f"import this as wishbone.kernels, not {__name__}: run 'pip install -e .' first"
    )
