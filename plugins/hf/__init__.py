"""Language models of the package transformers as backbones; see README.md."""
