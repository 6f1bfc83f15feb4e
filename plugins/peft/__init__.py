"""LoRA, DoRA, MiSS and PiSSA on any backbone that names its adaptable layers; see README.md."""
